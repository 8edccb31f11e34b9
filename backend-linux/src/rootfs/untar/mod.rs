//! A tar archive to files, without ever leaving the directory given.
//!
//! The archive's author is not trusted: names with `..` or a leading `/` are refused, memory stays bounded whatever
//! the archive claims, and every path is resolved by the kernel with [`Resolve`]'s rule. Understood are the old, ustar,
//! GNU and PAX formats, with long names, xattrs (`SCHILY.xattr`), sparse files (GNU's and PAX's) and large numbers.

mod archive;
mod error;
mod extract;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod pax;
mod places;
#[cfg(test)]
mod tests;

use std::{io::Read, os::fd::BorrowedFd};

pub use error::Error;

/// How to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Who owns what is unpacked.
    pub owner: Owner,
    /// Where names may lead.
    pub resolve: Resolve,
    /// What ends the archive.
    pub end: End,
}

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whom the archive says; xattrs that cannot be set are errors.
    Archive,
    /// This user and group. Directories made on the way to a file are theirs too.
    As {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// Whoever runs this: no owner is changed.
    Caller,
}

/// Where names may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// Nowhere outside the directory, and through no symbolic link, whatever others do to the tree meanwhile.
    Beneath,
    /// Wherever links lead. Only for a process whose root is the container's.
    ThroughLinks,
}

/// What ends the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A block of zeros, as every complete tar file has.
    MustBeMarked,
    /// Also the mere end of the input between two entries, for writers that leave the zeros out; then the transport
    /// must tell whether something was cut off.
    MayBeUnmarked,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries unpacked.
    pub entries: u64,
    /// Xattrs that the file system or the privileges did not allow; never with [`Owner::Archive`].
    pub xattrs_skipped: u64,
}

/// Unpacks `input` into the directory `root`, and reads it to its end. After an error what was unpacked until then is
/// still there: the caller unpacks to a place that it can drop, or says that the result is incomplete.
pub fn untar(input: impl Read, root: BorrowedFd<'_>, options: &Options) -> Result<Summary, Error> {
    extract::Extractor::new(root, options).run(archive::Archive::new(input))
}
