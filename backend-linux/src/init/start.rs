//! Making the container: namespaces, mounts from outside, and its pid 1.

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{CgroupEntry, Defences, Failure, IdRange, StartRequest, Terminal, recv, send},
    sys::{Forked, fork},
};
use nix::sched::{CloneFlags, setns};
use rustix::{
    fs::{Mode, OFlags, open, openat},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, Signal, WaitOptions, pidfd_send_signal, waitpid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::tcsetwinsize,
};
use serde::{Deserialize, Serialize};

use crate::{init, mounts, process::winsize};

/// A container that was made.
pub struct Container {
    init: Pid,
    init_pidfd: OwnedFd,
    alive: bool,
    id_map: Option<Vec<IdRange>>,
    devpts: OwnedFd,
    pub main_cgroup: Cgroup,
    /// How many descriptors its processes may have open by default.
    pub open_files: Option<u64>,
    pub defences: Defences,
}

/// A cgroup held open: what a child writes to, and where it is born.
pub struct Cgroup {
    pub v1_tasks: Vec<OwnedFd>,
    pub v2_dir: Option<OwnedFd>,
}

impl Cgroup {
    fn open(entry: &CgroupEntry) -> Result<Cgroup, Failure> {
        let open = |path: &Path, flags| {
            open(path, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| fail(&format!("open {path:?}"), error))
        };
        Ok(Cgroup {
            v1_tasks: entry
                .v1_tasks
                .iter()
                .map(|path| open(path, OFlags::WRONLY))
                .collect::<Result<_, _>>()?,
            v2_dir: entry
                .v2_dir
                .as_deref()
                .map(|path| open(path, OFlags::RDONLY | OFlags::DIRECTORY))
                .transpose()?,
        })
    }

    /// Moves the calling process in, where it was not born in it.
    pub fn join(&self) -> io::Result<()> {
        for tasks in &self.v1_tasks {
            rustix::io::write(tasks, b"0")?;
        }
        Ok(())
    }
}

/// What the supervisor and the container's init say to each other while it is made.
#[derive(Serialize, Deserialize)]
pub enum Setup {
    /// From the init: attached is a route netlink socket of its network namespace.
    Network,
    /// To the init: the mounts that come from outside are attached.
    Mounts,
    /// From the init: the container stands.
    Ready,
    /// It could not be made.
    Failed(String),
}

pub fn fail(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::other(format!("{what}: {error}"))
}

