//! Going into the container: the first steps of every child that does something there.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use backend_linux::{
    seccomp::FILTER,
    supervisor::{Defence, Failure, IdRange, OwnRoot, ids_inside},
    sys::{Forked, close_all_but, fork, leave_session_keyring},
};
use nix::sched::{CloneFlags, setns};
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, fchown, mkdirat, open, openat, renameat_with, unlinkat},
    io::Errno,
    process::{Gid, Pid, Uid, getpid, umask},
};

use crate::{
    apparmor,
    credentials::{self, Confinement},
    own_root,
    start::{Cgroup, Container},
    users::{self, User},
};

/// The longest reason that a child can give: a pipe takes 4096 bytes in one piece, and JSON may need six for one.
const MAX_FAILURE_CHARACTERS: usize = 600;
const MAX_FAILURE_BYTES: u64 = 4096;

/// What a child says on its status pipe when all that is left to do is to execute the program. If the pipe is then
/// closed, that has been done; if it is closed before, the child has died.
pub const STARTING: u8 = b'>';

/// Whose resources a child uses.
#[derive(Clone, Copy)]
pub enum Account<'a> {
    /// Those of a cgroup of the container's: it is born there, where that can be, and joins the rest.
    Of(&'a Cgroup),
    /// The supervisor's: a container that has used up its own must not be beyond reach.
    Supervisor,
}

/// Forks a child of the container. It does `act`, and says on `status` why that failed, if it did. Of the supervisor's
/// descriptors it has only `keep`, and what it takes to enter the container.
pub fn spawn(
    container: &Container,
    account: Account<'_>,
    status: OwnedFd,
    keep: &[BorrowedFd<'_>],
    act: impl FnOnce(BorrowedFd<'_>) -> Result<(), Failure>,
) -> io::Result<(Pid, OwnedFd)> {
    let (born_in, joined) = match account {
        Account::Of(cgroup) => (cgroup.v2_dir.as_ref().map(AsFd::as_fd), cgroup.v1_tasks.as_slice()),
        Account::Supervisor => (None, container.main_cgroup.v1_tasks.as_slice()),
    };
    match fork(CloneFlags::empty(), born_in)? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Forked::Child => {
            let own = [status.as_fd(), container.init_pidfd()];
            let groups = joined.iter().map(AsFd::as_fd);
            let all: Vec<_> = keep.iter().copied().chain(own).chain(groups).collect();
            let closed = match container.defences.have(Defence::ClosedDescriptors) {
                true => close_all_but(&all).map_err(failed("close descriptors")),
                false => Ok(()),
            };
            let failure = match closed.and_then(|()| act(status.as_fd())) {
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
pub fn read_failure(status: OwnedFd, exit_status: i32) -> Failure {
    let mut said = Vec::new();
    // Without an end yet, it has said what it had to say all the same.
    let _ = File::from(status).take(MAX_FAILURE_BYTES).read_to_end(&mut said);
    failure_of(&said, exit_status)
}

/// What such words mean.
pub fn failure_of(said: &[u8], exit_status: i32) -> Failure {
    let json = said.strip_prefix(&[STARTING]).unwrap_or(said);
    serde_json::from_slice(json).unwrap_or_else(|_| {
        Failure::other(format!(
            "its helper in the container ended with status {exit_status}, and said nothing"
        ))
    })
}

fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> Failure {
    let what = what.to_owned();
    move |error| Failure::other(format!("{what}: {error}"))
}

/// A child on its way in, seeing the container's files, but still root of the host.
pub struct Inside<'a> {
    container: &'a Container,
    pub user: User,
}

/// What the calling process executes will be under the container's AppArmor profile. For before it enters: inside it
/// could no longer say so.
pub fn change_profile_at_exec(container: &Container) -> Result<(), Failure> {
    let profile = container.hardening.apparmor_profile.as_ref().filter(|_| !container.is_privileged());
    profile.map_or(Ok(()), |profile| {
        let what = format!("ask for the AppArmor profile {profile} (is it still loaded?)");
        apparmor::change_at_exec(profile).map_err(failed(&what))
    })
}

/// Enters the cgroup and every namespace but the user's, and finds the user.
pub fn enter<'a>(container: &'a Container, cgroup: &Cgroup, user: &str) -> Result<Inside<'a>, Failure> {
    enter_root(container, cgroup, None, user)
}

/// The same, with a root filesystem that may be the process's own.
pub fn enter_root<'a>(
    container: &'a Container,
    cgroup: &Cgroup,
    own: Option<&OwnRoot>,
    user: &str,
) -> Result<Inside<'a>, Failure> {
    cgroup.join().map_err(failed("join the container's cgroup"))?;
    match own {
        Some(own) => own_root::enter(container, own)?,
        None => enter_namespaces(container)?,
    }
    umask(Mode::from(0o022));
    let user = users::find(user).map_err(Failure::other)?;
    check_ids(container, &user)?;
    Ok(Inside { container, user })
}

