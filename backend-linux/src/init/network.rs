//! Into the container's network namespace, on behalf of the server, whose threads cannot enter it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use backend_linux::supervisor::send;
use nix::sched::{CloneFlags, setns};
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::Pid,
};

use crate::{
    enter::Account,
    files::{child, one},
    start::{Container, fail},
};

/// Starts a child that sends the namespace, and a socket to configure it with.
pub fn open_network(container: &Container, fds: Vec<OwnedFd>) -> io::Result<(Pid, OwnedFd)> {
    let receiver = one(fds)?;
    child(container, Account::Supervisor, Some(&receiver), || {
        setns(container.init_pidfd(), CloneFlags::CLONE_NEWNET)
            .map_err(|error| fail("enter the container's network namespace", error))?;
        let namespace = open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| fail("open the container's network namespace", error))?;
        // No protocol: 0, which is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(|error| fail("open a netlink socket", error))?;
        send(&receiver, &(), &[namespace.as_fd(), socket.as_fd()])
            .map_err(|error| fail("hand over the container's network namespace", error))
    })
}
