//! The sockets to the host's links and firewall, and turns at them.
//!
//! Netlink calls return when the work is done and may wait for a lock in the kernel, so they run on threads that may
//! block. Links wait for the host's one network lock, often for milliseconds: requests queue for their turn without a
//! thread. The firewall takes microseconds and does not wait for links.

use std::sync::{Arc, MutexGuard};

use super::{
    Error,
    firewall::{Change, Firewall, turns::Turns},
    host::HostNetworks,
    netlink::Socket,
};

/// Handles to the two sockets; clones share them.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// rtnetlink.
    links: Arc<tokio::sync::Mutex<Socket>>,
    firewall: Turns,
}

impl Kernel {
    /// With an rtnetlink socket.
    pub fn new(links: Socket, firewall: Box<dyn Firewall>) -> Kernel {
        Kernel { links: Arc::new(tokio::sync::Mutex::new(links)), firewall: Turns::new(firewall) }
    }

    /// Runs `work` on the firewall, on a thread that may block. Begun, it ends, even if nobody waits for it any more.
    pub async fn with_firewall<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Firewall) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let kernel = self.clone();
        run(move || work(kernel.firewall().as_mut())).await
    }

    /// [`Turns::change`] on a thread that may block. Begun, it ends.
    pub async fn change(
        &self,
        owner: &str,
        prepare: impl FnOnce() -> Result<Change, Error> + Send + 'static,
        finish: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let (turns, owner) = (self.firewall.clone(), owner.to_owned());
        run(move || turns.change(&owner, prepare, finish)).await
    }

    /// Runs `work` on the links when its turn comes, on a thread that may block. Begun, it ends.
    pub async fn with_links<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Socket) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.with_links_then(work, |done, _| Ok(done)).await
    }

    /// Like [`with_links`](Kernel::with_links); `rest` follows on the same thread when the turn is over.
    pub async fn with_links_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Socket) -> Result<T, Error> + Send + 'static,
        rest: impl FnOnce(T, &Kernel) -> Result<U, Error> + Send + 'static,
    ) -> Result<U, Error> {
        let kernel = self.clone();
        let mut links = Arc::clone(&self.links).lock_owned().await;
        run(move || {
            let result = work(&mut links);
            drop(links);
            rest(result?, &kernel)
        })
        .await
    }

    /// The networks that the host itself is in, apart from the links whose names begin with `prefix`.
    pub async fn host_networks(&self, prefix: &str) -> Result<HostNetworks, Error> {
        let prefix = prefix.to_owned();
        let what = "find the host's own networks";
        let read = move |links: &mut Socket| HostNetworks::read(links, &prefix);
        self.with_links(move |links| read(links).map_err(|source| Error::Netlink { what, source })).await
    }

    /// The firewall, for a thread that may block. Not to be kept while links are waited for.
    pub fn firewall(&self) -> MutexGuard<'_, Box<dyn Firewall>> {
        self.firewall.firewall()
    }

    /// [`Turns::change`], for a thread that may block.
    pub fn change_now(
        &self,
        owner: &str,
        prepare: impl FnOnce() -> Result<Change, Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.firewall.change(owner, prepare, || {})
    }
}

/// Runs `work` on a thread that may block. Begun, it ends.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::WorkerLost)?
}
