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

use protocol::BandwidthLimits;
use tokio::sync::Notify;

use super::{Error, Host};
use crate::{
    ids::{Error as IdError, IdLease},
    network::{Attachment, Error as NetworkError, Lease, PoolError, Wishes},
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
    /// For the container of a handle that has a record already, it is found at the listening socket from then on.
    pub async fn make(
        host: &Arc<Host>,
        ids: &IdLease,
        owner: Option<(&str, &OwnedFd)>,
    ) -> Result<Prepared, Error> {
        let connection = host.init.start().await?;
        let (tasks, tcp) = (host.cgroups.shared_tasks(), host.config.network.tcp.clone());
        let mut request = PrepareRequest::new(ids.maps(), tasks, tcp);
        let (handle, listener) = owner.unzip();
        request.handle = handle.map(str::to_owned);
        let prepare = async {
            let listener: Vec<_> = listener.iter().map(|listener| listener.as_fd()).collect();
            connection.send(&Request::Prepare(request), &listener).await?;
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
    pub async fn attach(&self, host: &Host, attachment: &Attachment) -> Result<(), Error> {
        Ok(host.network.attach(attachment, self.netns.as_fd(), self.netlink.as_fd()).await?)
    }

    /// Limits the bandwidth of the link that the namespaces are on the network by.
    pub async fn limit_bandwidth(
        &self,
        host: &Host,
        attachment: &Attachment,
        limits: BandwidthLimits,
    ) -> Result<(), Error> {
        Ok(host.network.limit_bandwidth(attachment, limits, self.netlink.as_fd()).await?)
    }
}

/// A supervisor whose namespaces are on the network already.
struct Connected {
    prepared: Prepared,
    lease: Lease,
    ids: IdLease,
}

impl Connected {
    async fn make(host: &Arc<Host>) -> Result<Connected, Error> {
        let lease = host.network.plan("").await?;
        let ids = host.ids.take(false)?;
        let prepared = Prepared::make(host, &ids, None).await?;
        if let Err(error) = prepared.attach(host, &lease.attachment()).await {
            host.prepared.give_up(lease);
            host.prepared.release_given_up(host).await;
            return Err(error);
        }
        Ok(Connected { prepared, lease, ids })
    }
}

/// Those that wait for a container, unprivileged ones with the next free subnets.
pub struct Pool {
    size: usize,
    ready: Mutex<VecDeque<Connected>>,
    /// Places on the network of those that died or had to give way: nobody's until they are released.
    given_up: Mutex<Vec<Lease>>,
    wanted: Notify,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
}

impl Pool {
    pub fn new(size: usize) -> Pool {
        Pool {
            size,
            ready: Mutex::default(),
            given_up: Mutex::default(),
            wanted: Notify::new(),
            making: tokio::sync::Mutex::default(),
        }
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Connected>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, lease: Lease) {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
    }

    /// Takes what was given up off the network. Says whether there was anything; what cannot be released is tried again.
    async fn release_given_up(&self, host: &Host) -> bool {
        let leases = std::mem::take(&mut *self.given_up.lock().unwrap_or_else(PoisonError::into_inner));
        let any = !leases.is_empty();
        for lease in leases {
            if let Err(error) = host.network.release(&lease.attachment(), Wishes::default(), None).await {
                tracing::warn!(error = %protocol::Error::failed(&error), "cannot release what was prepared");
                self.give_up(lease);
            }
        }
        any
    }

    /// Those that still live; the others' places are given up.
    fn living(&self) -> MutexGuard<'_, VecDeque<Connected>> {
        let mut ready = self.ready();
        for found in std::mem::take(&mut *ready) {
            match found.prepared.connection.is_open() {
                true => ready.push_back(found),
                false => self.give_up(found.lease),
            }
        }
        ready
    }

    /// The longest prepared one, if there is any.
    fn take(&self) -> Option<Connected> {
        let taken = self.living().pop_front();
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

    /// Fills the pool whenever something was taken out of it; never ends.
    pub async fn fill(host: Arc<Host>) {
        let pool = &host.prepared;
        loop {
            pool.release_given_up(&host).await;
            while pool.living().len() < pool.size {
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
    pub prepared: Option<Prepared>,
}

impl From<Connected> for Place {
    fn from(Connected { prepared, lease, ids }: Connected) -> Place {
        Place { lease, ids, prepared: Some(prepared) }
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
    let error = match host.network.plan(requested).await {
        Ok(lease) => {
            let ids = ids(host, privileged).await?;
            return Ok(Place { lease, ids, prepared: None });
        }
        Err(error) => error,
    };
    match &error {
        NetworkError::Pool(PoolError::SubnetsExhausted { .. } | PoolError::Ipv6Exhausted { .. }) => {
            match host.prepared.take_next().await {
                Some(connected) if requested.is_empty() && !privileged => return Ok(connected.into()),
                Some(connected) => host.prepared.give_up(connected.lease),
                None => {}
            }
        }
        // Its last container was destroyed a moment ago.
        NetworkError::Pool(PoolError::Leaving { .. }) => {
            let lease = plan_when_free(host, requested).await?;
            return Ok(Place { lease, ids: ids(host, privileged).await?, prepared: None });
        }
        _ => return Err(error.into()),
    }
    // One that has died may have had it, too.
    if !host.prepared.release_given_up(host).await {
        return Err(error.into());
    }
    // Nothing is prepared meanwhile, which could take it.
    let _making = host.prepared.making.lock().await;
    let lease = plan_when_free(host, requested).await?;
    Ok(Place { lease, ids: host.ids.take(privileged)?, prepared: None })
}

/// Ids for a container whose place on the network is its own choice. Where only those that wait have any left, one of
/// them gives way.
async fn ids(host: &Host, privileged: bool) -> Result<IdLease, Error> {
    let error = match host.ids.take(privileged) {
        Err(error @ IdError::Exhausted { .. }) => error,
        taken => return Ok(taken?),
    };
    let Some(Connected { prepared, lease, ids }) = host.prepared.take_next().await else {
        return Err(error.into());
    };
    host.prepared.give_up(lease);
    drop(prepared);
    host.prepared.release_given_up(host).await;
    Ok(ids)
}

/// Waits for the link to be gone of who had the place before.
async fn plan_when_free(host: &Host, requested: &str) -> Result<Lease, Error> {
    let deadline = tokio::time::Instant::now() + RETRY;
    loop {
        match host.network.plan(requested).await {
            Err(NetworkError::Pool(
                PoolError::Leaving { .. }
                | PoolError::SubnetsExhausted { .. }
                | PoolError::Ipv6Exhausted { .. },
            )) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LINK_LOOK_INTERVAL).await;
            }
            planned => return Ok(planned?),
        }
    }
}
