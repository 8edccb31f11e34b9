//! A root filesystem for one process. Everything else it shares with the container: the other namespaces, `/dev` and
//! what is mounted in it, `/etc/hosts` and `/etc/resolv.conf`.

use std::{
    io::{self, ErrorKind},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use backend_linux::supervisor::{Failure, OwnRoot, Rootfs};
use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid, setfsgid, setfsuid},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, makedev, mknodat, open},
    mount::{MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount},
    thread::{capabilities, set_capabilities},
};

use crate::{
    binds,
    enter::enter_namespaces,
    mounts::{bind_at, clone_of, file_system, find, overlay},
    start::{Container, fail},
    view::{self, FileSystems},
};

/// What a process shares with the container's own, by its place there.
const SHARED_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];

/// What is shown of the container's own view.
struct Shared {
    dev: OwnedFd,
    /// Those that are there, as files: root of the container may have put something else in their place.
    files: Vec<(&'static str, OwnedFd)>,
    binds: Vec<OwnedFd>,
    /// What is seen of cgroup v1.
    cgroups: Option<OwnedFd>,
}

/// Takes the calling process, still root of the host, into all of the container's namespaces but the user's and the
/// mount namespace, and into a mount namespace of its own with this root. That belongs to the host: nothing inside has
/// power over it.
pub fn enter(container: &Container, own: &OwnRoot) -> Result<(), Failure> {
    let host = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| fail("open the host's mount namespace", error))?;
    enter_namespaces(container)?;
    let shared = shared(own, container.is_privileged()).map_err(Failure::other)?;
    setns(&host, CloneFlags::CLONE_NEWNS)
        .map_err(|error| fail("go back to the host's mount namespace", error))?;
    drop(host);

    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| fail("new mount namespace", error))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| fail("make / private", error))?;
    let covers = null_devices(&own.mount_point).map_err(|error| fail("make null devices", error))?;
    let (root, from_host) = mounts_of_the_host(container, own, container.user_namespace())?;
    as_containers_root(container, || put_together(container, own, &root, &shared, &from_host, covers))
        .map_err(|error| fail("act as the container's root", error))?
        .map_err(Failure::other)
}

/// Detached copies of what is shared. The calling process sees the container's files.
fn shared(own: &OwnRoot, privileged: bool) -> view::Outcome<Shared> {
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("open the container's root: {error}"))?;
    let place = |path: &str| {
        find(&root, Path::new(path), OFlags::empty())
            .map_err(|error| format!("look for the container's /{path}: {error}"))
    };
    let copied = |place: &OwnedFd, flags| {
        clone_of(place, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
            .map_err(|error| format!("copy what the container shares: {error}"))
    };
    let dev = place("dev")?.ok_or("the container has no /dev")?;
    let dev = copied(&dev, OpenTreeFlags::AT_RECURSIVE)?;
    let mut files = Vec::new();
    for path in SHARED_FILES {
        let Some(place) = place(path)? else { continue };
        // Of a directory, such as /proc, this would be a copy without what covers its parts.
        if is_file(&place).map_err(|error| format!("look at the container's /{path}: {error}"))? {
            files.push((path, copied(&place, OpenTreeFlags::empty())?));
        }
    }
    let cgroups = match place("sys/fs/cgroup")?.filter(|_| !privileged) {
        Some(place) => Some(copied(&place, OpenTreeFlags::AT_RECURSIVE)?),
        None => None,
    };
    let from_container = own.binds.iter().filter(|bind| bind.from_container);
    let binds = from_container.map(|bind| view::own_bind(&root, bind)).collect::<view::Outcome<_>>()?;
    Ok(Shared { dev, files, binds, cgroups })
}

fn is_file(place: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(place)?.st_mode).is_file())
}

/// What covers files: not of the container's `/dev`, whose root may have put anything there.
fn null_devices(mount_point: &Path) -> io::Result<Vec<OwnedFd>> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let devices = file_system("tmpfs", &[("mode", "0755"), ("size", "4k")], attributes)?;
    mknodat(&devices, "null", FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3))?;
    // Only what is mounted can be copied.
    move_mount(&devices, "", CWD, mount_point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    (0..view::COVERS).map(|_| clone_of(&devices, "null", OpenTreeFlags::empty())).collect()
}

/// The root, mounted at its mount point, and detached copies of what the host shows.
fn mounts_of_the_host(
    container: &Container,
    own: &OwnRoot,
    userns: Option<BorrowedFd<'_>>,
) -> Result<(OwnedFd, Vec<OwnedFd>), Failure> {
    let Rootfs::Overlay { lower, upper, work } = &own.rootfs;
    let root = overlay(lower, upper, work, &own.mount_point, userns)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, &own.mount_point, flags)
        .map_err(|error| fail("mount the root filesystem", error))?;
    let userns = userns.filter(|_| container.idmapped_binds);
    let from_host = own.binds.iter().filter(|bind| !bind.from_container);
    let binds = from_host.map(|wanted| binds::bind(wanted, userns)).collect::<Result<_, _>>()?;
    Ok((root, binds))
}

fn put_together(
    container: &Container,
    own: &OwnRoot,
    root: &OwnedFd,
    shared: &Shared,
    from_host: &[OwnedFd],
    mut covers: Vec<OwnedFd>,
) -> view::Outcome<()> {
    let cgroups = shared.cgroups.as_ref().map(OwnedFd::try_clone).transpose();
    let cgroups = cgroups.map_err(|error| format!("keep the view of cgroups: {error}"))?;
    let file_systems = FileSystems::make(container.is_privileged(), cgroups)?;
    view::pivot(root, &container.defences)?;
    file_systems.attach(root, &shared.dev, &container.defences)?;
    let cover = || covers.pop().ok_or_else(|| ErrorKind::NotFound.into());
    file_systems.hide_host(root, cover, &container.defences)?;
    let (mut from_host, mut from_container) = (from_host.iter(), shared.binds.iter());
    for bind in &own.binds {
        let mount = if bind.from_container { from_container.next() } else { from_host.next() };
        let mounted = mount
            .ok_or_else(|| ErrorKind::NotFound.into())
            .and_then(|mount| bind_at(root, &bind.target, mount));
        mounted.map_err(|error| format!("bind mount at {:?}: {error}", bind.target))?;
    }
    for (path, file) in &shared.files {
        bind_at(root, Path::new(path), file).map_err(|error| format!("mount /{path}: {error}"))?;
    }
    view::make_tmp(root)
}

/// What is made meanwhile belongs to root of the container, as it does where that makes it itself.
fn as_containers_root<T>(container: &Container, act: impl FnOnce() -> T) -> io::Result<T> {
    let (user, group) = container.root_outside();
    let all = capabilities(None)?;
    let become_fs = |user, group| -> io::Result<()> {
        setfsgid(Gid::from_raw(group));
        setfsuid(Uid::from_raw(user));
        // The kernel takes those away that are about files.
        Ok(set_capabilities(None, all)?)
    };
    become_fs(user, group)?;
    let done = act();
    become_fs(0, 0)?;
    Ok(done)
}
