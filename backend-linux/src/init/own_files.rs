//! The files that the server makes for the container. They are shown from a small file system of their own: through one
//! of the host's, processes could fill what all containers share.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
};

use backend_linux::supervisor::{Failure, OwnFile};
use rustix::{
    fs::{CWD, Mode, OFlags, fchmod, fchown, openat},
    mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount},
    process::{Gid, Uid},
};

use crate::{
    mounts::{clone_of, file_system},
    start::fail,
};

/// Makes the files, each to be mounted where it belongs. Their file system is mounted over `mount_point` meanwhile, in
/// this process's own mount namespace, as only what is mounted can be bound.
pub fn make(files: &[OwnFile], owner: (u32, u32), mount_point: &Path) -> Result<Vec<OwnedFd>, Failure> {
    let make = || -> io::Result<Vec<OwnedFd>> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let system = file_system("tmpfs", &[("mode", "0755"), ("size", "1m")], attributes)?;
        move_mount(&system, "", CWD, mount_point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let names = (0..files.len()).map(|number| number.to_string());
        names.zip(files).map(|(name, file)| make_one(&system, &name, &file.text, owner)).collect()
    };
    make().map_err(|error| fail("make the container's own files", error))
}

fn make_one(system: &OwnedFd, name: &str, text: &str, (user, group): (u32, u32)) -> io::Result<OwnedFd> {
    let mode = Mode::from(0o644);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(system, name, flags, mode)?);
    file.write_all(text.as_bytes())?;
    // Whatever this process's mask is.
    fchmod(&file, mode)?;
    fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    clone_of(system, name, OpenTreeFlags::empty())
}
