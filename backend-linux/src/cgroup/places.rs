//! Below which group of each hierarchy ours go.
//!
//! Below one that was delegated to this server, else below the first that is seen, else (it cannot be written to) below
//! the server's own. A server that finds containers goes on where they are.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access, getxattr};

use super::{
    Error,
    detect::words,
    group::children,
    hierarchies::{Hierarchies, Hierarchy},
    leaf,
};

/// What systemd marks a unit's group with that the unit may divide further; the second is the one without privilege.
const MARKS: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// The choice for all hierarchies.
pub(super) struct Places<'a> {
    base: &'a str,
    earlier: &'a [PathBuf],
    /// A group of the server's that is its to divide, by its path in a hierarchy.
    delegated: Option<&'a Path>,
    /// Mounts that nothing can be made in.
    unusable: Vec<PathBuf>,
}

impl<'a> Places<'a> {
    /// `base` is what our groups are called, `earlier` those of an earlier server.
    pub(super) fn new(found: &'a Hierarchies, base: &'a str, earlier: &'a [PathBuf]) -> Places<'a> {
        // systemd marks the group in its own hierarchy only, and gives the unit groups of that path in the others.
        let delegated = found.v1.iter().chain(&found.v2).find_map(|hierarchy| {
            let is_marked =
                |group: &&Path| hierarchy.directory(group).is_some_and(|directory| is_marked(&directory));
            own_and_parent(hierarchy).find(is_marked)
        });
        Places { base, earlier, delegated, unusable: Vec::new() }
    }

    /// Our base group in a hierarchy; none where nothing can be made.
    pub(super) fn base(&mut self, hierarchy: &Hierarchy) -> Option<PathBuf> {
        if let Some(earlier) = self.earlier.iter().find(|earlier| self.is_in_use(earlier, hierarchy)) {
            return Some(earlier.clone());
        }
        let delegated = self.delegated.filter(|group| own_and_parent(hierarchy).any(|own| own == *group));
        let own = match hierarchy.own.parent() {
            Some(parent) if hierarchy.own.ends_with(leaf::DIRECTORY) => parent,
            _ => &hierarchy.own,
        };
        let candidates = delegated.into_iter().chain([hierarchy.root.as_path(), own]);
        let mut directories = candidates.filter_map(|group| hierarchy.directory(group));
        let parent = directories.find(|directory| access(directory, Access::WRITE_OK).is_ok());
        if parent.is_none() {
            let (mount, own) = (&hierarchy.mount, &hierarchy.own);
            tracing::warn!(?mount, ?own, "no cgroup can be made in this hierarchy: it is read-only");
            self.unusable.push(mount.clone());
        }
        Some(parent?.join(self.base))
    }

    /// Whether it is ours, in this hierarchy, and has groups of containers, or containers themselves.
    fn is_in_use(&self, earlier: &Path, hierarchy: &Hierarchy) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        earlier.ends_with(self.base)
            && device(earlier).is_some_and(|found| device(&hierarchy.mount) == Some(found))
            && (children(earlier).is_ok_and(|groups| !groups.is_empty())
                || words(&earlier.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty()))
    }

    /// Removes what an earlier server made elsewhere than in `bases`, and has no use for any more.
    pub(super) fn leave_others<'b>(&self, bases: impl Iterator<Item = &'b Path>) {
        let bases: Vec<&Path> = bases.collect();
        let others = self
            .earlier
            .iter()
            .filter(|other| other.ends_with(self.base) && !bases.contains(&other.as_path()));
        for other in others {
            // It may be gone, or have become somebody's.
            if fs::remove_dir(other).is_ok()
                && let Some(parent) = other.parent()
            {
                leaf::give_back(parent);
            }
        }
    }

    /// Why there is no place at all.
    pub(super) fn none_usable(self) -> Error {
        match self.unusable.is_empty() {
            true => Error::NoHierarchy,
            false => Error::ReadOnly { mounts: self.unusable },
        }
    }
}

/// The server's group; and the one around it, where a unit's own part is kept below the unit (`DelegateSubgroup=`).
fn own_and_parent(hierarchy: &Hierarchy) -> impl Iterator<Item = &Path> {
    [Some(hierarchy.own.as_path()), hierarchy.own.parent()].into_iter().flatten()
}

fn is_marked(group: &Path) -> bool {
    MARKS.iter().any(|mark| {
        let mut value = [0; 8];
        getxattr(group, *mark, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}
