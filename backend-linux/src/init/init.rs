//! The container's pid 1: puts the mounts in place, gives up what it does not need, and reaps orphans.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use backend_linux::{
    supervisor::{Bind, StartRequest, recv, send},
    sys::{close_from, reset_signals, set_mount_read_only},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{SigSet, Signal as NixSignal},
};
use rustix::{
    fs::{CWD, Mode, OFlags, open},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
        mount_remount, move_mount, open_tree, unmount,
    },
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::{
        DumpableBehavior, Signal, WaitOptions, chdir, fchdir, pivot_root, set_dumpable_behavior,
        set_parent_process_death_signal, setsid, wait,
    },
    system::sethostname,
};

use crate::{
    credentials,
    start::{Cgroup, Setup},
    users::User,
};

/// Files and directories of /proc and /sys that tell about the host, or act on it.
const MASKED: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/acpi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

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
pub fn become_init(request: &StartRequest, cgroup: &Cgroup, socket: &OwnedFd) -> ! {
    match set_up(request, cgroup, socket) {
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

fn set_up(request: &StartRequest, cgroup: &Cgroup, socket: &OwnedFd) -> Outcome<()> {
    cgroup.join().context("join the container's cgroup")?;
    // No protocol: 0, which is NETLINK_ROUTE.
    let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .context("open a netlink socket")?;
    send(socket, &Setup::Network, &[netlink.as_fd()]).context("hand over the netlink socket")?;
    drop(netlink);
    let (_, fds) = recv::<Setup>(socket)
        .context("hear from the supervisor")?
        .ok_or_else(|| "the supervisor is gone".to_owned())?;
    let mut outside = fds.into_iter();
    let mut next = || outside.next().ok_or_else(|| "the supervisor sent too few mounts".to_owned());
    let (root, dev, devpts) = (next()?, next()?, next()?);

    // After joining the cgroup, which becomes the root of what is seen of them.
    unshare(CloneFlags::CLONE_NEWCGROUP).context("new cgroup namespace")?;
    // Before anything is mounted: nothing may come here from the host later, or go there from here.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("make / private")?;
    // While this process is still root of the host as far as files go: the path may be closed to others.
    attach(&root, &request.mount_point).context("mount the root filesystem")?;
    credentials::become_root().context("become root of the container")?;
    setsid().context("new session")?;
    // The container's own files are made with the modes that are asked for.
    let host =
        open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context("open /")?;
    fchdir(&root).context("enter the root filesystem")?;
    pivot_root(".", ".").context("pivot_root")?;

    // The host's tree is still there, though hidden: the kernel allows /proc and /sys only where they are seen.
    kernel_file_systems(request.id_map.is_none())?;
    attach_at("/dev", &dev)?;
    attach_at("/dev/pts", &devpts)?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", "/dev/shm", "tmpfs", quiet | MountFlags::RELATIME, c"mode=1777,size=65536k")
        .context("mount /dev/shm")?;
    mount("mqueue", "/dev/mqueue", "mqueue", quiet, None).context("mount /dev/mqueue")?;

    fchdir(&host).context("go back to the host's root")?;
    unmount(".", UnmountFlags::DETACH).context("let go of the host's root")?;
    chdir("/").context("enter /")?;
    drop((host, root));

    for bind in &request.binds {
        let mount = if bind.from_container { own_bind(bind)? } else { next()? };
        bind_at(&bind.target, &mount).context(&format!("bind mount at {:?}", bind.target))?;
    }
    hide_host()?;
    let temporary = Path::new("/tmp");
    if !temporary.exists() {
        make_directory(temporary).context("make /tmp")?;
        fs::set_permissions(temporary, fs::Permissions::from_mode(0o1777)).context("make /tmp")?;
    }
    sethostname(request.hostname.as_bytes()).context("set the host name")?;
    credentials::become_user(&User::root(), request.id_map.is_none()).context("give up capabilities")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("forbid tracing")?;
    // Without its supervisor nobody would ever hear of the container again.
    set_parent_process_death_signal(Some(Signal::KILL)).context("die with the supervisor")?;
    Ok(())
}

fn attach(mount: &OwnedFd, path: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    Ok(move_mount(mount, "", CWD, path, flags)?)
}

fn attach_at(path: &str, mount: &OwnedFd) -> Outcome<()> {
    let context = format!("mount {path}");
    make_directory(Path::new(path)).and_then(|()| attach(mount, Path::new(path))).context(&context)
}

fn kernel_file_systems(privileged: bool) -> Outcome<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    make_directory(Path::new("/proc")).context("make /proc")?;
    mount("proc", "/proc", "proc", quiet, None).context("mount /proc")?;
    make_directory(Path::new("/sys")).context("make /sys")?;
    mount("sysfs", "/sys", "sysfs", quiet | MountFlags::RDONLY, None).context("mount /sys")?;
    // On a host with cgroup v2 alone the container sees its own part, read-only.
    if !privileged && Path::new("/sys/fs/cgroup").is_dir() {
        let v1 = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        if v1.lines().all(|line| line.starts_with("0::")) {
            mount("cgroup", "/sys/fs/cgroup", "cgroup2", quiet | MountFlags::RDONLY, None)
                .context("mount /sys/fs/cgroup")?;
        }
    }
    Ok(())
}

fn own_bind(bind: &Bind) -> Outcome<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let context = format!("bind mount of the container's {:?}", bind.source);
    let mount = open_tree(CWD, &bind.source, flags).context(&context)?;
    if bind.read_only {
        set_mount_read_only(mount.as_fd()).context(&context)?;
    }
    Ok(mount)
}

