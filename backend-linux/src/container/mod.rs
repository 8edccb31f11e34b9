//! Containers: what is known of one, and the only place that orders the steps of its life.
//!
//! ```text
//!            create                      stop
//!  (nothing) ------> Creating --> Active ----> Stopped
//!                       |            |            |
//!                       | failure    | destroy    | destroy
//!                       v            v            v
//!                   Destroying --------------------------> (nothing)
//! ```
//!
//! The record on disk says where a container is, and is written before each step: `Creating` before anything of it
//! exists, `Active` when all of it does, `Destroying` before anything of it goes. Whoever finds a record that is not
//! `Active` or `Stopped` when the server starts finishes the destruction, by the same [`destroy`] that a failed create
//! and a client's request go through.

mod apart;
mod create;
mod depot;
mod destroy;
mod etc;
mod info;
pub mod outbound;
mod plugged;
mod prepared;
mod record;
mod recover;
mod repair;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
};

use info::LastInfo;
use rustix::fs::FlockOperation;

pub use apart::run;
pub use create::{Unmade, create};
pub use depot::Depot;
pub use destroy::{destroy, destroy_container};
pub use prepared::Pool;
pub use record::{Apart, Record, State};
pub use recover::recover;

use crate::{
    Config,
    cgroup::Cgroups,
    ids::{IdLease, Ids},
    network::{Lease, Networks},
    process::{Connection, OutputBudget, Processes, Supervisor, Template},
    rootfs::{Store, Usage},
};

/// What a container that runs out of memory is said to have met.
pub const OUT_OF_MEMORY: &str = "Out of memory";

/// The parts that every container is made of, and this server's settings.
pub struct Host {
    pub config: Config,
    pub depot: Depot,
    pub store: Store,
    pub cgroups: Cgroups,
    pub network: Networks,
    pub ids: Ids,
    pub init: Template,
    pub prepared: Pool,
    pub output_budget: Arc<OutputBudget>,
    /// The soft limit of open files that this server was started with; none: no limit.
    pub open_files: Option<u64>,
    /// Per cent of one CPU that each share of a container entitles it to.
    pub cpu_entitlement_per_share_percent: f64,
    pub oom_kills: AtomicU64,
    /// Output bytes that containers which are gone have lost.
    pub dropped_bytes: AtomicU64,
    /// Told when a container could not be destroyed.
    pub half_destroyed: tokio::sync::Notify,
    /// Told when there is something to remove for good.
    pub trash: tokio::sync::Notify,
}

