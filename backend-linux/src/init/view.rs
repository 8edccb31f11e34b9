//! What a process sees of file systems, put together in a mount namespace of its own.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{Bind, Defence, Defences},
    sys::set_mount_read_only,
};
use rustix::{
    fs::{FileType, Mode, OFlags, open},
    mount::{MountAttrFlags, OpenTreeFlags, UnmountFlags, unmount},
    process::{chdir, fchdir, pivot_root},
};

use crate::mounts::{attach, beneath, clone_of, file_system, find, image_directory, is_directory, make};

const QUIET: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Where file systems of the kernel's are mounted.
const PROC: &str = "proc";
const SYS: &str = "sys";
/// Files and directories of /proc and /sys that tell about the host, or act on it.
const MASKED_IN_PROC: &[&str] =
    &["kcore", "keys", "timer_list", "timer_stats", "latency_stats", "sched_debug", "scsi", "acpi"];
const MASKED_IN_SYS: &[&str] = &["firmware", "devices/virtual/powercap"];
const READ_ONLY_IN_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

pub type Outcome<T> = Result<T, String>;

pub trait Context<T> {
    fn context(self, what: &str) -> Outcome<T>;
}

impl<T, E: std::fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: &str) -> Outcome<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// At most so many files are covered.
pub const COVERS: usize = MASKED_IN_PROC.len() + MASKED_IN_SYS.len();

/// Makes a detached tree, which is mounted somewhere in this mount namespace, the root, and lets go of everything else.
pub fn pivot(root: &OwnedFd, defences: &Defences) -> Outcome<()> {
    let host =
        open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context("open /")?;
    fchdir(root).context("enter the root filesystem")?;
    // Until the host's tree is let go of, `/..` leads into it: here nothing may be done by a path.
    pivot_root(".", ".").context("pivot_root")?;
    fchdir(&host).context("go back to the host's root")?;
    if defences.have(Defence::DetachedHost) {
        unmount(".", UnmountFlags::DETACH).context("let go of the host's root")?;
    }
    chdir("/").context("enter /")
}

/// File systems of the container's own namespaces. The kernel allows /proc and /sys only where the host's are seen.
pub struct FileSystems {
    proc: OwnedFd,
    sys: OwnedFd,
    /// The container's own part of the cgroups, read-only.
    cgroup: Option<OwnedFd>,
}

impl FileSystems {
    /// Makes them, mounted nowhere, while the host's are seen. `cgroups` is what is shown of version 1.
    pub fn make(privileged: bool, cgroups: Option<OwnedFd>) -> Outcome<FileSystems> {
        let read_only = QUIET | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let groups = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        let v2_alone = groups.lines().all(|line| line.starts_with("0::"));
        let cgroup = match !privileged && v2_alone {
            true => Some(file_system("cgroup2", &[], read_only).context("make /sys/fs/cgroup")?),
            false => cgroups,
        };
        Ok(FileSystems {
            proc: file_system("proc", &[], QUIET).context("make /proc")?,
            sys: file_system("sysfs", &[], read_only).context("make /sys")?,
            cgroup,
        })
    }

    /// Puts them in their places, with a `/dev`.
    pub fn attach(&self, root: &OwnedFd, dev: &OwnedFd, defences: &Defences) -> Outcome<()> {
        for (mount, name) in [(&self.proc, PROC), (&self.sys, SYS), (dev, "dev")] {
            attach(mount, &image_directory(root, name, defences)?).context(&format!("mount /{name}"))?;
        }
        match &self.cgroup {
            Some(cgroup) => attach_beneath(&self.sys, "fs/cgroup", cgroup),
            None => Ok(()),
        }
    }

    /// Covers what tells about the host, and protects what acts on it.
    /// `cover` gives a null device for each file.
    pub fn hide_host(
        &self,
        root: &OwnedFd,
        mut cover: impl FnMut() -> io::Result<OwnedFd>,
        defences: &Defences,
    ) -> Outcome<()> {
        // By their paths these are what the image makes of them.
        let place = |top: &str, name: &str| match defences.have(Defence::PlacesByDescriptor) {
            true => beneath(if top == PROC { &self.proc } else { &self.sys }, name),
            false => find(root, &Path::new(top).join(name), OFlags::empty()),
        };
        let masked = MASKED_IN_PROC.iter().map(|name| (PROC, name));
        let masked = masked.chain(MASKED_IN_SYS.iter().map(|name| (SYS, name)));
        for (top, name) in masked.filter(|_| defences.have(Defence::MaskedPaths)) {
            let masked =
                place(top, name).and_then(|place| place.map_or(Ok(()), |place| mask(&place, &mut cover)));
            masked.context(&format!("mask {name:?} of /{top}"))?;
        }
        for name in READ_ONLY_IN_PROC.iter().filter(|_| defences.have(Defence::ReadOnlyPaths)) {
            let make_read_only = || -> io::Result<()> {
                let Some(place) = place(PROC, name)? else { return Ok(()) };
                let same = clone_of(&place, "", OpenTreeFlags::AT_EMPTY_PATH)?;
                set_mount_read_only(same.as_fd())?;
                attach(&same, &place)
            };
            make_read_only().context(&format!("make {name:?} of /proc read-only"))?;
        }
        Ok(())
    }
}

fn mask(place: &OwnedFd, cover: &mut impl FnMut() -> io::Result<OwnedFd>) -> io::Result<()> {
    let cover = if is_directory(place)? {
        file_system("tmpfs", &[("size", "0k")], MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        cover()?
    };
    attach(&cover, place)
}

/// A detached copy of what the container whose `root` this is has at a path.
pub fn own_bind(root: &OwnedFd, bind: &Bind) -> Outcome<OwnedFd> {
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

/// Mounts what belongs in a new `/dev`.
pub fn fill_dev(dev: &OwnedFd, devpts: &OwnedFd) -> Outcome<()> {
    let shm = file_system("tmpfs", &[("mode", "1777"), ("size", "65536k")], QUIET);
    let mqueue = file_system("mqueue", &[], QUIET);
    attach_beneath(dev, "pts", devpts)?;
    attach_beneath(dev, "shm", &shm.context("make /dev/shm")?)?;
    attach_beneath(dev, "mqueue", &mqueue.context("make /dev/mqueue")?)
}

/// Mounts at a place of another file system, where that has it.
fn attach_beneath(parent: &OwnedFd, name: &str, mount: &OwnedFd) -> Outcome<()> {
    let place = beneath(parent, name).and_then(|place| place.map_or(Ok(()), |place| attach(mount, &place)));
    place.context(&format!("mount {name}"))
}

/// Makes `/tmp` where the image has none.
pub fn make_tmp(root: &OwnedFd) -> Outcome<()> {
    if find(root, Path::new("tmp"), OFlags::empty()).context("look for /tmp")?.is_none() {
        make(root, "tmp".as_ref(), FileType::Directory, 0o1777).context("make /tmp")?;
    }
    Ok(())
}
