//! The one place from which the host's links and firewall are changed, one change at a time.
//!
//! Netlink calls return when the work is done and may wait for the kernel's network lock, so they run on threads that
//! may block; a request waits for its turn without a thread. Turns also make what is read and what is then changed one
//! step, such as looking up a port's owner and removing the port.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Error, firewall::Firewall, netlink::Socket};

/// The sockets of the host's network namespace.
#[derive(Debug)]
pub struct Kernel {
    /// rtnetlink.
    pub links: Socket,
    pub firewall: Firewall,
}

impl Kernel {
    /// Opens the sockets in the calling thread's network namespace.
    pub fn open(tag: &str) -> Result<Kernel, Error> {
        let links = Socket::open(None).map_err(|source| Error::Netlink { what: "open rtnetlink", source })?;
        let firewall = Firewall::open(tag)
            .map_err(|source| Error::Firewall { what: "open nfnetlink".to_owned(), source })?;
        Ok(Kernel { links, firewall })
    }
}

/// Turns at the [`Kernel`].
#[derive(Debug, Clone)]
pub struct Worker(Arc<Mutex<Kernel>>);

impl Worker {
    pub fn new(kernel: Kernel) -> Worker {
        Worker(Arc::new(Mutex::new(kernel)))
    }

    /// Runs `work` when its turn comes. Once begun it runs to its end, even if the caller no longer waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Kernel) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.run_then(work, Ok).await
    }

    /// Like [`run`](Worker::run); `rest` follows on the same thread when the turn is over.
    pub async fn run_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Kernel) -> Result<T, Error> + Send + 'static,
        rest: impl FnOnce(T) -> Result<U, Error> + Send + 'static,
    ) -> Result<U, Error> {
        let mut kernel = Arc::clone(&self.0).lock_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&mut kernel);
            drop(kernel);
            rest(result?)
        });
        task.await.map_err(|_| Error::WorkerLost)?
    }
}
