//! The seam.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use protocol::{
    Backend, BandwidthLimits, BulkInfo, BulkMetrics, ByteStream, Capacity, ContainerInfo, ContainerSpec,
    CpuLimits, DiskLimits, Document, Error, FilesQuery, MemoryLimits, Metrics, NetIn, NetOutRule, Process,
    ProcessSpec, Properties, Result, Sample, check_handle,
};

use crate::{
    FakeOptions, Faults, Op, Programs, User,
    addresses::Subnets,
    archive,
    container::{Container, Phase, metrics_of_process},
    containers::Containers,
    files::Tree,
    network::Pool,
    process::{Counter, FakeProcess, Rings},
    run, spec,
    sync::lock,
    telemetry::{self, Counts},
    users,
};

/// Containers in memory. Cheap to clone: clones are the same backend.
#[derive(Clone)]
pub struct FakeBackend(Arc<Inner>);

struct Inner {
    options: FakeOptions,
    programs: Arc<Programs>,
    users: Vec<User>,
    faults: Arc<Faults>,
    containers: Mutex<Containers>,
    subnets: Subnets,
    ports: Arc<Pool>,
    handles: Counter,
    process_ids: Counter,
    oom_kills: Arc<AtomicU64>,
    dropped_bytes: Arc<AtomicU64>,
}

impl Default for FakeBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeBackend {
    /// A fake with the default options.
    pub fn new() -> Self {
        Self::with_options(FakeOptions::default())
    }

    /// A fake as told.
    pub fn with_options(options: FakeOptions) -> Self {
        let mut users = vec![User::root()];
        users.extend(options.users.iter().cloned());
        FakeBackend(Arc::new(Inner {
            programs: Arc::new(options.programs.clone()),
            users,
            faults: Arc::default(),
            containers: Mutex::default(),
            subnets: Subnets::new(options.network_pool, options.network_pool_subnets),
            ports: Pool::new(options.port_pool_start.into(), options.port_pool_size.into()),
            handles: Counter::default(),
            process_ids: Counter::default(),
            oom_kills: Arc::default(),
            dropped_bytes: Arc::default(),
            options,
        }))
    }

    /// What is to go wrong.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Makes a container's metrics these from now on.
    pub fn set_metrics(&self, handle: &str, metrics: Metrics) -> Result<()> {
        self.0.find(handle).map(|container| container.set_metrics(metrics))
    }

    /// Adds an event to a container's `info`.
    pub fn add_event(&self, handle: &str, event: &str) -> Result<()> {
        self.0.find(handle).map(|container| container.add_event(event))
    }

    /// The outbound rules that a container has, in the order in which it was given them.
    pub fn net_out_rules(&self, handle: &str) -> Result<Vec<NetOutRule>> {
        self.0.find(handle).map(|container| container.net_out_rules())
    }

    /// The container `handle`, once `op` has passed its faults.
    async fn enter(&self, op: Op, handle: &str) -> Result<Arc<Container>> {
        self.0.faults.enter(op).await?;
        self.0.find(handle)
    }
}

impl Inner {
    /// Phases change under the lock of the list that shows them.
    fn enter_phase(&self, container: &Container, phase: Phase) {
        let mut containers = lock(&self.containers);
        containers.listed = None;
        container.phase.send_replace(phase);
    }

    fn begin_destroy(&self, container: &Container) -> Result<()> {
        let mut containers = lock(&self.containers);
        match container.phase() {
            Phase::Creating | Phase::Gone => return Err(Error::container_not_found(&container.handle)),
            Phase::Destroying => return Err(Error::DestroyInProgress { handle: container.handle.clone() }),
            Phase::Created => {}
        }
        containers.listed = None;
        container.phase.send_replace(Phase::Destroying);
        Ok(())
    }

    /// The container of that handle, if it can be used.
    fn find(&self, handle: &str) -> Result<Arc<Container>> {
        let container = lock(&self.containers).by_handle.get(handle).cloned();
        let usable = container.filter(|c| matches!(c.phase(), Phase::Created | Phase::Destroying));
        usable.ok_or_else(|| Error::container_not_found(handle))
    }

    /// What the process of that id uses, if it is counted by itself.
    fn metrics_of_process(&self, id: &str) -> Option<Metrics> {
        let containers: Vec<_> = lock(&self.containers).by_handle.values().cloned().collect();
        containers.iter().find_map(|container| {
            let process = container.process(id).ok().filter(|process| process.is_running())?;
            Some(metrics_of_process(container, process.apart.as_ref()?))
        })
    }

    fn max_containers(&self) -> u64 {
        self.options.max_containers.min(self.options.network_pool_subnets.into())
    }

    fn check_image(&self, uri: &str) -> Result<()> {
        let on_disk = uri.starts_with('/')
            || ["raw:", "oci:", "file:", "docker-archive:", "preloaded:"].iter().any(|s| uri.starts_with(s));
        if on_disk && !self.options.images.iter().any(|image| image == uri) {
            return Err(Error::invalid("image.uri", format!("{uri}: no such root filesystem")));
        }
        Ok(())
    }

