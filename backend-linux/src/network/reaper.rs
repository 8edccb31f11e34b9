//! Keeps a released address out of use until the kernel says that its link is gone.
//!
//! A container's link goes with its namespace, 25 to 60 ms after the last process, and with it the host's address and
//! route. No request waits for that: this task listens for the kernel's announcement. A link that somebody keeps
//! alive, or whose announcement was lost, is looked for and deleted after a second.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::Instant,
};

use super::{
    Error,
    kernel::Kernel,
    lease::{Assignment, Ledger},
    link,
    netlink::Socket,
};
use crate::sys::async_fd;

/// How long the kernel has to remove a link by itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// Links announced as gone before their release is heard of: with each, its container's release is to come. Those of
/// releases that never come are forgotten at this many; the search after a second makes up for it.
const REMEMBERED: usize = 4096;

/// The task's state.
pub struct Reaper {
    pub ledger: Ledger,
    pub kernel: Kernel,
    /// Beginning of the names of our links.
    pub prefix: String,
    waiting: HashMap<String, Waiting>,
    gone: HashSet<String>,
}

struct Waiting {
    assignment: Assignment,
    deadline: Instant,
}

impl Reaper {
    pub fn new(ledger: Ledger, kernel: Kernel, prefix: String) -> Reaper {
        Reaper { ledger, kernel, prefix, waiting: HashMap::new(), gone: HashSet::new() }
    }

    /// Runs until nobody can release anything any more.
    pub async fn run(
        mut self,
        mut released: mpsc::UnboundedReceiver<Assignment>,
        mut announcements: Announcements,
    ) {
        let mut deaf = false;
        loop {
            let deadline = self.waiting.values().map(|waiting| waiting.deadline).min();
            let timeout = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                assignment = released.recv() => match assignment {
                    Some(assignment) => self.wait_for(assignment),
                    None => return,
                },
                heard = announcements.next(), if !deaf => match heard {
                    Ok(gone) => gone.into_iter().for_each(|name| self.link_gone(name)),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "no more announcements of links: they are looked for instead");
                        deaf = true;
                    }
                },
                () = timeout => self.enforce().await,
            }
        }
    }

    fn wait_for(&mut self, assignment: Assignment) {
        if self.gone.remove(&assignment.host_link) {
            self.free(&assignment);
        } else {
            let deadline = Instant::now() + PATIENCE;
            self.waiting.entry(assignment.host_link.clone()).or_insert(Waiting { assignment, deadline });
        }
    }

    fn link_gone(&mut self, name: String) {
        if let Some(waiting) = self.waiting.remove(&name) {
            self.free(&waiting.assignment);
        } else if name.starts_with(&self.prefix) {
            if self.gone.len() >= REMEMBERED {
                self.gone.clear();
            }
            self.gone.insert(name);
        }
    }

    fn free(&self, assignment: &Assignment) {
        self.ledger.lock().give_back(assignment);
    }

    /// Deletes the links that had their second. On failure they get another.
    async fn enforce(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.deadline <= now)
            .map(|(name, _)| name.clone())
            .collect();
        match self.delete(due.iter().cloned().collect()).await {
            Ok(()) => {
                for name in due {
                    self.link_gone(name);
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, links = ?due, "cannot delete links of released containers");
                for name in due {
                    if let Some(waiting) = self.waiting.get_mut(&name) {
                        waiting.deadline = now + PATIENCE;
                    }
                }
            }
        }
    }

    /// Those of `names` that exist.
    async fn delete(&self, names: HashSet<String>) -> Result<(), Error> {
        let prefix = self.prefix.clone();
        let delete = move |host: &mut Socket| {
            let mut links = link::list(host, &prefix)?;
            links.retain(|link| names.contains(&link.name));
            link::delete(host, &links)
        };
        let what = "delete links of released containers";
        self.kernel
            .with_links(move |links| delete(links).map_err(|source| Error::Netlink { what, source }))
            .await
    }
}

/// What the kernel announces of links.
pub struct Announcements {
    socket: Socket,
    /// The same socket, for the runtime to watch.
    readiness: AsyncFd<OwnedFd>,
}

impl Announcements {
    /// Listens in the calling thread's network namespace.
    pub fn open() -> Result<Announcements, Error> {
        let what = "listen to links";
        let socket = Socket::listen_to_links().map_err(|source| Error::Netlink { what, source })?;
        let readiness = socket.as_fd().try_clone_to_owned().and_then(|fd| async_fd(fd, Interest::READABLE));
        let readiness = readiness.map_err(|source| Error::System { what, source })?;
        Ok(Announcements { socket, readiness })
    }

    /// Waits for announcements and returns the names of the links that are gone.
    async fn next(&mut self) -> io::Result<Vec<String>> {
        let mut ready = self.readiness.readable().await?;
        let mut gone = Vec::new();
        match self.socket.events(|event| gone.extend(link::deleted(&event))) {
            Ok(()) => ready.clear_ready(),
            // Too many at once for the socket's buffer, which has more: whose announcement was lost is found by search.
            Err(error) if error.errno() == Some(Errno::NOBUFS) => {
                tracing::debug!("announcements of links were missed");
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(gone)
    }
}
