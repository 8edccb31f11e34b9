//! Taking things away: at once by a rename, for good in the background.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
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
        emptied.map_err(|source| Error::Store { doing: "empty", path: trash, source })
    }
}

fn open_directory<Fd: AsFd>(at: Fd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

/// Removes everything in the directory `top`. Never deeper than one level: a directory in a directory is first moved
/// up to `top`, so the depth of a tree, which a container chooses, costs neither stack nor descriptors nor long
/// paths. No name is ever resolved through a link.
fn empty(top: &OwnedFd) -> io::Result<()> {
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
            match remove(top, name, &mut next) {
                Ok(()) => progress = true,
                // Somebody else empties the same trash.
                Err(Errno::NOENT) => {}
                Err(error) => failed = Some(error),
            }
        }
        if !progress {
            return failed.map_or(Ok(()), |error| Err(error.into()));
        }
        failed = None;
    }
}

/// Removes one entry of `top`; directories in it become entries of `top`, for the next round.
fn remove(top: &OwnedFd, name: &CStr, next: &mut u64) -> Result<(), Errno> {
    match unlinkat(top, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    let directory = open_directory(top, name).map_err(|error| errno(&error))?;
    loop {
        empty_one(top, &directory, next)?;
        match unlinkat(top, name, AtFlags::REMOVEDIR) {
            // A listing may miss entries of a directory that changes meanwhile: look again.
            Err(Errno::NOTEMPTY) => {}
            result => return result,
        }
    }
}

/// Unlinks the files of a directory and moves its directories up to `top`.
fn empty_one(top: &OwnedFd, directory: &OwnedFd, next: &mut u64) -> Result<(), Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlinkat(directory, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                result => {
                    result?;
                    continue;
                }
            }
        }
        // An empty directory, the most usual kind, needs no move.
        if unlinkat(directory, name, AtFlags::REMOVEDIR).is_err() {
            move_up(directory, name, top, next)?;
        }
    }
    Ok(())
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

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
