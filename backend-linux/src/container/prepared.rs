//! What can be made ahead of a container: its supervisor, its namespaces and its network.
//!
//! It is no container's yet, so no record owns it, and it does not outlive the server: a supervisor that has not
//! started its container goes when its connection does, its namespaces and their links go with it.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{Error, Host, blocking};
use crate::{
    ids::{Error as IdError, IdLease},
    network::{Error as NetworkError, Lease, PoolError},
    process::{Connection, Error as ProcessError, nonsense},
    supervisor::{PrepareRequest, Reply, Request},
};

/// How long a supervisor may take to make namespaces.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// How long to wait before trying again after a failure, and at most for a link to go that somebody wants the subnet of.
const RETRY: Duration = Duration::from_secs(5);

/// How often it is looked whether that link has gone.
const LINK_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How long what was taken is not replaced: the container that took it has the machine to itself while it is made and
/// its first process starts. On two cores that is worth a quarter of a create.
const REFILL_DELAY: Duration = Duration::from_millis(20);

/// A supervisor with namespaces, waiting for its container.
pub struct Prepared {
    pub connection: Connection,
    netns: OwnedFd,
    netlink: OwnedFd,
}

impl Prepared {
    /// Starts a supervisor, and has it make namespaces.
    pub async fn make(host: &Arc<Host>, ids: &IdLease) -> Result<Prepared, Error> {
        let starter = Arc::clone(host);
        let connection = blocking(move || starter.init.start()).await??;
        let request = Request::Prepare(PrepareRequest::new(ids.maps()));
        let prepare = async {
            connection.send(&request, &[]).await?;
            connection.reply().await
        };
        let prepared = tokio::time::timeout(PREPARE_LIMIT, prepare).await;
        let (netns, netlink) = match prepared.map_err(|_| ProcessError::Silent(PREPARE_LIMIT))?? {
            (Reply::Namespaces, fds) => <[OwnedFd; 2]>::try_from(fds)
                .map_err(|fds| ProcessError::Nonsense(format!("namespaces with {} descriptors", fds.len())))?
                .into(),
            (other, _) => return Err(nonsense(&other).into()),
        };
        Ok(Prepared { connection, netns, netlink })
    }

    /// Puts the namespaces on the network.
    pub async fn attach(&self, host: &Host, lease: &Lease) -> Result<(), Error> {
        Ok(host.network.attach(lease.assignment(), self.netns.as_fd(), self.netlink.as_fd()).await?)
    }
}

/// A supervisor whose namespaces are on the network already.
struct Connected {
    connection: Connection,
    lease: Lease,
    ids: IdLease,
}

impl Connected {
    async fn make(host: &Arc<Host>) -> Result<Connected, Error> {
        let lease = host.network.plan("")?;
        let ids = host.ids.take(false)?;
        let prepared = Prepared::make(host, &ids).await?;
        if let Err(error) = prepared.attach(host, &lease).await {
            host.network.release(lease.assignment(), &[]).await?;
            return Err(error);
        }
        Ok(Connected { connection: prepared.connection, lease, ids })
    }
}

/// Those that wait for a container, unprivileged ones with the next free subnets.
pub struct Pool {
    size: usize,
    ready: Mutex<VecDeque<Connected>>,
    wanted: Notify,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
}

impl Pool {
    pub fn new(size: usize) -> Pool {
        Pool { size, ready: Mutex::default(), wanted: Notify::new(), making: tokio::sync::Mutex::default() }
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Connected>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest prepared one that still lives, if there is any.
    fn take(&self) -> Option<Connected> {
        let taken = std::iter::from_fn(|| self.ready().pop_front()).find(|found| found.connection.is_open());
        self.wanted.notify_one();
        taken
    }

    /// The same where there may be none only because one is still being made.
    async fn take_next(&self) -> Option<Connected> {
        let making = self.making.lock().await;
        let taken = self.take();
        drop(making);
        taken
    }

    /// The one that has the subnet which a request names and cannot have.
    fn take_subnet_of(&self, error: &NetworkError) -> Option<Connected> {
        let NetworkError::Pool(PoolError::SubnetInUse { subnet }) = error else { return None };
        let mut ready = self.ready();
        let place = ready.iter().position(|found| found.lease.assignment().subnet == *subnet)?;
        ready.remove(place).filter(|found| found.connection.is_open())
    }

    /// Fills the pool whenever something was taken out of it; never ends.
    pub async fn fill(host: Arc<Host>) {
        let pool = &host.prepared;
        loop {
            while pool.ready().len() < pool.size {
                let making = pool.making.lock().await;
                match Connected::make(&host).await {
                    Ok(connected) => pool.ready().push_back(connected),
                    Err(error) => {
                        drop(making);
                        // Whoever makes a container now hears the reason.
                        tracing::debug!(error = %protocol::Error::failed(&error), "nothing prepared");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            pool.wanted.notified().await;
            tokio::time::sleep(REFILL_DELAY).await;
        }
    }
}

/// What a container has to itself on the host, and a supervisor that has it already, if there is one.
pub struct Place {
    pub lease: Lease,
    pub ids: IdLease,
    pub connection: Option<Connection>,
}

impl From<Connected> for Place {
    fn from(Connected { connection, lease, ids }: Connected) -> Place {
        Place { lease, ids, connection: Some(connection) }
    }
}

/// Finds a container's place on the network, and its ids.
pub async fn place(host: &Host, requested: &str, privileged: bool) -> Result<Place, Error> {
    if requested.is_empty()
        && !privileged
        && let Some(connected) = host.prepared.take()
    {
        return Ok(connected.into());
    }
    let error = match host.network.plan(requested) {
        Ok(lease) => {
            let ids = ids(host, privileged).await?;
            return Ok(Place { lease, ids, connection: None });
        }
        Err(error) => error,
    };
    let prepared = match &error {
        NetworkError::Pool(PoolError::SubnetsExhausted { .. }) => host.prepared.take_next().await,
        error => host.prepared.take_subnet_of(error),
    };
    match prepared {
        None => Err(error.into()),
        Some(connected) if !privileged => Ok(connected.into()),
        Some(connected) => {
            let lease = make_way(host, connected, requested).await?;
            Ok(Place { lease, ids: host.ids.take(privileged)?, connection: None })
        }
    }
}

/// Ids for a container whose place on the network is its own choice. Where only those that wait have any left, one of
/// them gives way.
async fn ids(host: &Host, privileged: bool) -> Result<IdLease, Error> {
    let error = match host.ids.take(privileged) {
        Err(error @ IdError::Exhausted { .. }) => error,
        taken => return Ok(taken?),
    };
    let Some(Connected { connection, lease, ids }) = host.prepared.take_next().await else {
        return Err(error.into());
    };
    host.network.release(lease.assignment(), &[]).await?;
    drop(connection);
    Ok(ids)
}

/// Gives a subnet up that a container of another kind is to have.
async fn make_way(host: &Host, connected: Connected, requested: &str) -> Result<Lease, Error> {
    host.network.release(connected.lease.assignment(), &[]).await?;
    drop(connected);
    let deadline = tokio::time::Instant::now() + RETRY;
    loop {
        match host.network.plan(requested) {
            Err(NetworkError::Pool(PoolError::SubnetInUse { .. } | PoolError::SubnetsExhausted { .. }))
                if tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(LINK_LOOK_INTERVAL).await;
            }
            planned => return Ok(planned?),
        }
    }
}
