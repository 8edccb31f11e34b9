//! The seam: finds the container, has `container` do the work, and says errors in the protocol's words.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use protocol::{
    Backend, BandwidthLimits, BulkInfo, BulkMetrics, ByteStream, Capacity, ContainerInfo, ContainerSpec,
    CpuLimits, DiskLimits, Document, Error, FilesQuery, Limits, MemoryLimits, Metrics, NetIn, NetOutRule,
    Process, ProcessSpec, Properties, Result, Sample,
};

use crate::{
    Config, background, check,
    container::{self, Container, Host, Unmade, blocking, outbound},
    end, files, ids,
    network::{Error as NetworkError, PoolError},
    process,
    slots::{Reservation, Slot, Slots},
    spec,
    supervisor::FailureKind,
    telemetry::{self, Metered},
};

/// Containers on this host.
pub struct LinuxBackend {
    pub(crate) host: Arc<Host>,
    slots: Arc<Slots>,
    background: Vec<tokio::task::JoinHandle<()>>,
}

impl LinuxBackend {
    /// Opens the depot and the store, sets up what all containers share, and finds every container of an earlier
    /// server again.
    pub async fn start(config: Config) -> std::result::Result<Arc<LinuxBackend>, check::Error> {
        let host = Arc::new(check::open(config).await?);
        let destroy_all = host.config.destroy_containers_on_startup;
        let found = container::recover(&host, destroy_all).await?;
        let slots = Arc::new(Slots::default());
        for container in found {
            slots.lock().insert(container.handle.clone(), Slot::Ready(container));
        }
        let background = background::start(&host, &slots);
        Ok(Arc::new(LinuxBackend { host, slots, background }))
    }

    fn container(&self, handle: &str) -> Result<Arc<Container>> {
        match self.slots.lock().get(handle) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            Some(Slot::Creating(_)) | None => Err(Error::container_not_found(handle)),
        }
    }

    fn max_containers(&self) -> u64 {
        let subnets = self.host.network.capacity();
        let pool = u64::from(self.host.ids.capacity().unwrap_or(subnets).min(subnets));
        match self.host.config.max_containers {
            0 => pool,
            limit => limit.min(pool),
        }
    }

    fn reserve(&self, handle: &str, properties: &Properties) -> Result<Reservation> {
        let limit = self.max_containers();
        let mut slots = self.slots.lock();
        if slots.contains_key(handle) {
            return Err(Error::HandleInUse { handle: handle.to_owned() });
        }
        if slots.len() as u64 >= limit {
            return Err(Error::MaxContainersReached { limit });
        }
        slots.insert(handle.to_owned(), Slot::Creating(properties.clone()));
        Ok(Reservation::new(&self.slots, handle))
    }

    async fn update(
        &self,
        container: &Arc<Container>,
        change: impl FnOnce(&mut container::Record) + Send + 'static,
    ) -> Result<()> {
        let (host, container) = (Arc::clone(&self.host), Arc::clone(container));
        blocking(move || container.update(&host.depot, change))
            .await
            .and_then(|result| result)
            .map_err(wire)?;
        Ok(())
    }

    fn info_of(&self, handle: &str) -> Result<Arc<Document<ContainerInfo>>> {
        Ok(self.container(handle)?.info(&self.host))
    }

    async fn limits_of(&self, handle: &str) -> Result<Limits> {
        let container = self.container(handle)?;
        let host = Arc::clone(&self.host);
        let limits =
            blocking(move || host.cgroups.applied(&container.handle, &container.record().limits)).await;
        limits.map_err(wire)?.map_err(|error| wire(error.into()))
    }
}

impl Drop for LinuxBackend {
    /// Ends what runs in the background. The containers go on.
    fn drop(&mut self) {
        for task in &self.background {
            task.abort();
        }
    }
}