impl Container {
    /// Makes the container. `namespaces_made` is called as soon as there is a network namespace, with it and a netlink
    /// socket of it, so that the network can be made while the mounts are.
    pub fn start(
        request: &StartRequest,
        namespaces_made: impl FnOnce(&[BorrowedFd<'_>]),
    ) -> Result<Container, Failure> {
        let init_cgroup = Cgroup::open(&request.init_cgroup)?;
        let main_cgroup = Cgroup::open(&request.main_cgroup)?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| fail("socketpair", error))?;
        let mut namespaces = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        if request.id_map.is_some() {
            namespaces |= CloneFlags::CLONE_NEWUSER;
        }
        let cgroup = init_cgroup.v2_dir.as_ref().map(AsFd::as_fd);
        let (pid, pidfd) = match fork(namespaces, cgroup).map_err(|error| fail("new namespaces", error))? {
            Forked::Child => {
                drop(ours);
                init::become_init(request, &init_cgroup, &theirs)
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(theirs);
        match finish(request, pid, pidfd.as_fd(), ours.as_fd(), namespaces_made) {
            Ok(devpts) => Ok(Container {
                init: pid,
                init_pidfd: pidfd,
                alive: true,
                id_map: request.id_map.clone(),
                devpts,
                main_cgroup,
                open_files: request.open_files,
                defences: request.defences.clone(),
            }),
            Err(failure) => {
                // Its end is certain: it is killed from outside of its pid namespace.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
                Err(failure)
            }
        }
    }

    pub fn init(&self) -> Pid {
        self.init
    }

    pub fn init_pidfd(&self) -> BorrowedFd<'_> {
        self.init_pidfd.as_fd()
    }

    pub fn is_alive(&self) -> bool {
        self.alive
    }

    pub fn is_privileged(&self) -> bool {
        self.id_map.is_none()
    }

    /// Notes that pid 1 is gone, and everything else in the container with it.
    pub fn died(&mut self) {
        self.alive = false;
    }

    /// Kills pid 1: the kernel then kills everything else.
    pub fn kill(&self) {
        // It fails only if it is dead already.
        let _ = pidfd_send_signal(&self.init_pidfd, Signal::KILL);
    }

    /// The id outside of a user or group inside; none if it has none.
    pub fn outside_id(&self, inside: u32) -> Option<u32> {
        outside_id(self.id_map.as_deref(), inside)
    }

    /// A new terminal of the container's own: our side, and the process's.
    pub fn open_terminal(&self, terminal: Terminal) -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ours = openat(&self.devpts, "ptmx", flags, Mode::empty())?;
        unlockpt(&ours)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        tcsetwinsize(&ours, winsize(terminal))?;
        let mut mode = rustix::termios::tcgetattr(&theirs)?;
        mode.make_raw();
        mode.output_modes |= rustix::termios::OutputModes::OPOST | rustix::termios::OutputModes::ONLCR;
        rustix::termios::tcsetattr(&theirs, rustix::termios::OptionalActions::Now, &mode)?;
        Ok((ours, theirs))
    }
}

fn outside_id(id_map: Option<&[IdRange]>, inside: u32) -> Option<u32> {
    let Some(id_map) = id_map else { return Some(inside) };
    let range = id_map.iter().find(|range| inside >= range.inside && inside - range.inside < range.count)?;
    Some(range.outside + (inside - range.inside))
}

/// What the init has to say, with what is attached to it.
fn hear(socket: BorrowedFd<'_>) -> Result<(Setup, Vec<OwnedFd>), Failure> {
    match recv::<Setup>(socket) {
        Ok(Some((Setup::Failed(message), _))) => Err(Failure::other(message)),
        Ok(Some(said)) => Ok(said),
        Ok(None) => Err(init_died()),
        Err(error) => Err(lost("hear from the container's init", error)),
    }
}

fn init_died() -> Failure {
    Failure::other("the container's init died while it was made (is its memory limit too small?)")
}

/// Why something with the init did not work. That it died shows in other ways than by the end of the connection, too:
/// it left something unread, was about to be sent something, or has no namespaces any more.
fn lost(what: &str, error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotFound => init_died(),
        _ => fail(what, error),
    }
}

/// The supervisor's part while pid 1 waits and then does its own. Answers with the container's devpts.
fn finish(
    request: &StartRequest,
    pid: Pid,
    pidfd: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    namespaces_made: impl FnOnce(&[BorrowedFd<'_>]),
) -> Result<OwnedFd, Failure> {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    let open_proc = |name: &str| {
        open(format!("{proc}/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| lost(&format!("open {proc}/{name}"), error.into()))
    };
    let userns = match &request.id_map {
        Some(id_map) => {
            let lines: String = id_map
                .iter()
                .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
                .collect();
            for map in ["uid_map", "gid_map"] {
                let write = || {
                    fs::OpenOptions::new()
                        .write(true)
                        .open(format!("{proc}/{map}"))?
                        .write_all(lines.as_bytes())
                };
                write().map_err(|error| fail(&format!("write {map} of the container"), error))?;
            }
            Some(open_proc("ns/user")?)
        }
        None => None,
    };
    let (Setup::Network, sockets) = hear(socket)? else {
        return Err(Failure::other("the container's init did not begin with its network"));
    };
    let netns = open_proc("ns/net")?;
    let fds: Vec<_> = [netns.as_fd()].into_iter().chain(sockets.iter().map(AsFd::as_fd)).collect();
    namespaces_made(&fds);

    // An id that is not mapped belongs to nobody.
    let outside_id = |id| outside_id(request.id_map.as_deref(), id).unwrap_or(u32::MAX - 1);
    let outside = mounts::prepare(request, userns.as_ref().map(AsFd::as_fd), outside_id)?;
    send(socket, &Setup::Mounts, &outside.fds())
        .map_err(|error| lost("hand the mounts to the container", error))?;
    let (Setup::Ready, _) = hear(socket)? else {
        return Err(Failure::other("the container's init did not say that it was ready"));
    };
    // From now on every child of this process is born in the container's pid namespace.
    setns(pidfd, CloneFlags::CLONE_NEWPID)
        .map_err(|error| fail("enter the container's pid namespace", error))?;
    Ok(outside.devpts)
}