    /// Takes the handle: from here on the container exists, half-made.
    fn reserve(&self, spec: &ContainerSpec) -> Result<Arc<Container>> {
        let mut containers = lock(&self.containers);
        let handle = match spec.handle.as_str() {
            "" => loop {
                let handle = format!("gen-{}", self.handles.next());
                if !containers.by_handle.contains_key(&handle) {
                    break handle;
                }
            },
            handle => handle.to_owned(),
        };
        if containers.by_handle.contains_key(&handle) {
            return Err(Error::HandleInUse { handle });
        }
        let limit = self.max_containers();
        if containers.by_handle.len() as u64 >= limit {
            return Err(Error::MaxContainersReached { limit });
        }
        let files = Tree::base(&self.users);
        let container = Container::new(handle.clone(), spec, files, self.oom_kills.clone());
        containers.by_handle.insert(handle, container.clone());
        Ok(container)
    }

    /// Makes the rest of a container whose handle is taken.
    async fn furnish(&self, container: &Container, spec: &ContainerSpec) -> Result<()> {
        self.faults.enter(Op::Create).await?;
        container.set_addresses(self.subnets.take(&spec.network)?);
        spec.net_in.iter().try_for_each(|ports| container.net_in(&self.ports, *ports).map(drop))
    }

    async fn remove(&self, container: &Container) {
        container.close().await;
        lock(&self.containers).by_handle.remove(&container.handle);
        self.enter_phase(container, Phase::Gone);
    }
}

/// Runs `work` to its end, also if the caller goes away.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Error::failed(&error)))
}

fn streaming_in(reason: impl std::fmt::Display) -> Error {
    Error::Failed { message: format!("error streaming in: {reason}") }
}

#[async_trait]
impl Backend for FakeBackend {
    async fn ping(&self) -> Result<()> {
        self.0.faults.enter(Op::Ping).await
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.0.faults.enter(Op::Capacity).await?;
        Ok(Capacity {
            memory_in_bytes: self.0.options.memory_bytes,
            disk_in_bytes: self.0.options.disk_bytes,
            schedulable_disk_in_bytes: 0,
            max_containers: self.0.max_containers(),
        })
    }

    async fn create(&self, spec: ContainerSpec) -> Result<String> {
        self.0.check_image(spec.rootfs_uri()?)?;
        spec::check_env(&spec.env)?;
        spec::check_bind_mounts(&spec.bind_mounts)?;
        NetOutRule::check_all(&[], &spec.net_out)?;
        if !spec.handle.is_empty() {
            check_handle(&spec.handle)?;
        }
        let container = self.0.reserve(&spec)?;
        let inner = self.0.clone();
        detached(async move {
            if let Err(error) = inner.furnish(&container, &spec).await {
                inner.remove(&container).await;
                return Err(error);
            }
            inner.enter_phase(&container, Phase::Created);
            Ok(container.handle.clone())
        })
        .await
    }

    async fn destroy(&self, handle: &str) -> Result<()> {
        let container = lock(&self.0.containers).by_handle.get(handle).cloned();
        let container = container.ok_or_else(|| Error::container_not_found(handle))?;
        // One that is being made is destroyed as soon as it is made. Cannot fail: the sender is in `container`.
        let _ = container.phase.subscribe().wait_for(|phase| *phase != Phase::Creating).await;
        self.0.begin_destroy(&container)?;
        let inner = self.0.clone();
        detached(async move {
            if let Err(error) = inner.faults.enter(Op::Destroy).await {
                inner.enter_phase(&container, Phase::Created);
                return Err(error);
            }
            inner.remove(&container).await;
            Ok(())
        })
        .await
    }

    async fn list(&self, filter: &Properties) -> Result<Arc<[String]>> {
        self.0.faults.enter(Op::List).await?;
        Ok(lock(&self.0.containers).list(filter))
    }

    async fn info(&self, handle: &str) -> Result<Arc<Document<ContainerInfo>>> {
        let container = self.enter(Op::Info, handle).await?;
        Ok(Document::new(container.info(&self.0.options.external_ip)))
    }

    async fn bulk_info(&self, handles: &[String]) -> Result<BulkInfo> {
        self.0.faults.enter(Op::BulkInfo).await?;
        let info = |handle: &String| {
            let found = self.0.find(handle);
            (handle.clone(), found.map(|container| container.info(&self.0.options.external_ip)))
        };
        Ok(handles.iter().map(info).collect())
    }

    async fn metrics(&self, handle: &str) -> Result<Metrics> {
        Ok(self.enter(Op::Metrics, handle).await?.metrics())
    }

    async fn bulk_metrics(&self, handles: &[String]) -> Result<BulkMetrics> {
        self.0.faults.enter(Op::BulkMetrics).await?;
        let metrics = |handle: &String| {
            let found = self.0.find(handle).map(|container| container.metrics());
            let found = found.or_else(|unknown| self.0.metrics_of_process(handle).ok_or(unknown));
            (handle.clone(), found)
        };
        Ok(handles.iter().map(metrics).collect())
    }

