//! Making a container, all or nothing.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use protocol::ContainerSpec;

use super::{
    Container, Error, Host, Record, State, blocking, destroy, etc,
    plugged::start_plugged,
    prepared::{self, Place, Prepared},
};
use crate::{
    cgroup::{Devices, Leaf},
    defence::Defence,
    ids::IdLease,
    network::Lease,
    process::{Connection, Error as ProcessError, Supervisor, nonsense},
    rootfs::Image,
    spec,
    supervisor::{OwnFile, Reply, Request, Rootfs, StartRequest},
};

/// How long a supervisor may take to make its container.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no container, and what could not be undone of it.
pub struct Unmade {
    pub cause: Error,
    pub left: Option<Arc<Container>>,
}

impl<E: Into<Error>> From<E> for Unmade {
    fn from(cause: E) -> Self {
        Unmade { cause: cause.into(), left: None }
    }
}

/// Makes the container of that handle, which the caller has reserved. On error nothing of it is left, but for what the
/// error says.
pub async fn create(host: &Arc<Host>, handle: String, spec: ContainerSpec) -> Result<Arc<Container>, Unmade> {
    match try_create(host, handle.clone(), spec.clone()).await {
        // Once more: it died for no reason of the container's.
        Err(Unmade { cause: Error::PreparedDied(_), left: None }) => try_create(host, handle, spec).await,
        tried => tried,
    }
}

async fn try_create(host: &Arc<Host>, handle: String, spec: ContainerSpec) -> Result<Arc<Container>, Unmade> {
    let rootfs = spec.rootfs_uri().unwrap_or_default().to_owned();
    let finder = Arc::clone(host);
    let image = blocking(move || finder.store.image(&rootfs)).await??;
    let Place { lease, ids, prepared } = prepared::place(host, &spec.network, spec.privileged).await?;
    let assignment = lease.attachment();
    let ports = match host.network.reserve_ports(&assignment, &spec.net_in) {
        Ok(ports) => ports,
        Err(error) => {
            host.network.forgo(lease).await?;
            return Err(error.into());
        }
    };
    let mut record = Record {
        handle,
        state: State::Creating,
        created_at: SystemTime::now(),
        grace_time: spec.grace_time,
        privileged: spec.privileged,
        ids: ids.own_ids(),
        image: Some(image.lower.clone()),
        env: spec.env.clone(),
        properties: spec.properties.clone(),
        limits: spec.limits,
        assignment,
        ports,
        net_out: spec.net_out.clone(),
        events: Vec::new(),
        oom_kills_seen: 0,
        apart: BTreeMap::new(),
    };
    match make(host, &mut record, &lease, &ids, prepared, image, spec).await {
        Ok(connection) => Ok(Container::new(host, record, lease, ids, Some(connection))),
        Err(cause) => {
            let undone = destroy(host, &record).await;
            let left = undone.err().map(|error| {
                let error = protocol::Error::failed(&error);
                tracing::error!(handle = record.handle, %error, "cannot undo a create");
                Container::new(host, record, lease, ids, None)
            });
            Err(Unmade { cause, left })
        }
    }
}

/// What has come of it is in the record, also after an error.
async fn make(
    host: &Arc<Host>,
    record: &mut Record,
    lease: &Lease,
    ids: &IdLease,
    prepared: Option<Prepared>,
    image: Image,
    spec: ContainerSpec,
) -> Result<Connection, Error> {
    let (maker, planned, root) = (Arc::clone(host), record.clone(), ids.root());
    let files = blocking(move || {
        let directory = maker.depot.make(&planned.handle)?;
        maker.depot.write(&planned)?;
        prepare(&maker, &planned, &directory, root, image, &spec)
    });
    let prepared = match prepared {
        Some(prepared) => match start(&prepared.connection, files.await??).await {
            Err(Error::Supervisor(error)) if error.is_gone() => return Err(Error::PreparedDied(error)),
            started => started.map(|()| prepared)?,
        },
        None if record.assignment.is_plugged() => start_plugged(host, record, ids, files.await??).await?,
        None => start_cold(host, lease, ids, files).await?,
    };
    prepared.limit_bandwidth(host, &record.assignment, record.limits.bandwidth).await?;
    if !record.ports.is_empty() || !record.net_out.is_empty() {
        let Record { assignment, handle, ports, net_out, .. } = &*record;
        host.network.open(assignment, handle, ports, net_out).await?;
    }
    let (writer, made) = (Arc::clone(host), Record { state: State::Active, ..record.clone() });
    *record = blocking(move || writer.depot.write(&made).map(|()| made)).await??;
    Ok(prepared.connection)
}

