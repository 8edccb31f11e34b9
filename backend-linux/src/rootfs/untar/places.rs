//! Names in the archive to places in the directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fchmod, fchown, mkdirat, openat2},
    io::Errno,
    process::{Gid, Uid},
};

use super::{Error, Owner, Resolve, error::lossy};

/// A name of the archive that stays within the directory: its parts, without `.` and empty ones; no part is the
/// directory itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    joined: Vec<u8>,
}

impl Name {
    /// Refuses what could lead elsewhere.
    pub fn new(name: &[u8]) -> Result<Name, Error> {
        let refuse = |problem| Err(Error::Name { entry: lossy(name), problem });
        if name.starts_with(b"/") {
            return refuse("has an absolute name");
        }
        if name.contains(&0) {
            return refuse("has a NUL byte in its name");
        }
        let mut joined = Vec::with_capacity(name.len());
        for part in name.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return refuse("has \"..\" in its name"),
                part => {
                    if !joined.is_empty() {
                        joined.push(b'/');
                    }
                    joined.extend(part);
                }
            }
        }
        Ok(Name { joined })
    }

    /// Whether it is the directory itself.
    pub fn is_top(&self) -> bool {
        self.joined.is_empty()
    }

    /// The name as a path.
    pub fn bytes(&self) -> &[u8] {
        &self.joined
    }

    /// The path of the parent, `.` for the top, and the last part.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.joined.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.joined[..slash], &self.joined[slash + 1..]),
            None => (b".", &self.joined),
        }
    }
}

/// Opens the directories that entries go to, and makes those that are missing.
pub(super) struct Places<'a> {
    root: BorrowedFd<'a>,
    resolve: Resolve,
    owner: Owner,
    /// The last one: neighbours in an archive are neighbours in the tree.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Places<'a> {
    pub fn new(root: BorrowedFd<'a>, resolve: Resolve, owner: Owner) -> Self {
        Places { root, resolve, owner, last: None }
    }

    /// The directory that everything goes to.
    pub fn root(&self) -> BorrowedFd<'a> {
        self.root
    }

    /// The directory that holds `name`, and its name there.
    pub fn parent<'n>(&mut self, name: &'n Name) -> Result<(BorrowedFd<'_>, &'n [u8]), Error> {
        let (parent, last) = name.split();
        if self.last.as_ref().is_none_or(|(path, _)| path != parent) {
            let directory = self.open_or_make(parent, name)?;
            self.last = Some((parent.to_vec(), directory));
        }
        match &self.last {
            Some((_, directory)) => Ok((directory.as_fd(), last)),
            None => Ok((self.root, last)),
        }
    }

    /// An existing directory, by its path in the archive; good for what is in it only.
    pub fn open(&self, path: &[u8], entry: &Name) -> Result<OwnedFd, Error> {
        self.try_open(path).map_err(|errno| failure("open the directory of", entry, errno))
    }

    fn open_or_make(&self, path: &[u8], entry: &Name) -> Result<OwnedFd, Error> {
        match self.try_open(path) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(|errno| failure("open the directory of", entry, errno)),
        }
        // Part by part from the top: each is opened beneath the one before it.
        let mut made = 0;
        let mut directory =
            self.try_open(b".").map_err(|errno| failure("open the directory of", entry, errno))?;
        for part in path.split(|&byte| byte == b'/') {
            made += part.len();
            let so_far = &path[..made];
            made += 1;
            directory = match self.try_open(so_far) {
                Err(Errno::NOENT) => self
                    .make(&directory, part)
                    .and_then(|()| self.try_open(so_far))
                    .map_err(|errno| failure("make the directory of", entry, errno))?,
                opened => opened.map_err(|errno| failure("open the directory of", entry, errno))?,
            };
        }
        Ok(directory)
    }

    fn make(&self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        if let Owner::As { uid, gid } = self.owner {
            fchown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // Not by the process's umask.
        fchmod(&directory, Mode::from_raw_mode(0o755))
    }

    fn try_open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        // Enough to work in it: a directory that cannot be listed can still be filled.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = match self.resolve {
            Resolve::Beneath => {
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
            }
            Resolve::ThroughLinks => ResolveFlags::NO_MAGICLINKS,
        };
        loop {
            match openat2(self.root, path, flags, Mode::empty(), resolve) {
                // Somebody renamed something meanwhile, so that the kernel cannot be sure.
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
    }
}

fn failure(doing: &'static str, entry: &Name, errno: Errno) -> Error {
    match errno {
        Errno::LOOP | Errno::XDEV => Error::Outside { entry: lossy(entry.bytes()) },
        errno => Error::write(doing, entry.bytes(), errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_lose_what_means_nothing() {
        assert_eq!(Name::new(b"./a//b/./c/").unwrap().bytes(), b"a/b/c");
        assert!(Name::new(b"./").unwrap().is_top());
        assert_eq!(Name::new(b"a/b").unwrap().split(), (&b"a"[..], &b"b"[..]));
        assert_eq!(Name::new(b"a").unwrap().split(), (&b"."[..], &b"a"[..]));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [&b"/etc/passwd"[..], b"../a", b"a/../b", b"a/..", b"a\0b"] {
            assert!(matches!(Name::new(name), Err(Error::Name { .. })), "{}", lossy(name));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_has_only_parts_that_go_down(name in "[a./\0]{0,12}") {
            if let Ok(name) = Name::new(name.as_bytes())
                && !name.is_top()
            {
                for part in name.bytes().split(|&byte| byte == b'/') {
                    prop_assert!(!matches!(part, b"" | b"." | b".."));
                }
            }
        }
    }
}