    async fn stop(&self, handle: &str, kill: bool) -> Result<()> {
        let container = self.0.find(handle)?;
        let inner = self.0.clone();
        detached(async move {
            inner.faults.enter(Op::Stop).await?;
            container.stop(kill).await;
            Ok(())
        })
        .await
    }

    async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<()> {
        self.enter(Op::SetGraceTime, handle).await?.set_grace_time(grace_time);
        Ok(())
    }

    async fn grace_time(&self, handle: &str) -> Result<Duration> {
        Ok(self.enter(Op::GraceTime, handle).await?.grace_time())
    }

    async fn stream_in(&self, handle: &str, query: FilesQuery, mut tar: ByteStream) -> Result<()> {
        let container = self.enter(Op::StreamIn, handle).await?;
        let user = users::find(&self.0.users, &query.user).map_err(streaming_in)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = tar.next().await {
            bytes.extend_from_slice(&chunk.map_err(streaming_in)?);
        }
        let mut files = lock(&container.files);
        let mut changed = files.clone();
        archive::unpack(&mut changed, &query.path, &user, &bytes).map_err(streaming_in)?;
        *files = changed;
        Ok(())
    }

    async fn stream_out(&self, handle: &str, query: FilesQuery) -> Result<ByteStream> {
        let container = self.enter(Op::StreamOut, handle).await?;
        let user = users::find(&self.0.users, &query.user)?;
        let packed = archive::pack(&lock(&container.files), &query.path, &user);
        let mut tar: Bytes = packed.map_err(|message| Error::Failed { message })?;
        let broken = self.0.faults.take_broken_stream_out();
        if broken.is_some() {
            tar.truncate(tar.len() / 2);
        }
        let last = broken.map(|message| Err(std::io::Error::other(message)));
        Ok(Box::pin(stream::iter([Ok(tar)].into_iter().chain(last))))
    }

    async fn bandwidth_limits(&self, handle: &str) -> Result<BandwidthLimits> {
        Ok(self.enter(Op::BandwidthLimits, handle).await?.limits.bandwidth)
    }

    async fn cpu_limits(&self, handle: &str) -> Result<CpuLimits> {
        Ok(self.enter(Op::CpuLimits, handle).await?.limits.cpu)
    }

    async fn disk_limits(&self, handle: &str) -> Result<DiskLimits> {
        Ok(self.enter(Op::DiskLimits, handle).await?.limits.disk)
    }

    async fn memory_limits(&self, handle: &str) -> Result<MemoryLimits> {
        Ok(self.enter(Op::MemoryLimits, handle).await?.limits.memory)
    }

    async fn net_in(&self, handle: &str, ports: NetIn) -> Result<NetIn> {
        self.enter(Op::NetIn, handle).await?.net_in(&self.0.ports, ports)
    }

    async fn net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        self.enter(Op::NetOut, handle).await?.net_out(rules)
    }

    async fn replace_net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        self.enter(Op::ReplaceNetOut, handle).await?.replace_net_out(rules)
    }

    async fn run(&self, handle: &str, spec: ProcessSpec) -> Result<Process> {
        let container = self.enter(Op::Run, handle).await?;
        self.0.check_image(&spec.image.uri)?;
        let id = match spec.id.as_str() {
            "" => format!("proc-{}", self.0.process_ids.next()),
            id => id.to_owned(),
        };
        let rings = Rings { bytes: self.0.options.ring_bytes, dropped_bytes: self.0.dropped_bytes.clone() };
        let process = FakeProcess::new(id, &spec, &rings, self.0.faults.clone());
        run::start(&container, &spec, process, &self.0.users, &self.0.programs).await
    }

    async fn attach(&self, handle: &str, process_id: &str) -> Result<Process> {
        Ok(self.enter(Op::Attach, handle).await?.process(process_id)?.attached())
    }

    async fn properties(&self, handle: &str) -> Result<Properties> {
        Ok(self.enter(Op::Properties, handle).await?.properties())
    }

    async fn property(&self, handle: &str, key: &str) -> Result<String> {
        let value = self.enter(Op::Property, handle).await?.properties().remove(key);
        value.ok_or_else(|| Error::PropertyNotFound { key: key.into() })
    }

    async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<()> {
        self.enter(Op::SetProperty, handle).await?.set_property(key, value);
        Ok(())
    }

    async fn remove_property(&self, handle: &str, key: &str) -> Result<()> {
        let removed = self.enter(Op::RemoveProperty, handle).await?.remove_property(key);
        removed.map(drop).ok_or_else(|| Error::PropertyNotFound { key: key.into() })
    }

    fn telemetry(&self) -> Vec<Sample> {
        telemetry::samples(&Counts {
            containers: lock(&self.0.containers).by_handle.values().cloned().collect(),
            subnets: &self.0.subnets.pool,
            ports: &self.0.ports,
            oom_kills: self.0.oom_kills.load(Ordering::Relaxed),
            dropped_bytes: self.0.dropped_bytes.load(Ordering::Relaxed),
        })
    }
}