/// Has a supervisor make the container.
pub async fn start(connection: &Connection, Files { request, listener }: Files) -> Result<(), Error> {
    let start = async {
        let listener: Vec<_> = listener.iter().map(AsFd::as_fd).collect();
        connection.send(&Request::Start(request), &listener).await?;
        connection.reply().await
    };
    let started = tokio::time::timeout(START_LIMIT, start).await;
    match started.unwrap_or(Err(ProcessError::Silent(START_LIMIT))) {
        Ok((Reply::Started, _)) => Ok(()),
        Ok((other, _)) => Err(nonsense(&other).into()),
        Err(error) => {
            // Who says why it cannot goes when it is told to.
            if error.refusal().is_none() {
                connection.kill();
            }
            Err(error.into())
        }
    }
}

/// The same where nothing was prepared. The network is made while the container is.
async fn start_cold(
    host: &Arc<Host>,
    lease: &Lease,
    ids: &IdLease,
    files: impl Future<Output = Result<Result<Files, Error>, Error>>,
) -> Result<Prepared, Error> {
    // All to their ends, so that what an undo undoes is not still being made.
    let (prepared, files) = tokio::join!(Prepared::make(host, ids, None), files);
    let (prepared, files) = (prepared?, files??);
    let attachment = lease.attachment();
    let (attached, started) =
        tokio::join!(prepared.attach(host, &attachment), start(&prepared.connection, files));
    started.and(attached).map(|()| prepared)
}

/// What a container has on the host's file systems before it starts.
pub struct Files {
    pub request: Box<StartRequest>,
    /// Where its supervisor is to be found; none: it has it.
    pub listener: Option<OwnedFd>,
}

/// Everything that does not need the container's namespaces.
fn prepare(
    host: &Host,
    record: &Record,
    directory: &Path,
    root: (u32, u32),
    image: Image,
    spec: &ContainerSpec,
) -> Result<Files, Error> {
    let handle = &record.handle;
    let listed = !record.privileged && host.config.defences.have(Defence::Devices);
    let devices = if listed { Devices::Listed } else { Devices::All };
    host.cgroups.create(handle, &record.limits, devices)?;
    let layer = host.store.create_write_layer(handle, root)?;
    let rootfs = Rootfs::Overlay { lower: image.lower, upper: layer.upper, work: layer.work };
    let request = StartRequest {
        handle: handle.clone(),
        hostname: etc::hostname(handle),
        mount_point: host.depot.mount_point(),
        rootfs,
        idmapped_binds: record.ids.is_some(),
        own_files: own_files(host, record),
        binds: spec::binds(&spec.bind_mounts),
        init_cgroup: host.cgroups.entry(handle, Leaf::Init),
        main_cgroup: host.cgroups.entry(handle, Leaf::Main),
        cgroup_views: if record.privileged { Vec::new() } else { host.cgroups.views(handle) },
        open_files: host.open_files,
        hardening: host.config.hardening.clone(),
        defences: host.config.defences.clone(),
    };
    Ok(Files { request: Box::new(request), listener: Some(Supervisor::at(directory).listen()?) })
}

/// The container's files that say where it is on the network.
pub fn own_files(host: &Host, record: &Record) -> Vec<OwnFile> {
    let Record { handle, assignment, .. } = record;
    etc::files(handle, &assignment.addresses(), assignment.dns(), &host.config.network.dns)
}
