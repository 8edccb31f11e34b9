//! cgroup v1 in a container: a directory for each hierarchy, named as on the host, which shows the group that the container
//! is in and cannot be written to.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{CgroupView, Failure},
    sys::set_mount_read_only_and_quiet,
};
use rustix::{
    fs::{CWD, Mode, mkdirat, symlinkat},
    mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount},
};

use crate::{
    mounts::{clone_of, file_system},
    start::fail,
};

/// A detached tree for `/sys/fs/cgroup`; none where there is nothing to show. It is put together over `mount_point`, as
/// only on what is mounted something can be mounted. The rest of the mount namespace goes its way.
pub fn show(views: &[CgroupView], mount_point: &Path) -> Result<Option<OwnedFd>, Failure> {
    if views.is_empty() {
        return Ok(None);
    }
    let shown = put_together(views, mount_point);
    shown.map(Some).map_err(|error| fail("show the container's cgroups", error))
}

fn put_together(views: &[CgroupView], mount_point: &Path) -> io::Result<OwnedFd> {
    let top = file_system("tmpfs", &[("mode", "0755"), ("size", "64k")], MountAttrFlags::empty())?;
    move_mount(&top, "", CWD, mount_point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for view in views {
        mkdirat(&top, &view.name, Mode::from(0o755))?;
        let group = clone_of(CWD, &view.group, OpenTreeFlags::empty())?;
        move_mount(&group, "", &top, &view.name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        // Where several controllers share a hierarchy, programs look for each by its own name.
        let has_own_name = |controller: &&String| **controller != view.name && !controller.contains('=');
        for controller in view.controllers.iter().filter(has_own_name) {
            symlinkat(&view.name, &top, controller)?;
        }
    }
    let tree = clone_of(&top, "", OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE)?;
    set_mount_read_only_and_quiet(tree.as_fd())?;
    Ok(tree)
}
