//! Taking things away: at once by a rename, for good in the background.

use std::{
    ffi::CStr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
};

use super::{Error, Result, Store};

impl Store {
    /// Moves something of the store into the trash; what is gone already is no error.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        loop {
            let target = self.trash().join(self.unique_name());
            match renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // An earlier process had the same name for something that is still there.
                Err(Errno::EXIST) => {}
                Err(error) => {
                    return Err(Error::Store { doing: "discard", path: path.into(), source: error.into() });
                }
            }
        }
    }

    /// Removes what is in the trash, for a background thread. Goes on after an error; the first one is told, and what
    /// could not be removed is there for the next time.
    pub fn empty_trash(&self) -> Result<()> {
        let trash = self.trash();
        let emptied = open_directory(CWD, &trash).and_then(|directory| empty(&directory));
        emptied.map_err(|errno| Error::Store { doing: "empty", path: trash, source: errno.into() })
    }
}

fn open_directory<Fd: AsFd>(at: Fd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// How deep to go at once; each level holds a descriptor.
const LEVELS: usize = 32;

/// Removes everything in the directory `top`. What lies deeper than [`LEVELS`] is first moved up to `top`, so the
/// depth of a tree, which a container chooses, costs neither stack nor descriptors nor long paths. No name is ever
/// resolved through a link.
fn empty(top: &OwnedFd) -> Result<(), Errno> {
    let mut next = 0;
    let mut failed = None;
    loop {
        let mut progress = false;
        for entry in Dir::read_from(top)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match remove(top, top, name, LEVELS, &mut next) {
                Ok(()) => progress = true,
                // Somebody else empties the same trash.
                Err(Errno::NOENT) => {}
                Err(error) => failed = Some(error),
            }
        }
        if !progress {
            return failed.map_or(Ok(()), Err);
        }
        failed = None;
    }
}

/// Removes one entry of `parent`. What is too deep in it becomes an entry of `top`, for the next round.
fn remove(top: &OwnedFd, parent: &OwnedFd, name: &CStr, levels: usize, next: &mut u64) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    // An empty directory, the most usual kind, is not even opened.
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY) => {}
        result => return result,
    }
    if levels == 0 {
        return move_up(parent, name, top, next);
    }
    let directory = open_directory(parent, name)?;
    loop {
        // What cannot go (a mount point, an immutable file) does not keep the rest.
        let mut failed = None;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let inner = entry.file_name();
            if inner == c"." || inner == c".." {
                continue;
            }
            if let Err(error) = remove(top, &directory, inner, levels - 1, next) {
                failed = failed.or(Some(error));
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // A listing may miss entries of a directory that changes meanwhile: look again.
            Err(Errno::NOTEMPTY) => {}
            result => return result,
        }
    }
}

fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, next: &mut u64) -> Result<(), Errno> {
    loop {
        let target = format!("up-{next}");
        *next += 1;
        match renameat_with(from, name, top, target.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
    }
}
