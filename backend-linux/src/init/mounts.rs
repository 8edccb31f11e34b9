//! Mounts that take the host's privileges, or the host's paths: made by the supervisor as detached mounts, which the
//! container's init then puts in place. It finds the places by descriptor, as what is in an image may lead anywhere.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use backend_linux::{
    supervisor::{Defence, Defences, Failure, Rootfs, StartRequest},
    sys::idmap_mount,
};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chownat, fstat, makedev, mkdirat, mknodat, open,
        openat2, statat, symlinkat, unlinkat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
        open_tree,
    },
    path::Arg,
    process::{Gid, Uid},
};

use crate::{
    binds, hierarchies,
    namespaces::{Namespaces, root_outside},
    own_files,
    start::fail,
};

/// What the container's init puts in place.
pub struct Outside {
    pub root: OwnedFd,
    /// What the server made, and what comes from the host, in the order of the request.
    pub own_files: Vec<OwnedFd>,
    pub binds: Vec<OwnedFd>,
    /// What is seen of cgroup v1.
    pub cgroups: Option<OwnedFd>,
    pub devpts: OwnedFd,
}

/// Makes what depends on the request.
pub fn prepare(request: &StartRequest, namespaces: &Namespaces) -> Result<Outside, Failure> {
    let userns = namespaces.user.as_ref().map(AsFd::as_fd);
    let all_private = match request.defences.have(Defence::PrivateMounts) {
        true => MountPropagationFlags::REC,
        false => MountPropagationFlags::empty(),
    };
    in_private_mount_namespace(all_private, || {
        let Rootfs::Overlay { lower, upper, work } = &request.rootfs;
        let root = overlay(lower, upper, work, &request.mount_point, userns)?;
        let owner = root_outside(namespaces.ids.as_ref());
        let own_files = own_files::make(&request.own_files, owner, &request.mount_point)?;
        let from_host = request.binds.iter().filter(|bind| !bind.from_container);
        let userns = userns.filter(|_| request.idmapped_binds);
        let binds = from_host.map(|wanted| binds::bind(wanted, userns)).collect::<Result<_, _>>()?;
        let cgroups = hierarchies::show(&request.cgroup_views, &request.mount_point)?;
        let devpts = terminals(namespaces).map_err(|error| fail("make /dev/pts", error))?;
        Ok(Outside { root, own_files, binds, cgroups, devpts })
    })
}

/// Runs `make` in a mount namespace of its own, so that what it mounts on the way is never seen on the host, and the
/// host's mounts are not pinned afterwards. `depth` says whether that holds for all mounts or for the root alone: what is
/// cloned of one for which it does not goes on to share what is mounted on it with the host.
fn in_private_mount_namespace<T>(
    depth: MountPropagationFlags,
    make: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let host = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| fail("open the host's mount namespace", error))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| fail("new mount namespace", error))?;
    let made = mount_change("/", MountPropagationFlags::PRIVATE | depth)
        .map_err(|error| fail("make / private", error))
        .and_then(|()| make());
    setns(&host, CloneFlags::CLONE_NEWNS)
        .map_err(|error| fail("go back to the host's mount namespace", error))?;
    made
}

/// A detached copy of what is mounted at `path`.
pub fn clone_of(directory: impl AsFd, path: impl Arg, more: OpenTreeFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | more;
    Ok(open_tree(directory, path, flags)?)
}

/// A detached overlay. Its image is shown with the container's ids, so that root inside owns what root owns in it.
pub fn overlay(
    lower: &Path,
    upper: &Path,
    work: &Path,
    mount_point: &Path,
    userns: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Failure> {
    let context = |what: &str, path: &Path| format!("root filesystem: {what} {path:?}");
    let mut lower: PathBuf = lower.to_owned();
    if let Some(userns) = userns {
        let image = clone_of(CWD, &lower, OpenTreeFlags::empty())
            .map_err(|error| fail(&context("open", &lower), error))?;
        idmap_mount(image.as_fd(), userns).map_err(|error| {
            fail(&context("the file system does not allow mapped ids (idmapped mounts) of", &lower), error)
        })?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&image, "", CWD, mount_point, flags)
            .map_err(|error| fail(&context("mount", mount_point), error))?;
        lower = mount_point.to_owned();
    }
    // By descriptor, so that no character of a path can mean something to overlay.
    let directory = |path: &Path| {
        open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| fail(&context("open", path), error))
    };
    let (lower, upper, work) = (directory(&lower)?, directory(upper)?, directory(work)?);
    let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mount = || -> io::Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&fs, "source", "overlay")?;
        fsconfig_set_string(&fs, "lowerdir", path(&lower))?;
        fsconfig_set_string(&fs, "upperdir", path(&upper))?;
        fsconfig_set_string(&fs, "workdir", path(&work))?;
        // The write layer is gone with the container: no need to wait for the disk, ever.
        fsconfig_set_flag(&fs, "volatile")?;
        fsconfig_create(&fs)?;
        Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
    };
    mount().map_err(|error| fail("root filesystem: mount the overlay", error))
}

