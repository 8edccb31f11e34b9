//! Making the container in namespaces that were prepared: mounts from outside, and its pid 1.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{CgroupEntry, Defences, Failure, Hardening, IdMaps, StartRequest, Terminal, recv, send},
    sys::{Forked, fork, run_in_helper},
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

use crate::{
    init,
    mounts::{self, Outside},
    namespaces::{Namespaces, root_outside},
    process::winsize,
};

/// A container that was made.
pub struct Container {
    init: Pid,
    init_pidfd: OwnedFd,
    alive: bool,
    ids: Option<IdMaps>,
    user: Option<OwnedFd>,
    /// Whether bind mounts are shown with the container's ids.
    pub idmapped_binds: bool,
    devpts: OwnedFd,
    pub main_cgroup: Cgroup,
    /// How many descriptors its processes may have open by default.
    pub open_files: Option<u64>,
    pub hardening: Hardening,
    pub defences: Defences,
}

/// A cgroup held open: what a child writes to, and where it is born.
pub struct Cgroup {
    pub v1_tasks: Vec<OwnedFd>,
    pub v2_dir: Option<OwnedFd>,
}

impl Cgroup {
    pub fn open(entry: &CgroupEntry) -> Result<Cgroup, Failure> {
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

/// What is said to the supervisor while the container is made.
#[derive(Serialize, Deserialize)]
pub enum Setup {
    /// From the helper that entered the namespaces: attached is a pidfd of the container's init.
    Born {
        /// Its number.
        pid: i32,
    },
    /// From the init: the container stands.
    Ready,
    /// It could not be made.
    Failed(String),
}

pub fn fail(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::other(format!("{what}: {error}"))
}

impl Container {
    /// Makes the container. On failure the namespaces are gone, too.
    pub fn start(namespaces: Namespaces, request: &StartRequest) -> Result<Container, Failure> {
        let init_cgroup = Cgroup::open(&request.init_cgroup)?;
        let main_cgroup = Cgroup::open(&request.main_cgroup)?;
        let outside = mounts::prepare(request, &namespaces)?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| fail("socketpair", error))?;
        let helper = run_in_helper(|| enter_and_fork(&namespaces, request, &outside, &init_cgroup, &theirs))
            .map_err(|error| fail("start a helper", error))?;
        drop(theirs);
        let made = wait_until_made(ours.as_fd());
        // It has said what it had to say, and ends.
        let _ = waitpid(Some(helper), WaitOptions::empty());
        let (pid, pidfd) = made?;
        if let Err(error) = setns(&pidfd, CloneFlags::CLONE_NEWPID) {
            kill(pid, &pidfd);
            return Err(lost("enter the container's pid namespace", error.into()));
        }
        Ok(Container {
            init: pid,
            init_pidfd: pidfd,
            alive: true,
            ids: namespaces.ids,
            user: namespaces.user,
            idmapped_binds: request.idmapped_binds,
            devpts: outside.devpts,
            main_cgroup,
            open_files: request.open_files,
            hardening: request.hardening.clone(),
            defences: request.defences.clone(),
        })
    }

    pub fn init(&self) -> Pid {
        self.init
    }

    pub fn init_pidfd(&self) -> BorrowedFd<'_> {
        self.init_pidfd.as_fd()
    }

    /// For what is mounted for one process, to be shown with the container's ids; none: privileged.
    pub fn user_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.user.as_ref().map(AsFd::as_fd)
    }

    /// Who root of the container is on the host: user and group.
    pub fn root_outside(&self) -> (u32, u32) {
        root_outside(self.ids.as_ref())
    }

    pub fn is_alive(&self) -> bool {
        self.alive
    }

    pub fn is_privileged(&self) -> bool {
        self.ids.is_none()
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

    /// How its ids map to the host's; none: they are the host's.
    pub fn id_maps(&self) -> Option<&IdMaps> {
        self.ids.as_ref()
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

/// What the init has to say, with what is attached to it.
fn hear(socket: BorrowedFd<'_>) -> Result<(Setup, Vec<OwnedFd>), Failure> {
    match recv::<Setup>(socket) {
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

/// In a child: goes into the namespaces, and makes the container's init there, as a child of the supervisor's. A pid
/// namespace is entered by being born in it only.
fn enter_and_fork(
    namespaces: &Namespaces,
    request: &StartRequest,
    outside: &Outside,
    cgroup: &Cgroup,
    socket: &OwnedFd,
) -> u8 {
    let kinds = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_PARENT;
    let born = namespaces.enter().and_then(|()| fork(kinds, cgroup.v2_dir.as_ref().map(AsFd::as_fd)));
    let said = match born {
        Ok(Forked::Child) => init::become_init(request, namespaces, outside, cgroup, socket),
        Ok(Forked::Parent { pid, pidfd }) => {
            send(socket, &Setup::Born { pid: pid.as_raw_nonzero().get() }, &[pidfd.as_fd()])
        }
        Err(error) => send(socket, &Setup::Failed(format!("enter the new namespaces: {error}")), &[]),
    };
    u8::from(said.is_err())
}

/// Waits for the helper and the init, of whom either may be the first to be heard.
fn wait_until_made(socket: BorrowedFd<'_>) -> Result<(Pid, OwnedFd), Failure> {
    let mut born = None;
    let mut ready = false;
    loop {
        match hear(socket) {
            Ok((Setup::Born { pid }, fds)) => {
                born = Pid::from_raw(pid).zip(fds.into_iter().next());
            }
            Ok((Setup::Ready, _)) => ready = true,
            Ok((Setup::Failed(message), _)) => {
                // Who says so ends by itself.
                return Err(Failure::other(message));
            }
            Err(failure) => {
                if let Some((pid, pidfd)) = born {
                    kill(pid, &pidfd);
                }
                return Err(failure);
            }
        }
        if let Some(born) = born.take_if(|_| ready) {
            return Ok(born);
        }
    }
}

/// Ends a container's init. That is certain: it is killed from outside of its pid namespace.
fn kill(pid: Pid, pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let _ = waitpid(Some(pid), WaitOptions::empty());
}
