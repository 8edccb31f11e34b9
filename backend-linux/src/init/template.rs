//! The first of a server's supervisors, which has no container: it makes the others, as copies of itself.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use backend_linux::{
    supervisor::{Failure, Reply, Request, recv, send},
    sys::{Forked, fork, leave_children_to_the_kernel, leave_session_keyring, wait_for_own_children},
};
use nix::sched::CloneFlags;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::setsid,
    thread::set_name,
};

use crate::{name::NameRoom, serve::Supervisor};

/// Makes a copy for each connection that the server sends, until the server goes. Comes back with the connection in each
/// copy, and with none at the end.
fn serve(server: OwnedFd) -> io::Result<Option<OwnedFd>> {
    while let Some((request, fds)) = recv::<Request>(&server)? {
        let (Request::Copy, Some(connection)) = (request, fds.into_iter().next()) else {
            return Err(io::Error::other("a supervisor without a container can only be copied"));
        };
        let answered = match fork(CloneFlags::empty(), None) {
            Ok(Forked::Child) => return Ok(Some(connection)),
            Ok(Forked::Parent { pidfd, .. }) => send(&connection, &Reply::Copied, &[pidfd.as_fd()]),
            Err(error) => {
                let failure = Failure::other(format!("cannot fork a supervisor: {error}"));
                send(&connection, &Reply::Failed(failure), &[])
            }
        };
        // Nobody waits for it any more: the copy finds that out by itself.
        let _ = answered;
    }
    Ok(None)
}

/// Serves as the template, and goes on as a supervisor in each copy.
pub fn run(server: OwnedFd) -> io::Result<()> {
    set_name(c"garden-template")?;
    // Whatever it is: only a server says something.
    poll(&mut [PollFd::new(&server, PollFlags::IN)], None)?;
    let name = NameRoom::find()?;
    // Not to the server, which may never hear of a copy: it has no descriptor to spare, or has given up on this process.
    leave_children_to_the_kernel();
    let Some(connection) = serve(server)? else { return Ok(()) };
    wait_for_own_children();
    set_name(c"garden-init")?;
    // Signals for the server's session are not for its containers. It fails only for a group leader, which has a
    // session of its own already.
    let _ = setsid();
    // The keys of whoever started the server are none of the container's.
    leave_session_keyring()?;
    Supervisor::new(connection, name)?.serve()
}