/// Mounts over `target`, which is made if it is missing: a directory for a directory, else a file.
fn bind_at(target: &Path, mount: &OwnedFd) -> io::Result<()> {
    let directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode).is_dir();
    if !target.exists() {
        // A link that leads nowhere would be followed to wherever it leads once that is made.
        if target.is_symlink() {
            fs::remove_file(target)?;
        }
        if directory {
            make_directory(target)?;
        } else {
            if let Some(parent) = target.parent() {
                make_directory(parent)?;
            }
            fs::File::create(target)?.set_permissions(fs::Permissions::from_mode(0o644))?;
        }
    }
    attach(mount, target)
}

fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() { Ok(()) } else { fs::DirBuilder::new().recursive(true).mode(0o755).create(path) }
}

fn hide_host() -> Outcome<()> {
    for path in MASKED.iter().map(Path::new) {
        let context = format!("mask {path:?}");
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context(&context),
            Ok(found) if found.is_dir() => {
                mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, c"size=0k").context(&context)?;
            }
            Ok(_) => rustix::mount::mount_bind("/dev/null", path).context(&context)?,
        }
    }
    for path in READ_ONLY.iter().map(Path::new).filter(|path| path.exists()) {
        let context = format!("make {path:?} read-only");
        rustix::mount::mount_bind_recursive(path, path).context(&context)?;
        let flags = MountFlags::BIND
            | MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        mount_remount(path, flags, c"").context(&context)?;
    }
    Ok(())
}

/// The rest of pid 1's life.
fn reap_for_ever() -> ! {
    reset_signals();
    let mut child = SigSet::empty();
    child.add(NixSignal::SIGCHLD);
    // Blocked before the first look, so that no child's end is missed between a look and a wait.
    let _ = child.thread_block();
    let _ = close_from(0, true);
    // As 0, 1 and 2: whatever writes there by habit goes nowhere.
    if let Ok(null) = open("/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = rustix::io::dup(&null).map(std::mem::forget);
        let _ = rustix::io::dup(&null).map(std::mem::forget);
        std::mem::forget(null);
    }
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let _ = child.wait();
    }
}
