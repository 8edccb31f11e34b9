//! What a container needs that depends on no request: made before anybody asks for the container, if there is time.

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{Failure, IdMaps, PrepareRequest, TcpSettings, id_map_lines, recv, send},
    sys::{Forked, fork},
};
use nix::sched::{CloneFlags, setns};
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketFlags, SocketType, socket_with, socketpair},
    process::{Pid, WaitOptions, waitpid},
};

use crate::{mounts, start::fail};

/// What is nobody's in a container: its mapping has no such id.
const NOBODY: u32 = u32::MAX - 1;

/// Namespaces that a process can enter, with the file systems that take the host's privileges.
pub struct Namespaces {
    pub ids: Option<IdMaps>,
    pub user: Option<OwnedFd>,
    network: OwnedFd,
    ipc: OwnedFd,
    uts: OwnedFd,
    pub dev: OwnedFd,
}

/// What a child that holds new namespaces open says.
type Said = Result<(), String>;

impl Namespaces {
    /// Makes them. A network namespace can be configured through a socket that was opened in it: that is the second
    /// value.
    pub fn make(request: PrepareRequest) -> Result<(Namespaces, OwnedFd), Failure> {
        let mut kinds = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        let ids = request.id_maps();
        for tasks in &request.cgroup_tasks {
            fs::write(tasks, "0").map_err(|error| fail(&format!("write to {}", tasks.display()), error))?;
        }
        if ids.is_some() {
            kinds |= CloneFlags::CLONE_NEWUSER;
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| fail("socketpair", error))?;
        let pid = match fork(kinds, None).map_err(|error| fail("new namespaces", error))? {
            Forked::Child => {
                drop(ours);
                hold_open(&theirs, &request.tcp)
            }
            Forked::Parent { pid, .. } => pid,
        };
        drop(theirs);
        let opened = open_all(pid, ids.as_ref(), &ours);
        // The child goes when it has nobody to talk to any more.
        drop(ours);
        let _ = waitpid(Some(pid), WaitOptions::empty());
        let (user, [network, ipc, uts], netlink) = opened?;

        // For privileged containers, where the host has it: without the kernel's part the file would be a trap.
        let fuse = ids.is_none() && Path::new("/dev/fuse").exists();
        let root = root_outside(ids.as_ref());
        let dev = mounts::device_directory(root, fuse).map_err(|error| fail("make /dev", error))?;
        Ok((Namespaces { ids, user, network, ipc, uts, dev }, netlink))
    }

    /// Who root inside is on the host: user and group.
    pub fn root_outside(&self) -> (u32, u32) {
        root_outside(self.ids.as_ref())
    }

    /// A group's id on the host.
    pub fn group_outside(&self, inside: u32) -> u32 {
        self.ids.as_ref().map_or(inside, |ids| ids.group(inside).unwrap_or(NOBODY))
    }

    pub fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Takes the calling process in. As before a new user namespace's ids are known, it goes on as root of the host as
    /// far as files go, but has no other power over the host any more.
    pub fn enter(&self) -> io::Result<()> {
        if let Some(user) = &self.user {
            setns(user, CloneFlags::CLONE_NEWUSER)?;
        }
        setns(&self.network, CloneFlags::CLONE_NEWNET)?;
        setns(&self.ipc, CloneFlags::CLONE_NEWIPC)?;
        setns(&self.uts, CloneFlags::CLONE_NEWUTS)?;
        Ok(())
    }
}

/// Who root inside is on the host: user and group.
pub fn root_outside(ids: Option<&IdMaps>) -> (u32, u32) {
    ids.map_or((0, 0), |ids| (ids.user(0).unwrap_or(NOBODY), ids.group(0).unwrap_or(NOBODY)))
}

/// In the child: sets the new network namespace up, hands a socket of it over, and waits for the end of the connection.
fn hold_open(socket: &OwnedFd, tcp: &TcpSettings) -> ! {
    let said = match set_up_network(tcp) {
        Ok(netlink) => send(socket, &Said::Ok(()), &[netlink.as_fd()]),
        Err(message) => send(socket, &Said::Err(message), &[]),
    };
    let _ = said.and_then(|()| recv::<Said>(socket));
    std::process::exit(0)
}

/// In the child: what is seen below `/proc/sys/net` is the network namespace of whoever looks.
fn set_up_network(tcp: &TcpSettings) -> Result<OwnedFd, String> {
    for (name, value) in tcp.sysctls() {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value.to_string())
            .map_err(|error| format!("set net.ipv4.{name} of the container to {value}: {error}"))?;
    }
    // No protocol: 0, which is NETLINK_ROUTE.
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(|error| format!("open a netlink socket: {error}"))
}

/// Opens the namespaces of a child, and sets its ids.
fn open_all(
    pid: Pid,
    ids: Option<&IdMaps>,
    socket: &OwnedFd,
) -> Result<(Option<OwnedFd>, [OwnedFd; 3], OwnedFd), Failure> {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    let namespace = |name: &str| {
        open(format!("{proc}/ns/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| fail(&format!("open the {name} namespace"), error))
    };
    let user = match ids {
        Some(ids) => {
            for (name, map) in [("uid_map", &ids.users), ("gid_map", &ids.groups)] {
                let write = || {
                    let file = fs::OpenOptions::new().write(true).open(format!("{proc}/{name}"));
                    file?.write_all(id_map_lines(map).as_bytes())
                };
                write().map_err(|error| fail(&format!("write {name} of the container"), error))?;
            }
            Some(namespace("user")?)
        }
        None => None,
    };
    let netlink = match recv::<Said>(socket).map_err(|error| fail("hear of the new namespaces", error))? {
        Some((Ok(()), mut fds)) => fds.pop().ok_or_else(|| Failure::other("no netlink socket came"))?,
        Some((Err(message), _)) => return Err(Failure::other(message)),
        None => return Err(Failure::other("the child that holds new namespaces died")),
    };
    Ok((user, [namespace("net")?, namespace("ipc")?, namespace("uts")?], netlink))
}
