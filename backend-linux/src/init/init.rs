//! The container's pid 1: puts the mounts in place, gives up what it does not need, and reaps orphans.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{Bind, Defence, Defences, StartRequest, send},
    sys::{close_all_but, give_back_freed_memory, reset_signals, set_mount_read_only},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal as NixSignal},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, open},
    mount::{
        MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change,
        move_mount, unmount,
    },
    process::{
        Signal, WaitOptions, chdir, fchdir, pivot_root, set_parent_process_death_signal, setsid, wait,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    system::sethostname,
};

use crate::{
    credentials::{self, Confinement},
    mounts::{
        Outside, attach, beneath, bind_at, clone_of, file_system, find, image_directory, is_directory, make,
    },
    namespaces::Namespaces,
    start::{Cgroup, Setup},
    users::User,
};

/// Files and directories of /proc and /sys that tell about the host, or act on it.
const MASKED_IN_PROC: &[&str] =
    &["kcore", "keys", "timer_list", "timer_stats", "latency_stats", "sched_debug", "scsi", "acpi"];
const MASKED_IN_SYS: &[&str] = &["firmware", "devices/virtual/powercap"];
const READ_ONLY_IN_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

type Outcome<T> = Result<T, String>;

trait Context<T> {
    fn context(self, what: &str) -> Outcome<T>;
}

impl<T, E: std::fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: &str) -> Outcome<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

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
    let own = FileSystems::make(privileged)?;
    let host =
        open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context("open /")?;
    fchdir(root).context("enter the root filesystem")?;
    // Until the host's tree is let go of, `/..` leads into it: here nothing may be done by a path.
    pivot_root(".", ".").context("pivot_root")?;
    fchdir(&host).context("go back to the host's root")?;
    unmount(".", UnmountFlags::DETACH).context("let go of the host's root")?;
    chdir("/").context("enter /")?;
    drop(host);

    own.attach(root, dev, &namespaces.devpts)?;
    // Before the bind mounts, which may show parts of /proc elsewhere.
    own.hide_host(dev, &request.defences)?;
    for bind in &request.binds {
        let own;
        let mount = if bind.from_container {
            own = own_bind(root, bind)?;
            &own
        } else {
            next()?
        };
        bind_at(root, &bind.target, mount).context(&format!("bind mount at {:?}", bind.target))?;
    }
    if find(root, Path::new("tmp"), OFlags::empty()).context("look for /tmp")?.is_none() {
        make(root, "tmp".as_ref(), FileType::Directory, 0o1777).context("make /tmp")?;
    }
    sethostname(request.hostname.as_bytes()).context("set the host name")?;
    let StartRequest { hardening, defences, .. } = request;
    let confinement = Confinement { privileged, hardening, defences };
    credentials::become_user(&User::root(), &confinement).context("give up privileges")?;
    // Without its supervisor nobody would ever hear of the container again.
    set_parent_process_death_signal(Some(Signal::KILL)).context("die with the supervisor")?;
    Ok(())
}

/// File systems of the container's own namespaces. The kernel allows /proc and /sys only where the host's are seen.
struct FileSystems {
    proc: OwnedFd,
    sys: OwnedFd,
    /// On a host with cgroup v2 alone the container sees its own part, read-only.
    cgroup: Option<OwnedFd>,
    shm: OwnedFd,
    mqueue: OwnedFd,
}

impl FileSystems {
    fn make(privileged: bool) -> Outcome<FileSystems> {
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let read_only = quiet | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let groups = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        let v2_alone = groups.lines().all(|line| line.starts_with("0::"));
        let cgroup = (!privileged && v2_alone).then(|| file_system("cgroup2", &[], read_only));
        Ok(FileSystems {
            proc: file_system("proc", &[], quiet).context("make /proc")?,
            sys: file_system("sysfs", &[], read_only).context("make /sys")?,
            cgroup: cgroup.transpose().context("make /sys/fs/cgroup")?,
            shm: file_system("tmpfs", &[("mode", "1777"), ("size", "65536k")], quiet)
                .context("make /dev/shm")?,
            mqueue: file_system("mqueue", &[], quiet).context("make /dev/mqueue")?,
        })
    }

    fn attach(&self, root: &OwnedFd, dev: &OwnedFd, devpts: &OwnedFd) -> Outcome<()> {
        for (mount, name) in [(&self.proc, "proc"), (&self.sys, "sys"), (dev, "dev")] {
            attach(mount, &image_directory(root, name)?).context(&format!("mount /{name}"))?;
        }
        let cgroup = self.cgroup.iter().map(|cgroup| (cgroup, &self.sys, "fs/cgroup"));
        let in_dev = [(devpts, dev, "pts"), (&self.shm, dev, "shm"), (&self.mqueue, dev, "mqueue")];
        for (mount, parent, name) in cgroup.chain(in_dev) {
            let context = format!("mount {name}");
            if let Some(place) = beneath(parent, name).context(&context)? {
                attach(mount, &place).context(&context)?;
            }
        }
        Ok(())
    }

    fn hide_host(&self, dev: &OwnedFd, defences: &Defences) -> Outcome<()> {
        let masked = MASKED_IN_PROC.iter().map(|name| (&self.proc, name));
        let masked = masked.chain(MASKED_IN_SYS.iter().map(|name| (&self.sys, name)));
        for (mount, name) in masked.filter(|_| defences.have(Defence::MaskedPaths)) {
            mask(mount, name, dev).context(&format!("mask {name:?} of /proc or /sys"))?;
        }
        for name in READ_ONLY_IN_PROC.iter().filter(|_| defences.have(Defence::ReadOnlyPaths)) {
            let make_read_only = || -> io::Result<()> {
                let Some(place) = beneath(&self.proc, name)? else { return Ok(()) };
                let same = clone_of(&place, "", OpenTreeFlags::AT_EMPTY_PATH)?;
                set_mount_read_only(same.as_fd())?;
                attach(&same, &place)
            };
            make_read_only().context(&format!("make {name:?} of /proc read-only"))?;
        }
        Ok(())
    }
}

fn mask(mount: &OwnedFd, name: &str, dev: &OwnedFd) -> io::Result<()> {
    let Some(place) = beneath(mount, name)? else { return Ok(()) };
    let cover = if is_directory(&place)? {
        file_system("tmpfs", &[("size", "0k")], MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        clone_of(dev, "null", OpenTreeFlags::empty())?
    };
    attach(&cover, &place)
}

fn own_bind(root: &OwnedFd, bind: &Bind) -> Outcome<OwnedFd> {
    let context = format!("bind mount of the container's {:?}", bind.source);
    let source = find(root, &bind.source, OFlags::empty())
        .and_then(|found| found.ok_or_else(|| ErrorKind::NotFound.into()))
        .context(&context)?;
    let flags = OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
    let mount = clone_of(&source, "", flags).context(&context)?;
    if bind.read_only {
        set_mount_read_only(mount.as_fd()).context(&context)?;
    }
    Ok(mount)
}

/// The rest of pid 1's life.
fn reap_for_ever() -> ! {
    reset_signals();
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