/// The protocol's word for an error: the one place where that is decided.
pub(crate) fn wire(error: container::Error) -> Error {
    use container::Error as E;
    match &error {
        E::Network(NetworkError::Pool(PoolError::Invalid { field, reason })) => {
            Error::Invalid { field, reason: reason.clone() }
        }
        E::Network(NetworkError::Pool(
            PoolError::SubnetsExhausted { .. }
            | PoolError::Ipv6Exhausted { .. }
            | PoolError::PortsExhausted { .. },
        )) => Error::ServiceUnavailable { message: Error::failed(&error).to_string() },
        // The field that it is about says that it is about the network.
        E::Network(NetworkError::Pool(error)) => Error::failed(error),
        E::Ids(ids::Error::Exhausted { .. }) => {
            Error::ServiceUnavailable { message: Error::failed(&error).to_string() }
        }
        E::Rules(error) => error.clone(),
        E::Going { handle } => Error::DestroyInProgress { handle: handle.clone() },
        E::Stopping(_) => Error::ServiceUnavailable { message: error.to_string() },
        E::Supervisor(process::Error::Refused(failure)) => match failure.kind {
            FailureKind::ExecutableNotFound => Error::ExecutableNotFound { message: failure.message.clone() },
            FailureKind::ProcessNotFound | FailureKind::NotRunning | FailureKind::Other => {
                Error::Failed { message: failure.message.clone() }
            }
        },
        E::Depot { .. }
        | E::Rootfs(_)
        | E::Network(_)
        | E::Ids(_)
        | E::Cgroup(_)
        | E::ProcessExists { .. }
        | E::Supervisor(_)
        | E::PreparedDied(_)
        | E::Destroy { .. } => Error::failed(&error),
    }
}

/// Runs in a task of its own, so that a caller that goes away leaves nothing half-done.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = std::result::Result<T, container::Error>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(container::Error::from).and_then(|done| done).map_err(wire)
}

#[async_trait]
impl Backend for LinuxBackend {
    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn capacity(&self) -> Result<Capacity> {
        let host = Arc::clone(&self.host);
        let max_containers = self.max_containers();
        let capacity = blocking(move || telemetry::capacity(&host, max_containers)).await;
        capacity.and_then(|result| result).map_err(wire)
    }

    async fn create(&self, mut spec: ContainerSpec) -> Result<String> {
        if spec.handle.is_empty() {
            spec.handle = spec::generated("handle")?;
        }
        let handle = spec.handle.clone();
        protocol::check_handle(&handle)?;
        spec::check_supported(&self.host, &spec)?;
        let reservation = self.reserve(&handle, &spec.properties)?;
        let host = Arc::clone(&self.host);
        to_its_end(async move {
            match container::create(&host, reservation.handle().to_owned(), spec).await {
                Ok(container) => {
                    reservation.keep(container);
                    Ok(())
                }
                Err(Unmade { cause, left }) => {
                    // Its handle and addresses are free when the rest of it is gone.
                    if let Some(container) = left {
                        container.half_destroyed.store(true, Ordering::SeqCst);
                        reservation.keep(container);
                        host.half_destroyed.notify_one();
                    }
                    Err(cause)
                }
            }
        })
        .await?;
        Ok(handle)
    }

    async fn destroy(&self, handle: &str) -> Result<()> {
        let container = self.container(handle)?;
        if container.destroying.swap(true, Ordering::SeqCst) {
            return Err(Error::DestroyInProgress { handle: handle.to_owned() });
        }
        let (host, slots) = (Arc::clone(&self.host), Arc::clone(&self.slots));
        to_its_end(async move { end::remove(&host, &slots, &container).await }).await
    }

    async fn list(&self, filter: &Properties) -> Result<Arc<[String]>> {
        Ok(self.slots.lock().list(filter))
    }

    async fn info(&self, handle: &str) -> Result<Arc<Document<ContainerInfo>>> {
        self.info_of(handle)
    }

    async fn bulk_info(&self, handles: &[String]) -> Result<BulkInfo> {
        Ok(handles
            .iter()
            .map(|handle| (handle.clone(), self.info_of(handle).map(|info| ContainerInfo::clone(&info))))
            .collect())
    }

    async fn metrics(&self, handle: &str) -> Result<Metrics> {
        telemetry::metrics(&self.host, self.container(handle)?).await.map_err(wire)
    }

    async fn bulk_metrics(&self, handles: &[String]) -> Result<BulkMetrics> {
        let mut apart = None;
        let find = |handle: &String| {
            let found = self.container(handle).map(Metered::Container).or_else(|unknown| {
                let apart = apart.get_or_insert_with(|| telemetry::processes_apart(&self.slots));
                apart.get(handle).cloned().map(Metered::ProcessOf).ok_or(unknown)
            });
            (handle.clone(), found)
        };
        let found = handles.iter().map(find).collect();
        telemetry::bulk_metrics(&self.host, found).await.map_err(wire)
    }

    async fn stop(&self, handle: &str, kill: bool) -> Result<()> {
        let container = self.container(handle)?;
        let host = Arc::clone(&self.host);
        to_its_end(async move { end::stop(&host, &container, kill).await }).await
    }