/// Every namespace but the user's.
pub fn enter_namespaces(container: &Container) -> Result<(), Failure> {
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    setns(container.init_pidfd(), namespaces).map_err(failed("enter the container"))
}

/// Refuses a user whom the container has no ids for: the kernel would only say that an argument is wrong.
fn check_ids(container: &Container, user: &User) -> Result<(), Failure> {
    let Some(ids) = container.id_maps() else { return Ok(()) };
    let missing = |what: &str, id: u32, map: &[IdRange]| {
        let (name, has) = (&user.name, ids_inside(map));
        Err(Failure::other(format!("user {name}: the container has no {what} id {id}, only {has}")))
    };
    if ids.user(user.uid).is_none() {
        return missing("user", user.uid, &ids.users);
    }
    match user.groups.iter().chain([&user.gid]).find(|gid| ids.group(**gid).is_none()) {
        Some(gid) => missing("group", *gid, &ids.groups),
        None => Ok(()),
    }
}

impl Inside<'_> {
    /// Gives what the process is to have as standard streams to its user, who may want to open them by name.
    pub fn own(&self, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        // Every user that was found has one.
        let uid = self.container.id_maps().map_or(Some(self.user.uid), |ids| ids.user(self.user.uid));
        let uid =
            uid.ok_or_else(|| Failure::other(format!("user {} has no id on the host", self.user.uid)))?;
        for fd in fds {
            fchown(fd, Some(Uid::from_raw(uid)), None)
                .map_err(failed("give the standard streams to the user"))?;
        }
        Ok(())
    }

    /// Becomes root of the container, no longer of the host.
    pub fn become_root(&self) -> Result<(), Failure> {
        if !self.container.is_privileged() {
            setns(self.container.init_pidfd(), CloneFlags::CLONE_NEWUSER)
                .map_err(failed("enter the container's user namespace"))?;
        }
        // Made after the user namespace was entered, so that it counts against that.
        leave_session_keyring().map_err(failed("leave the host's keyring"))?;
        credentials::become_root().map_err(failed("become root of the container"))
    }

    /// Becomes the user, confined as every process of the container is.
    pub fn become_user(&self) -> Result<(), Failure> {
        let Container { hardening, defences, .. } = self.container;
        let privileged = self.container.is_privileged();
        let confinement = Confinement { privileged, filter: FILTER, hardening, defences };
        credentials::become_user(&self.user, &confinement).map_err(failed("become the user"))
    }

    /// Makes a directory and its parents, owned by the user, where they are missing. What is made is given away by
    /// descriptor: the user may own the parent, and put something else in its place.
    pub fn make_directory(&self, path: &Path) -> Result<(), Failure> {
        self.walk(path).map_err(failed(&format!("make directory {}", path.display())))
    }

    fn walk(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = open("/", flags, Mode::empty())?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => "..".as_ref(),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            here = match openat(&here, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => self.make_below(&here, name)?,
                found => found?,
            };
        }
        Ok(())
    }

    /// Makes one directory. It appears under its name when it is the user's already: another process may be looking.
    fn make_below(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // No other process of the container has this number.
        let own = format!(".garden-{}", getpid().as_raw_nonzero());
        mkdirat(parent, &own, Mode::from(0o755))?;
        let directory = openat(parent, &own, flags, Mode::empty())?;
        fchown(&directory, Some(Uid::from_raw(self.user.uid)), Some(Gid::from_raw(self.user.gid)))?;
        match renameat_with(parent, &own, parent, name, RenameFlags::NOREPLACE) {
            // Another process was faster.
            Err(Errno::EXIST) => {
                unlinkat(parent, &own, AtFlags::REMOVEDIR)?;
                Ok(openat(parent, name, flags, Mode::empty())?)
            }
            renamed => Ok(renamed.map(|()| directory)?),
        }
    }
}
