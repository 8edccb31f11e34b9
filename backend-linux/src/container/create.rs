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
    supervisor::{Reply, Request, Rootfs, StartRequest},
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
    let Place { lease, ids, connection } = prepared::place(host, &spec.network, spec.privileged).await?;
    let assignment = lease.assignment().clone();
    let ports = match host.network.reserve_ports(&assignment, &spec.net_in) {
        Ok(ports) => ports,
        Err(error) => {
            host.network.release(&assignment, &[]).await?;
            return Err(error.into());
        }
    };
    let record = Record {
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
    match make(host, &record, &lease, &ids, connection, image, spec).await {
        Ok((record, connection)) => Ok(Container::new(host, record, lease, ids, Some(connection))),
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

async fn make(
    host: &Arc<Host>,
    record: &Record,
    lease: &Lease,
    ids: &IdLease,
    connection: Option<Connection>,
    image: Image,
    spec: ContainerSpec,
) -> Result<(Record, Connection), Error> {
    let (maker, planned, root) = (Arc::clone(host), record.clone(), ids.root());
    let files = blocking(move || {
        let directory = maker.depot.make(&planned.handle)?;
        maker.depot.write(&planned)?;
        prepare(&maker, &planned, &directory, root, image, &spec)
    });
    let connection = match connection {
        Some(connection) => match start(&connection, files.await??).await {
            Err(Error::Supervisor(error)) if error.is_gone() => return Err(Error::PreparedDied(error)),
            started => started.map(|()| connection)?,
        },
        None => start_cold(host, lease, ids, files).await?,
    };
    if !record.ports.is_empty() || !record.net_out.is_empty() {
        let Record { assignment, handle, ports, net_out, .. } = record;
        host.network.open(assignment, handle, ports, net_out).await?;
    }
    let (writer, mut record) = (Arc::clone(host), record.clone());
    blocking(move || {
        record.state = State::Active;
        writer.depot.write(&record)?;
        Ok((record, connection))
    })
    .await?
}

/// Has a supervisor make the container.
async fn start(connection: &Connection, files: Files) -> Result<(), Error> {
    let start = async {
        connection.send(&files.request, &[files.listener.as_fd()]).await?;
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
) -> Result<Connection, Error> {
    // All to their ends, so that what an undo undoes is not still being made.
    let (prepared, files) = tokio::join!(Prepared::make(host, ids), files);
    let (prepared, files) = (prepared?, files??);
    let (attached, started) = tokio::join!(prepared.attach(host, lease), start(&prepared.connection, files));
    started.and(attached).map(|()| prepared.connection)
}

/// What a container has on the host's file systems before it starts.
struct Files {
    request: Request,
    /// Where its supervisor is to be found.
    listener: OwnedFd,
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
        own_files: etc::files(handle, &record.assignment.addresses(), &host.config.network.dns),
        binds: spec::binds(&spec.bind_mounts),
        init_cgroup: host.cgroups.entry(handle, Leaf::Init),
        main_cgroup: host.cgroups.entry(handle, Leaf::Main),
        cgroup_views: if record.privileged { Vec::new() } else { host.cgroups.views(handle) },
        open_files: host.open_files,
        hardening: host.config.hardening.clone(),
        defences: host.config.defences.clone(),
    };
    Ok(Files { request: Request::Start(Box::new(request)), listener: Supervisor::at(directory).listen()? })
}