    async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<()> {
        let container = self.container(handle)?;
        self.update(&container, move |record| record.grace_time = grace_time).await
    }

    async fn grace_time(&self, handle: &str) -> Result<Duration> {
        Ok(self.container(handle)?.record().grace_time)
    }

    async fn stream_in(&self, handle: &str, query: FilesQuery, tar: ByteStream) -> Result<()> {
        files::stream_in(&self.container(handle)?.supervisor, query, tar).await
    }

    async fn stream_out(&self, handle: &str, query: FilesQuery) -> Result<ByteStream> {
        files::stream_out(&self.container(handle)?.supervisor, query).await
    }

    async fn bandwidth_limits(&self, handle: &str) -> Result<BandwidthLimits> {
        Ok(self.limits_of(handle).await?.bandwidth)
    }

    async fn cpu_limits(&self, handle: &str) -> Result<CpuLimits> {
        Ok(self.limits_of(handle).await?.cpu)
    }

    async fn disk_limits(&self, handle: &str) -> Result<DiskLimits> {
        Ok(self.limits_of(handle).await?.disk)
    }

    async fn memory_limits(&self, handle: &str) -> Result<MemoryLimits> {
        Ok(self.limits_of(handle).await?.memory)
    }

    async fn net_in(&self, handle: &str, ports: NetIn) -> Result<NetIn> {
        let container = self.container(handle)?;
        let network = &self.host.network;
        let assignment = container.record().assignment.clone();
        let error = |error: crate::network::Error| wire(error.into());
        let reserved = network.reserve_ports(&assignment, &[ports]).map_err(error)?;
        let mapped =
            *reserved.first().ok_or_else(|| Error::Failed { message: "no port was reserved".into() })?;
        // The record first: a rule that no record knows would never go.
        if let Err(error) = self.update(&container, move |record| record.ports.push(mapped)).await {
            network.unreserve_ports(&assignment, &reserved);
            return Err(error);
        }
        let wishes = || container.record().wishes();
        if let Err(cause) = network.open_ports(&assignment, handle, &reserved, wishes).await {
            // What failed is the error to tell; a rule that is left goes with the container.
            if network.close_ports(&assignment, &reserved, wishes).await.is_ok() {
                self.update(&container, move |record| record.ports.retain(|port| *port != mapped)).await?;
            }
            return Err(error(cause));
        }
        Ok(mapped)
    }

    async fn net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        let (host, container) = (Arc::clone(&self.host), self.container(handle)?);
        to_its_end(async move { outbound::add(&host, &container, &rules).await }).await
    }

    async fn replace_net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        let (host, container) = (Arc::clone(&self.host), self.container(handle)?);
        to_its_end(async move { outbound::replace(&host, &container, &rules).await }).await
    }

    async fn run(&self, handle: &str, spec: ProcessSpec) -> Result<Process> {
        let container = self.container(handle)?;
        let (request, own) = spec::run_request(&container, spec)?;
        let id = request.id.clone();
        if container.processes.get(&id).is_some() {
            return Err(Error::Failed { message: format!("process {id} already exists") });
        }
        let host = Arc::clone(&self.host);
        // A process that was started is known even if the caller has gone away.
        let entry = to_its_end(async move { container::run(&host, &container, request, own).await }).await?;
        Ok(entry.from_start())
    }

    async fn attach(&self, handle: &str, process_id: &str) -> Result<Process> {
        let container = self.container(handle)?;
        let entry =
            container.processes.get(process_id).ok_or_else(|| Error::process_not_found(process_id))?;
        Ok(entry.from_here())
    }

    async fn properties(&self, handle: &str) -> Result<Properties> {
        Ok(self.container(handle)?.record().properties.clone())
    }

    async fn property(&self, handle: &str, key: &str) -> Result<String> {
        let record = self.container(handle)?.record();
        record.properties.get(key).cloned().ok_or_else(|| Error::PropertyNotFound { key: key.to_owned() })
    }

    async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<()> {
        let container = self.container(handle)?;
        let (key, value) = (key.to_owned(), value.to_owned());
        self.update(&container, move |record| {
            record.properties.insert(key, value);
        })
        .await
    }

    async fn remove_property(&self, handle: &str, key: &str) -> Result<()> {
        let container = self.container(handle)?;
        self.property(handle, key).await?;
        let key = key.to_owned();
        self.update(&container, move |record| {
            record.properties.remove(&key);
        })
        .await
    }

    fn telemetry(&self) -> Vec<Sample> {
        telemetry::samples(&self.host, &self.slots)
    }
}
