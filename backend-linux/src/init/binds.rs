//! Bind mounts of the host's files.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use backend_linux::{
    supervisor::{Bind, Failure},
    sys::{idmap_mount_tree, set_mount_read_only},
};
use rustix::{fs::CWD, mount::OpenTreeFlags};

use crate::{mounts::clone_of, start::fail};

/// A detached copy of what the host has there, and of all that is mounted below. With `userns` it is shown with the
/// container's ids: what root of the host owns is the container's root's.
pub fn bind(bind: &Bind, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
    let mount = clone_of(CWD, &bind.source, OpenTreeFlags::AT_RECURSIVE)
        .map_err(|error| fail(&format!("bind mount of {:?}", bind.source), error))?;
    if let Some(userns) = userns {
        idmap_mount_tree(mount.as_fd(), userns).map_err(|error| {
            let place = culprit(&bind.source, userns);
            let what = format!(
                "bind mount of {:?}: what is mounted at {place:?} cannot be shown with the container's own ids \
                 (its file system has no idmapped mounts, or it is one already)",
                bind.source
            );
            fail(&what, error)
        })?;
    }
    if bind.read_only {
        set_mount_read_only(mount.as_fd())
            .map_err(|error| fail(&format!("make the bind mount of {:?} read-only", bind.source), error))?;
    }
    Ok(mount)
}

/// Which of the mounts from `source` on is the one that cannot be idmapped; `source` itself if none can be found.
fn culprit(source: &Path, userns: BorrowedFd<'_>) -> PathBuf {
    let refused = |place: &Path| -> io::Result<()> {
        let mount = clone_of(CWD, place, OpenTreeFlags::empty())?;
        idmap_mount_tree(mount.as_fd(), userns)
    };
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut below = places.filter(|place| *place != source && place.starts_with(source));
    match refused(source) {
        Ok(()) => below.find(|place| refused(place).is_err()).unwrap_or(source).to_owned(),
        Err(_) => source.to_owned(),
    }
}
