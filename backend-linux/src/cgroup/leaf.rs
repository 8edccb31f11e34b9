//! On v2 a group with controllers for the groups below it has no processes itself: in a group that was delegated to the
//! server, the server and what else was started there go into a leaf of it.

use std::{fs, io, path::Path};

use rustix::io::Errno;

use super::{
    Error, Result,
    detect::words,
    group::{children, gone, write},
};

/// What the leaf is called. No tag makes a base group of this name.
pub(super) const DIRECTORY: &str = "garden-server";

/// How often a group is looked at again for processes that were forked meanwhile.
const ROUNDS: usize = 50;

/// Whether a v2 group is the first of all, which the rule does not hold for. Only that has no type.
pub(super) fn is_root_of_all(group: &Path) -> bool {
    !group.join("cgroup.type").exists()
}

/// Moves all processes of a group into a leaf below it.
pub(super) fn make_room(group: &Path) -> Result<()> {
    let leaf = group.join(DIRECTORY);
    match fs::create_dir(&leaf) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::Create { group: leaf, source });
        }
        _ => {}
    }
    tracing::info!(?group, ?leaf, "moving this server into a cgroup below its own, to make others beside it");
    move_all(group, &leaf)
}

/// Undoes that, as far as nobody else has groups there. Who is still in the leaf goes back.
pub(super) fn give_back(group: &Path) {
    let leaf = group.join(DIRECTORY);
    if is_root_of_all(group) || !leaf.is_dir() {
        return;
    }
    if let Err(error) = undo(group, &leaf) {
        tracing::warn!(?group, error = %protocol::Error::failed(&error), "cannot leave a cgroup as it was found");
    }
}

fn undo(group: &Path, leaf: &Path) -> Result<()> {
    let groups = children(group).map_err(|source| Error::Read { file: group.into(), source })?;
    if groups == [leaf] {
        // Before anything can be in the group itself again.
        let file = group.join("cgroup.subtree_control");
        words(&file)?.iter().try_for_each(|controller| write(&file, &format!("-{controller}")))?;
        move_all(leaf, group)?;
    }
    match fs::remove_dir(leaf) {
        // Somebody else's groups are beside it, and their controllers needed.
        Err(source) if source.kind() == io::ErrorKind::ResourceBusy && groups != [leaf] => Ok(()),
        removed => removed.map_err(|source| Error::Leave { group: leaf.into(), source }),
    }
}

fn move_all(from: &Path, to: &Path) -> Result<()> {
    let into = to.join("cgroup.procs");
    for _ in 0..ROUNDS {
        let pids = words(&from.join("cgroup.procs"))?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            // 0 stands for a process of another pid namespace, and in writing for this one.
            if pid == "0" {
                return Err(Error::ProcessesInTheWay { group: from.into() });
            }
            match write(&into, &pid) {
                Err(Error::Write { source, .. }) if gone(&source) || has_died(&source) => {}
                moved => moved?,
            }
        }
    }
    Err(Error::ProcessesInTheWay { group: from.into() })
}

fn has_died(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}
