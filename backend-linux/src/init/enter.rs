//! Going into the container: the first steps of every child that does something there.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::Failure,
    sys::{Forked, close_from, fork},
};
use nix::sched::{CloneFlags, setns};
use rustix::{
    fs::Mode,
    process::{Pid, umask},
};

use crate::{
    credentials,
    start::Container,
    users::{self, User},
};

/// The longest reason that a child can give: a pipe takes 4096 bytes in one piece, and JSON may need six for one.
const MAX_FAILURE_CHARACTERS: usize = 600;
const MAX_FAILURE_BYTES: u64 = 4096;

/// Forks a child of the container. It does `act`, and says on `status` why that failed, if it did.
pub fn spawn(
    container: &Container,
    status: OwnedFd,
    act: impl FnOnce() -> Result<(), Failure>,
) -> io::Result<(Pid, OwnedFd)> {
    match fork(CloneFlags::empty(), container.main_cgroup.v2_dir.as_ref().map(AsFd::as_fd))? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Forked::Child => {
            let failure = match act() {
                Ok(()) => std::process::exit(0),
                Err(failure) => failure,
            };
            // In one piece, which the reader so finds whole. If nobody reads it, the exit status says that it failed.
            let message = failure.message.chars().take(MAX_FAILURE_CHARACTERS).collect();
            let json = serde_json::to_vec(&Failure { message, ..failure }).unwrap_or_default();
            let _ = rustix::io::write(&status, &json);
            std::process::exit(127)
        }
    }
}

/// What a child said on its status pipe before it ended with `exit_status`.
pub fn read_failure(status: &OwnedFd, exit_status: i32) -> Failure {
    read_failure_after(&[], status, exit_status)
}

/// The same, when its beginning has been read already.
pub fn read_failure_after(first: &[u8], status: &OwnedFd, exit_status: i32) -> Failure {
    let mut json = first.to_vec();
    if let Ok(reader) = status.try_clone().map(std::fs::File::from) {
        // The child may be alive still, so that there is no end yet; but what it says came in one piece.
        let _ = reader.take(MAX_FAILURE_BYTES).read_to_end(&mut json);
    }
    serde_json::from_slice(&json).unwrap_or_else(|_| {
        Failure::other(format!("its helper in the container ended with status {exit_status}"))
    })
}

fn failed(what: &str) -> impl Fn(io::Error) -> Failure {
    let what = what.to_owned();
    move |error| Failure::other(format!("{what}: {error}"))
}

/// A child on its way in, seeing the container's files, but still root of the host.
pub struct Inside<'a> {
    container: &'a Container,
    pub user: User,
}

/// Enters the cgroup and every namespace but the user's, and finds the user.
pub fn enter<'a>(container: &'a Container, user: &str) -> Result<Inside<'a>, Failure> {
    container.main_cgroup.join().map_err(failed("join the container's cgroup"))?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    set_namespaces(container, namespaces).map_err(failed("enter the container"))?;
    umask(Mode::from(0o022));
    let user = users::find(user).map_err(Failure::other)?;
    Ok(Inside { container, user })
}

fn set_namespaces(container: &Container, namespaces: CloneFlags) -> io::Result<()> {
    Ok(setns(container.init_pidfd(), namespaces)?)
}

impl Inside<'_> {
    /// Gives what the process is to have as standard streams to its user, who may want to open them by name.
    pub fn own(&self, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let Some(uid) = self.container.outside_id(self.user.uid) else {
            return Err(Failure::other(format!("user {} has no id on the host", self.user.uid)));
        };
        for fd in fds {
            rustix::fs::fchown(fd, Some(rustix::process::Uid::from_raw(uid)), None)
                .map_err(|error| failed("give the standard streams to the user")(error.into()))?;
        }
        Ok(())
    }

    /// Becomes root of the container, no longer of the host.
    pub fn become_root(&self) -> Result<(), Failure> {
        if !self.container.is_privileged() {
            set_namespaces(self.container, CloneFlags::CLONE_NEWUSER)
                .map_err(failed("enter the container's user namespace"))?;
        }
        credentials::become_root().map_err(failed("become root of the container"))
    }

    /// Becomes the user, with what capabilities belong to it.
    pub fn become_user(&self) -> Result<(), Failure> {
        credentials::become_user(&self.user, self.container.is_privileged())
            .map_err(failed("become the user"))
    }

    /// Makes a directory and its parents, owned by the user, unless it is there.
    pub fn make_directory(&self, path: &Path) -> Result<(), Failure> {
        let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
            let make = || {
                std::fs::create_dir(path)?;
                std::os::unix::fs::lchown(path, Some(self.user.uid), Some(self.user.gid))
            };
            make().map_err(failed(&format!("make directory {}", path.display())))?;
        }
        Ok(())
    }

    /// Marks every descriptor but the standard three to be closed.
    pub fn close_others_at_exec(&self) -> Result<(), Failure> {
        close_from(3, false).map_err(failed("close descriptors"))
    }
}
