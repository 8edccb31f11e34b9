//! Links that somebody deleted: a starting server makes them again.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Container, Error, Host};
use crate::{
    process::{Error as ProcessError, Supervisor},
    supervisor::{Request, recv},
};

/// How long a supervisor may take to hand its container's network over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

/// Names the containers whose links are gone, and makes the links again. A container for which that cannot be done goes
/// on without: it can be looked at, and destroyed.
pub async fn lost_links(host: &Arc<Host>, containers: &[Arc<Container>]) -> Result<(), Error> {
    let links = host.network.links().await?;
    for container in containers {
        match container.record().assignment.link() {
            Some(link) if !links.contains(link) => {}
            _ => continue,
        }
        let handle = &container.handle;
        match make_again(host, container).await {
            Ok(()) => tracing::warn!(handle, "a container's network link was gone: it was made again"),
            Err(error) => {
                let error = protocol::Error::failed(&error);
                tracing::error!(handle, %error, "a container's network link is gone, and cannot be made again");
            }
        }
    }
    Ok(())
}

async fn make_again(host: &Arc<Host>, container: &Container) -> Result<(), Error> {
    let record = container.record();
    let asked = tokio::time::timeout(HAND_OVER_LIMIT, open_network(&container.supervisor)).await;
    let [netns, netlink] = asked.unwrap_or(Err(ProcessError::Silent(HAND_OVER_LIMIT)))?;
    host.network.attach(&record.assignment, netns.as_fd(), netlink.as_fd()).await?;
    let limits = record.limits.bandwidth;
    Ok(host.network.limit_bandwidth(&record.assignment, limits, netlink.as_fd()).await?)
}

/// A running container's network namespace, and a route netlink socket of it.
async fn open_network(supervisor: &Supervisor) -> Result<[OwnedFd; 2], ProcessError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|error| ProcessError::Start(error.into()))?;
    supervisor.command_with(&Request::OpenNetwork, &[theirs.as_fd()]).await?;
    // Sent before the answer was.
    let fds = match recv::<()>(&ours).map_err(ProcessError::Gone)? {
        Some(((), fds)) => fds,
        None => return Err(ProcessError::Gone(io::ErrorKind::UnexpectedEof.into())),
    };
    fds.try_into()
        .map_err(|fds: Vec<_>| ProcessError::Nonsense(format!("a network with {} descriptors", fds.len())))
}