/// What can go wrong with a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its record or its directory.
    #[error("container {handle:?}: cannot {doing} {path:?}")]
    Depot { handle: String, doing: &'static str, path: PathBuf, source: std::io::Error },
    /// Its root filesystem.
    #[error("root filesystem")]
    Rootfs(#[from] crate::rootfs::Error),
    /// Its network.
    #[error("network")]
    Network(#[from] crate::network::Error),
    /// Its outbound rules, which make no sense.
    #[error(transparent)]
    Rules(protocol::Error),
    /// Its ids.
    #[error("ids of users and groups")]
    Ids(#[from] crate::ids::Error),
    /// Its cgroups.
    #[error("cgroup")]
    Cgroup(#[from] crate::cgroup::Error),
    /// A process of that id.
    #[error("process {id} already exists")]
    ProcessExists { id: String },
    /// Its supervisor.
    #[error(transparent)]
    Supervisor(#[from] crate::process::Error),
    /// What was prepared died after it was taken and before there was a container.
    #[error("what was prepared for the container died")]
    PreparedDied(#[source] crate::process::Error),
    /// Several things while it was destroyed.
    #[error("destroying container {handle:?} is not complete, and will be tried again: {}", list(.causes))]
    Destroy { handle: String, causes: Vec<Error> },
    /// It is being destroyed, and can no longer be changed.
    #[error("container {handle:?} is being destroyed")]
    Going { handle: String },
    /// A task of the server's own was ended.
    #[error("the server is stopping")]
    Stopping(#[from] tokio::task::JoinError),
}

fn list(causes: &[Error]) -> String {
    let texts = causes.iter().map(|cause| protocol::Error::failed(cause).to_string());
    texts.collect::<Vec<_>>().join("; ")
}

/// What the root filesystems of a container take of the disk.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// Its own.
    pub own: RootUsage,
    /// Those of its processes, by id; nothing where a process has none.
    pub of_processes: BTreeMap<String, RootUsage>,
}

/// What one root filesystem takes of the disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RootUsage {
    /// What was written into it.
    pub written: Usage,
    /// What it had from the start, and shares with others.
    pub image: Usage,
}

/// A container that exists.
pub struct Container {
    pub handle: String,
    pub supervisor: Supervisor,
    pub processes: Arc<Processes>,
    /// Set while a destroy of it runs.
    pub destroying: AtomicBool,
    /// Set once a destroy of it has failed.
    pub half_destroyed: AtomicBool,
    /// Held while a polite stop waits.
    pub stopping: tokio::sync::Mutex<()>,
    /// Held while its outbound rules are changed, so that record and firewall see the changes in one order.
    changing_rules: tokio::sync::Mutex<()>,
    /// What the background scan found last.
    pub disk: Mutex<DiskUsage>,
    /// Keeps its place on the network and its ports from others.
    _lease: Lease,
    pub ids: IdLease,
    last_info: LastInfo,
    record: RwLock<Arc<Record>>,
    /// Held while the record is written, so that its versions reach the disk in order.
    writing: Mutex<()>,
}

impl Container {
    /// What is known of it now.
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known of it, on disk first. Refused once it is being destroyed. Blocks.
    pub fn update(&self, depot: &Depot, change: impl FnOnce(&mut Record)) -> Result<Arc<Record>, Error> {
        self.write(depot, |record| match record.state {
            State::Destroying => Err(Error::Going { handle: record.handle.clone() }),
            State::Creating | State::Active | State::Stopped => {
                change(record);
                Ok(())
            }
        })
    }

    /// Notes that it is being destroyed: the last change there is. Blocks.
    pub fn mark_destroying(&self, depot: &Depot) -> Result<Arc<Record>, Error> {
        self.write(depot, |record| {
            record.state = State::Destroying;
            Ok(())
        })
    }

    fn write(
        &self,
        depot: &Depot,
        change: impl FnOnce(&mut Record) -> Result<(), Error>,
    ) -> Result<Arc<Record>, Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = Record::clone(&self.record());
        change(&mut record)?;
        depot.write(&record)?;
        let record = Arc::new(record);
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&record);
        Ok(record)
    }

    /// Puts together what recovery and creation both end with.
    fn new(
        host: &Arc<Host>,
        record: Record,
        lease: Lease,
        ids: IdLease,
        connection: Option<Connection>,
    ) -> Arc<Container> {
        let supervisor = Supervisor::at(&host.depot.directory(&record.handle));
        connection.into_iter().for_each(|connection| supervisor.keep(connection));
        Arc::new_cyclic(|container: &std::sync::Weak<Container>| {
            let (output_budget, retention) = (Arc::clone(&host.output_budget), host.config.retention());
            let (container, host) = (container.clone(), Arc::downgrade(host));
            let on_exit = move |process: &str| {
                let (container, host) = (container.upgrade(), host.upgrade());
                let process = process.to_owned();
                Box::pin(async move {
                    // Also after a success: what the kernel killed may have been a child.
                    if let (Some(container), Some(host)) = (container, host) {
                        note_oom_kills(&host, &container).await;
                        apart::note_oom_kills(&host, &container, &process).await;
                    }
                }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
            };
            Container {
                handle: record.handle.clone(),
                processes: Processes::new(supervisor.clone(), Arc::new(on_exit), output_budget, retention),
                supervisor,
                destroying: AtomicBool::new(false),
                half_destroyed: AtomicBool::new(false),
                stopping: tokio::sync::Mutex::new(()),
                changing_rules: tokio::sync::Mutex::new(()),
                disk: Mutex::default(),
                _lease: lease,
                ids,
                last_info: LastInfo::default(),
                record: RwLock::new(Arc::new(record)),
                writing: Mutex::new(()),
            }
        })
    }
}

/// Runs what blocks where it may.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

/// Looks whether the kernel has killed something for want of memory, and keeps it as an event.
pub async fn note_oom_kills(host: &Arc<Host>, container: &Arc<Container>) {
    // A container that is being destroyed has no cgroup any more, and nobody who would want to know.
    let destroying = || container.record().state == State::Destroying;
    let noted = match host.cgroups.oom_kills(&container.handle) {
        // The usual case, at every exit. The file is a number in the kernel's memory: reading it waits for nothing.
        Ok(kills) if kills <= container.record().oom_kills_seen || destroying() => return,
        Ok(kills) => {
            let (host, container) = (Arc::clone(host), Arc::clone(container));
            blocking(move || note_oom_kill(&host, &container, kills)).await.and_then(|noted| noted)
        }
        Err(error) => Err(error.into()),
    };
    if let Err(error) = noted
        && !destroying()
    {
        tracing::warn!(error = %protocol::Error::failed(&error), "cannot tell whether a process ran out of memory");
    }
}

fn note_oom_kill(host: &Host, container: &Container, kills: u64) -> Result<(), Error> {
    let mut new = 0;
    container.update(&host.depot, |record| {
        new = kills.saturating_sub(record.oom_kills_seen);
        // Another exit may have been faster.
        if new > 0 {
            record.oom_kills_seen = kills;
            record.events.push(OUT_OF_MEMORY.to_owned());
        }
    })?;
    host.oom_kills.fetch_add(new, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// How long a lock may be held on by a server that was killed: by its last child, until that executes its program.
const LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
const LOCK_LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(5);

/// Locks a directory against another server, for as long as the descriptor is open. Blocks a moment.
pub fn lock_directory(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(path.join("lock"))?;
    let begun = std::time::Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_LOOK_INTERVAL);
            }
            locked => return locked.map(|()| file).map_err(Into::into),
        }
    }
}
