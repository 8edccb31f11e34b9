//! Making a container, all or nothing.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use protocol::{BindMountMode, BindMountOrigin, ContainerSpec};

use super::{Container, Error, Host, Record, State, blocking, destroy, etc};
use crate::{
    cgroup::Leaf,
    network::Assignment,
    process::{Error as ProcessError, Supervisor, nonsense},
    rootfs::Image,
    supervisor::{Bind, IdRange, Reply, Request, Rootfs, StartRequest},
};

/// How long a supervisor may take to make its container.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Root inside is the highest id outside, every other id is itself.
const ID_MAP: [IdRange; 2] = [
    IdRange { inside: 0, outside: 4_294_967_294, count: 1 },
    IdRange { inside: 1, outside: 1, count: 4_294_967_293 },
];

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
    let rootfs = spec.rootfs_uri().unwrap_or_default().to_owned();
    let finder = Arc::clone(host);
    let image = blocking(move || finder.store.image(&rootfs)).await??;
    let lease = host.network.plan(&spec.network)?;
    let assignment = lease.assignment().clone();
    let ports = host.network.reserve_ports(&assignment, &spec.net_in)?;
    let record = Record {
        handle,
        state: State::Creating,
        created_at: SystemTime::now(),
        grace_time: spec.grace_time,
        privileged: spec.privileged,
        env: spec.env.clone(),
        properties: spec.properties.clone(),
        limits: spec.limits,
        assignment,
        ports,
        net_out: spec.net_out.clone(),
        events: Vec::new(),
        oom_kills_seen: 0,
    };
    match make(host, &record, image, spec).await {
        Ok(record) => Ok(Container::new(host, record, lease)),
        Err(cause) => {
            let undone = destroy(host, &record).await;
            let left = undone.err().map(|error| {
                let error = protocol::Error::failed(&error);
                tracing::error!(handle = record.handle, %error, "cannot undo a create");
                Container::new(host, record, lease)
            });
            Err(Unmade { cause, left })
        }
    }
}

async fn make(host: &Arc<Host>, record: &Record, image: Image, spec: ContainerSpec) -> Result<Record, Error> {
    let (noter, planned) = (Arc::clone(host), record.clone());
    let directory = blocking(move || {
        let directory = noter.depot.make(&planned.handle)?;
        noter.depot.write(&planned)?;
        Ok::<_, Error>(directory)
    })
    .await??;
    let supervisor = Supervisor::at(&directory);
    let (starter, starting, name) = (Arc::clone(host), supervisor.clone(), record.handle.clone());
    let started = blocking(move || starting.start(&starter.init, &name));
    let (maker, planned) = (Arc::clone(host), record.clone());
    let prepared = blocking(move || prepare(&maker, &planned, &directory, image, &spec));
    // Both to their ends, so that what an undo undoes is not still being made.
    let (started, prepared) = tokio::join!(started, prepared);
    started??;
    let request = prepared??;
    let start = start(host, &record.assignment, &supervisor, &request);
    tokio::time::timeout(START_LIMIT, start).await.map_err(|_| ProcessError::Silent(START_LIMIT))??;
    if !record.ports.is_empty() {
        host.network.open_ports(&record.assignment, &record.ports).await?;
    }
    let (writer, mut record) = (Arc::clone(host), record.clone());
    blocking(move || {
        record.state = State::Active;
        writer.depot.write(&record)?;
        Ok(record)
    })
    .await?
}

/// Has the supervisor make the container, and makes its network as soon as there is a namespace for it.
async fn start(
    host: &Host,
    assignment: &Assignment,
    supervisor: &Supervisor,
    request: &Request,
) -> Result<(), Error> {
    let connection = supervisor.open().await?;
    connection.send(request, &[]).await?;
    let (netns, netlink) = match connection.reply().await? {
        (Reply::Namespaces, fds) => <[OwnedFd; 2]>::try_from(fds)
            .map_err(|fds| ProcessError::Nonsense(format!("namespaces with {} descriptors", fds.len())))?
            .into(),
        (other, _) => return Err(nonsense(&other).into()),
    };
    let network = async { Ok(host.network.attach(assignment, netns.as_fd(), netlink).await?) };
    let rest = async {
        match connection.reply().await? {
            (Reply::Started, _) => Ok(()),
            (other, _) => Err(nonsense(&other).into()),
        }
    };
    // Both to their ends, so that what an undo undoes is not still being made.
    let (network, rest): (Result<(), Error>, Result<(), Error>) = tokio::join!(network, rest);
    rest.and(network)
}

/// Everything that does not need the container's namespaces.
fn prepare(
    host: &Host,
    record: &Record,
    directory: &Path,
    image: Image,
    spec: &ContainerSpec,
) -> Result<Request, Error> {
    let handle = &record.handle;
    host.cgroups.create(handle, &record.limits)?;
    let owner = if record.privileged { 0 } else { ID_MAP[0].outside };
    let layer = host.store.create_write_layer(handle, (owner, owner))?;
    let rootfs = Rootfs::Overlay { lower: image.lower, upper: layer.upper, work: layer.work };
    let mount_point = directory.join("root");
    let depot_error = |doing, path: &Path| {
        let (handle, path) = (handle.clone(), path.to_owned());
        move |source| Error::Depot { handle, doing, path, source }
    };
    std::fs::create_dir(&mount_point)
        .and_then(|()| std::fs::set_permissions(&mount_point, PermissionsExt::from_mode(0o700)))
        .map_err(depot_error("make", &mount_point))?;
    let address = record.assignment.container_ip.into();
    let mut binds = etc::write(directory, handle, address, owner)
        .map_err(depot_error("write hosts and resolv.conf in", directory))?;
    binds.extend(spec.bind_mounts.iter().map(|bind| Bind {
        source: bind.src_path.clone().into(),
        target: Path::new("/").join(&bind.dst_path),
        read_only: bind.mode == BindMountMode::ReadOnly,
        from_container: bind.origin == BindMountOrigin::Container,
    }));
    let request = StartRequest {
        hostname: etc::hostname(handle),
        mount_point,
        rootfs,
        id_map: (!record.privileged).then(|| ID_MAP.to_vec()),
        binds,
        init_cgroup: host.cgroups.entry(handle, Leaf::Init),
        main_cgroup: host.cgroups.entry(handle, Leaf::Main),
        open_files: host.open_files,
        defences: host.config.defences.clone(),
    };
    Ok(Request::Start(Box::new(request)))
}
