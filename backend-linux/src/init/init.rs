//! The container's pid 1: puts the mounts in place, gives up what it does not need, and reaps orphans.

use std::os::fd::OwnedFd;

use backend_linux::{
    seccomp::OWN_FILTER,
    supervisor::{StartRequest, send},
    sys::{close_all_but, give_back_freed_memory, reset_signals_of_child},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal as NixSignal},
};
use rustix::{
    fs::{CWD, Mode, OFlags, open},
    mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount},
    process::{Signal, WaitOptions, set_parent_process_death_signal, setsid, wait},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    system::sethostname,
};

use crate::{
    apparmor,
    credentials::{self, Confinement},
    mounts::{Outside, bind_at, clone_of},
    namespaces::Namespaces,
    start::{Cgroup, Setup},
    users::User,
    view::{self, Context, FileSystems, Outcome},
};

/// Goes on as pid 1 of the new namespaces; never comes back.
pub fn become_init(
    request: &StartRequest,
    namespaces: &Namespaces,
    outside: &Outside,
    cgroup: &Cgroup,
    socket: &OwnedFd,
) -> ! {
    match set_up(request, namespaces, outside, cgroup) {
        Ok(()) => {
            if send(socket, &Setup::Ready, &[]).is_err() {
                std::process::exit(1);
            }
            reap_for_ever()
        }
        Err(message) => {
            let _ = send(socket, &Setup::Failed(message), &[]);
            std::process::exit(1)
        }
    }
}

fn set_up(
    request: &StartRequest,
    namespaces: &Namespaces,
    outside: &Outside,
    cgroup: &Cgroup,
) -> Outcome<()> {
    cgroup.join().context("join the container's cgroup")?;
    let privileged = namespaces.ids.is_none();
    let profile = request.hardening.apparmor_profile.as_deref().filter(|_| !privileged);
    let profile = profile.map(apparmor::Change::prepare).transpose().context("prepare for AppArmor")?;
    let (root, dev) = (&outside.root, &namespaces.dev);
    let mut from_host = outside.binds.iter();
    let mut next = || from_host.next().ok_or_else(|| "the supervisor made too few mounts".to_owned());

    // After joining the cgroup, which becomes the root of what is seen of them.
    unshare(CloneFlags::CLONE_NEWCGROUP).context("new cgroup namespace")?;
    // Before anything is mounted: nothing may come here from the host later, or go there from here.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("make / private")?;
    // While this process is still root of the host as far as files go: the path may be closed to others.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, &request.mount_point, flags).context("mount the root filesystem")?;
    credentials::become_root().context("become root of the container")?;
    setsid().context("new session")?;
    let cgroups = outside.cgroups.as_ref().map(OwnedFd::try_clone).transpose();
    let own = FileSystems::make(privileged, cgroups.context("keep the view of cgroups")?)?;
    view::pivot(root, &request.defences)?;

    own.attach(root, dev, &request.defences)?;
    view::fill_dev(dev, &outside.devpts)?;
    // Before the bind mounts, which may show parts of /proc elsewhere.
    own.hide_host(root, || clone_of(dev, "null", OpenTreeFlags::empty()), &request.defences)?;
    for (file, mount) in request.own_files.iter().zip(&outside.own_files) {
        bind_at(root, &file.target, mount).context(&format!("mount {:?}", file.target))?;
    }
    for bind in &request.binds {
        let own;
        let mount = if bind.from_container {
            own = view::own_bind(root, bind)?;
            &own
        } else {
            next()?
        };
        bind_at(root, &bind.target, mount).context(&format!("bind mount at {:?}", bind.target))?;
    }
    view::make_tmp(root)?;
    sethostname(request.hostname.as_bytes()).context("set the host name")?;
    // It allows no mounts.
    profile
        .map_or(Ok(()), apparmor::Change::make)
        .context("change to the AppArmor profile (is it still loaded?)")?;
    let StartRequest { hardening, defences, .. } = request;
    let confinement = Confinement { privileged, filter: OWN_FILTER, hardening, defences };
    credentials::become_user(&User::root(), &confinement).context("give up privileges")?;
    // Without its supervisor nobody would ever hear of the container again.
    set_parent_process_death_signal(Some(Signal::KILL)).context("die with the supervisor")?;
    Ok(())
}

/// The rest of pid 1's life.
fn reap_for_ever() -> ! {
    reset_signals_of_child();
    let mut child = SigSet::empty();
    child.add(NixSignal::SIGCHLD);
    // Blocked before the first look, so that no child's end is missed between a look and a wait.
    let _ = child.thread_block();
    // Nothing of the host stays open. Standard streams go to a null device, as the supervisor's do: the container's.
    let _ = close_all_but(&[]);
    if let Ok(null) = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
    give_back_freed_memory();
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let _ = child.wait();
    }
}