/// A new file system, mounted nowhere.
pub fn file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&fs, *key, *value)?;
    }
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// `/dev/pts`. One that is made in the host's mount namespace may use the terminals that are reserved for the host, and
/// one without a maximum may use all others: containers could leave none to the host, or to each other.
fn terminals(namespaces: &Namespaces) -> io::Result<OwnedFd> {
    const TTY_GROUP: u32 = 5;
    let tty_group = namespaces.group_outside(TTY_GROUP).to_string();
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", tty_group.as_str()), ("max", "1024")];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let devpts = file_system("devpts", &options, attributes)?;
    let (user, group) = namespaces.root_outside();
    let (uid, gid) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    for name in ["", "ptmx"] {
        chownat(&devpts, name, uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(devpts)
}

/// `/dev`: device nodes, which a user namespace could not make itself.
pub fn device_directory((user, group): (u32, u32), fuse: bool) -> io::Result<OwnedFd> {
    let (uid, gid) = (user.to_string(), group.to_string());
    let options = [("mode", "0755"), ("size", "64k"), ("uid", &uid), ("gid", &gid)];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = file_system("tmpfs", &options, attributes)?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(group));
    let own = |name: &str| chownat(&dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        mknodat(&dev, name, FileType::CharacterDevice, Mode::from(0o666), makedev(1, minor))?;
        own(name)?;
    }
    mknodat(&dev, "tty", FileType::CharacterDevice, Mode::from(0o666), makedev(5, 0))?;
    own("tty")?;
    if fuse {
        mknodat(&dev, "fuse", FileType::CharacterDevice, Mode::from(0o666), makedev(10, 229))?;
    }
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        symlinkat(target, &dev, name)?;
        own(name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(&dev, name, Mode::from(0o755))?;
        own(name)?;
    }
    Ok(dev)
}

/// Puts a detached mount in its place.
pub fn attach(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", flags)?)
}

/// Opens what is there, if it is.
fn look(
    directory: &OwnedFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<Option<OwnedFd>, Errno> {
    loop {
        match openat2(directory, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Somebody on the host renamed or mounted something meanwhile, and the kernel cannot be sure.
            Err(Errno::AGAIN) => {}
            Err(Errno::NOENT) => return Ok(None),
            opened => return opened.map(Some),
        }
    }
}

/// Finds a path of the container; its links lead nowhere else, not even those of /proc.
pub fn find(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    Ok(look(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?)
}

/// Finds what a file system itself has at a path.
pub fn beneath(mount: &OwnedFd, path: &str) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(look(mount, path, OFlags::empty(), resolve)?)
}

/// A directory at the top of the image, made if it is missing. Anything else there is refused: the mount would go
/// where the image wants it, and what belongs in its place would be missing.
pub fn image_directory(root: &OwnedFd, name: &str, defences: &Defences) -> Result<OwnedFd, String> {
    let resolve = match defences.have(Defence::PlacesByDescriptor) {
        true => ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
        false => ResolveFlags::IN_ROOT,
    };
    let open = || look(root, name, OFlags::DIRECTORY, resolve);
    let found = match open() {
        Ok(None) => {
            make(root, name.as_ref(), FileType::Directory, 0o755)
                .map_err(|error| format!("make /{name}: {error}"))?;
            open()
        }
        found => found,
    };
    match found {
        Ok(Some(directory)) => Ok(directory),
        Ok(None) => Err(format!("/{name} is gone")),
        Err(Errno::LOOP) => {
            Err(format!("/{name} of the image is a symbolic link, but must be a directory or missing"))
        }
        Err(Errno::NOTDIR) => Err(format!("/{name} of the image must be a directory or missing")),
        Err(error) => Err(format!("open /{name} of the image: {error}")),
    }
}

/// Makes a directory or an empty file. The umask is empty.
pub fn make(parent: &OwnedFd, name: &OsStr, kind: FileType, mode: u32) -> io::Result<()> {
    // A link that leads nowhere would be followed to wherever it leads once that is made.
    let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    if found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_symlink()) {
        unlinkat(parent, name, AtFlags::empty())?;
    }
    match kind {
        FileType::Directory => mkdirat(parent, name, Mode::from(mode))?,
        _ => mknodat(parent, name, kind, Mode::from(mode), 0)?,
    }
    Ok(())
}

pub fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode).is_dir())
}

/// Mounts over a path of the container, which is made if it is missing: a directory for a directory, else a file.
pub fn bind_at(root: &OwnedFd, target: &Path, mount: &OwnedFd) -> io::Result<()> {
    let directory = is_directory(mount)?;
    let mut place = root.try_clone()?;
    let mut path = PathBuf::new();
    let mut names = target.iter().filter(|name| *name != "/").peekable();
    while let Some(name) = names.next() {
        path.push(name);
        let (kind, mode, flags) = match names.peek() {
            None if !directory => (FileType::RegularFile, 0o644, OFlags::empty()),
            _ => (FileType::Directory, 0o755, OFlags::DIRECTORY),
        };
        let found = match find(root, &path, flags) {
            Ok(None) => make(&place, name, kind, mode).and_then(|()| find(root, &path, flags)),
            found => found,
        };
        let context = |error| io::Error::other(format!("/{} in the container: {error}", path.display()));
        place = found.and_then(|found| found.ok_or_else(|| Errno::NOENT.into())).map_err(context)?;
    }
    if is_directory(&place)? != directory {
        return Err(io::Error::other("it is a directory in the container, and no directory outside"));
    }
    attach(mount, &place)
}
