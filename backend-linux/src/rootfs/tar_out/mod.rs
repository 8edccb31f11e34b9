//! Files to a tar archive.
//!
//! In GNU's format, which every reader knows, long names included; only xattrs are in PAX headers (`SCHILY.xattr`).
//! Safe on a tree that others are changing: no symbolic link is followed, what vanishes before it is looked at is left
//! out, and what changes while it is read is an error rather than a wrong archive. Memory does not grow with the size
//! or the number of files.

mod header;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::fd::BorrowedFd,
};

/// What to put into the archive.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// An entry of a directory, under its own name, with all that is in it. A symbolic link is stored as one.
    Entry {
        /// The directory.
        parent: BorrowedFd<'a>,
        /// One path component.
        name: &'a OsStr,
    },
    /// What is in a directory, as `./`, `./file` and so on.
    Contents(BorrowedFd<'a>),
}

/// What to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Store a file's second name as a hard link instead of storing the file again.
    pub hardlinks: bool,
    /// Extended attributes of files and directories.
    pub xattrs: bool,
}

/// Why there is no archive, or not a whole one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("cannot {doing} {path:?}")]
    Read { doing: &'static str, path: String, source: io::Error },
    #[error("{path:?} became shorter while it was read")]
    Shrank { path: String },
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// Writes the archive of `subject`, its end mark included. An error before anything is written means that the subject
/// itself cannot be read.
pub fn tar_out(out: impl Write, subject: &Subject<'_>, options: &Options) -> Result<(), Error> {
    let mut walk = walk::Walk::new(out, options);
    match subject {
        Subject::Entry { parent, name } => walk.entry(*parent, name)?,
        Subject::Contents(directory) => walk.contents(*directory)?,
    }
    walk.end()
}
