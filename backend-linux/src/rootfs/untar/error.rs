use std::io;

use rustix::io::Errno;

/// Why an archive was not unpacked, or not wholly. Entries are named as in the archive.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("this is not a tar archive")]
    NotTar,
    #[error("the archive is cut short")]
    CutShort,
    #[error("the archive is damaged: {0}")]
    Damaged(&'static str),
    #[error("cannot read the archive")]
    Input(#[source] io::Error),
    #[error("the archive's entry {entry:?} {problem}")]
    Name { entry: String, problem: &'static str },
    #[error("the archive's entry {entry:?} leads through a symbolic link or outside of the directory")]
    Outside { entry: String },
    #[error("the archive's entry {entry:?} has the type {kind:?}, which is not supported")]
    UnknownType { entry: String, kind: char },
    #[error("cannot give {entry:?} to user {uid} and group {gid}")]
    Owner { entry: String, uid: u32, gid: u32, source: io::Error },
    #[error("the archive gives {entry:?} to user {uid} and group {gid}, and not both of these ids are there")]
    NoSuchOwner { entry: String, uid: u32, gid: u32 },
    #[error("cannot {doing} {entry:?}")]
    Write { doing: &'static str, entry: String, source: io::Error },
}

impl Error {
    pub(super) fn input(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::CutShort,
            _ => Error::Input(source),
        }
    }

    /// A user namespace has not every id.
    pub(super) fn owner(entry: &[u8], (uid, gid): (u32, u32), errno: Errno) -> Self {
        let entry = lossy(entry);
        match errno {
            Errno::INVAL => Error::NoSuchOwner { entry, uid, gid },
            errno => Error::Owner { entry, uid, gid, source: errno.into() },
        }
    }

    pub(super) fn write(doing: &'static str, entry: &[u8], source: impl Into<io::Error>) -> Self {
        Error::Write { doing, entry: lossy(entry), source: source.into() }
    }
}

/// For messages.
pub(super) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
