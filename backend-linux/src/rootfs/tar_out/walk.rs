//! The tree, entry by entry.

use std::{
    collections::HashMap,
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, fstat, major, minor,
        openat, openat2, readlinkat, statat,
    },
    io::Errno,
};
use tar::EntryType;

use super::{
    Error, Options,
    header::{self, Meta},
};

const BUFFER_BYTES: usize = 128 * 1024;
/// The kernel's limit for one xattr and for the list of all names.
const XATTR_BYTES_MAX: usize = 64 * 1024;
/// So many files with several names are remembered; further ones are stored once for each name.
const LINKS_MAX: usize = 50_000;

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) struct Walk<W: Write> {
    out: BufWriter<W>,
    options: Options,
    /// Device and inode of files with several names, and the first name stored.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Walk<W> {
    pub fn new(out: W, options: &Options) -> Self {
        Walk {
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            options: *options,
            links: HashMap::new(),
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    pub fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Error> {
        let name = name.as_bytes();
        let fail = |doing, errno| read_error(doing, name, errno);
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| fail("look at", errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.file(parent, name, name, &stat, Vanished::IsAnError);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(parent, name, flags, Mode::empty()).map_err(|errno| fail("open", errno))?;
        self.tree(directory.as_fd(), &[name, b"/"].concat())
    }

    pub fn contents(&mut self, directory: BorrowedFd<'_>) -> Result<(), Error> {
        self.tree(directory, b"./")
    }

    pub fn end(mut self) -> Result<(), Error> {
        header::end(&mut self.out).and_then(|()| self.out.flush()).map_err(Error::Write)
    }

    /// A directory and all below it; `prefix` is its name in the archive. Each directory is opened by its path from
    /// the top, so that depth costs no descriptors.
    fn tree(&mut self, top: BorrowedFd<'_>, prefix: &[u8]) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            let opened = if path.is_empty() {
                openat(top, ".", flags, Mode::empty())
            } else {
                openat2(top, &path[..], flags, Mode::empty(), beneath)
            };
            let name = [prefix, &path].concat();
            match opened {
                Ok(directory) => self.directory(&directory, &path, &name, &mut pending)?,
                // Gone meanwhile, or something else by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                // Moved about meanwhile: look again.
                Err(Errno::AGAIN) => pending.push(path),
                Err(errno) => return Err(read_error("open", &name, errno)),
            }
        }
        Ok(())
    }

    /// One directory and its files; its directories become `pending`.
    fn directory(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        name: &[u8],
        pending: &mut Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        let fail = |errno| read_error("read", name, errno);
        let stat = fstat(directory).map_err(fail)?;
        let xattrs = self.xattrs(directory, name)?;
        self.header(EntryType::Directory, name, b"", &stat, 0, &xattrs)?;
        for entry in Dir::read_from(directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let last = entry.file_name();
            if last == c"." || last == c".." {
                continue;
            }
            let last = last.to_bytes();
            let stat = match statat(directory, last, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat.map_err(fail)?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                pending.push([path, last, b"/"].concat());
            } else {
                self.file(directory.as_fd(), last, &[name, last].concat(), &stat, Vanished::IsLeftOut)?;
            }
        }
        Ok(())
    }

    /// Anything but a directory: the entry `last` of `parent`, called `name` in the archive.
    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        last: &[u8],
        name: &[u8],
        stat: &Stat,
        vanished: Vanished,
    ) -> Result<(), Error> {
        let gone = |errno| matches!(errno, Errno::NOENT | Errno::LOOP) && vanished == Vanished::IsLeftOut;
        if let Some(first) = self.first_name(name, stat) {
            return self.header(EntryType::Link, name, &first, stat, 0, &[]);
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                // A pipe that took its place must not make us wait.
                let flags =
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match openat(parent, last, flags, Mode::empty()) {
                    Err(errno) if gone(errno) => self.forget(stat),
                    opened => self.regular(opened.map_err(|errno| read_error("open", name, errno))?, name)?,
                }
            }
            FileType::Symlink => match readlinkat(parent, last, Vec::new()) {
                Err(errno) if gone(errno) || errno == Errno::INVAL => self.forget(stat),
                link => {
                    let link = link.map_err(|errno| read_error("read the link", name, errno))?;
                    self.header(EntryType::Symlink, name, link.to_bytes(), stat, 0, &[])?;
                }
            },
            FileType::CharacterDevice => self.header(EntryType::Char, name, b"", stat, 0, &[])?,
            FileType::BlockDevice => self.header(EntryType::Block, name, b"", stat, 0, &[])?,
            FileType::Fifo => self.header(EntryType::Fifo, name, b"", stat, 0, &[])?,
            // A socket is of no use in an archive.
            FileType::Socket | FileType::Directory | FileType::Unknown => {}
        }
        Ok(())
    }

    fn regular(&mut self, file: OwnedFd, name: &[u8]) -> Result<(), Error> {
        // What was opened counts, not what was there a moment ago.
        let stat = fstat(&file).map_err(|errno| read_error("look at", name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let xattrs = self.xattrs(&file, name)?;
        self.header(EntryType::Regular, name, b"", &stat, size, &xattrs)?;
        let mut file = File::from(file);
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => return Err(Error::Shrank { path: lossy(name) }),
                Ok(read) => {
                    self.out.write_all(&self.buffer[..read]).map_err(Error::Write)?;
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { doing: "read", path: lossy(name), source }),
            }
        }
        header::fill(&mut self.out, size).map_err(Error::Write)
    }

    /// The name under which this file is in the archive already; else it is from now on, under `name`.
    fn first_name(&mut self, name: &[u8], stat: &Stat) -> Option<Vec<u8>> {
        if !self.options.hardlinks || stat.st_nlink < 2 {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        let first = self.links.get(&key).cloned();
        if first.is_none() && self.links.len() < LINKS_MAX && is_stored(stat) {
            self.links.insert(key, name.to_vec());
        }
        first
    }

    /// It did not get into the archive after all.
    fn forget(&mut self, stat: &Stat) {
        self.links.remove(&(stat.st_dev, stat.st_ino));
    }

    fn header(
        &mut self,
        kind: EntryType,
        name: &[u8],
        link: &[u8],
        stat: &Stat,
        size: u64,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), Error> {
        let meta = Meta {
            kind,
            name,
            link,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_seconds: stat.st_mtime,
            size,
            device_major: major(stat.st_rdev),
            device_minor: minor(stat.st_rdev),
            xattrs,
        };
        header::write(&mut self.out, &meta).map_err(Error::Write)
    }

    fn xattrs(&self, file: &OwnedFd, name: &[u8]) -> Result<Xattrs, Error> {
        if !self.options.xattrs {
            return Ok(Vec::new());
        }
        let fail = |errno| read_error("read the extended attributes of", name, errno);
        let mut list = vec![0; XATTR_BYTES_MAX];
        let length = match flistxattr(file, &mut list[..]) {
            Err(Errno::NOTSUP) => 0,
            length => length.map_err(fail)?,
        };
        let mut xattrs = Vec::new();
        let mut value = vec![0; if length > 0 { XATTR_BYTES_MAX } else { 0 }];
        for key in list[..length].split_inclusive(|&byte| byte == 0) {
            let Ok(key) = CStr::from_bytes_with_nul(key) else { continue };
            // The overlay's own, of no use elsewhere.
            if key.to_bytes().starts_with(b"trusted.overlay.") {
                continue;
            }
            match fgetxattr(file, key, &mut value[..]) {
                Err(Errno::NODATA) => {}
                length => {
                    let length = length.map_err(fail)?;
                    xattrs.push((key.to_bytes().to_vec(), value[..length].to_vec()));
                }
            }
        }
        Ok(xattrs)
    }
}

/// What it means that something went between being listed and being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vanished {
    IsLeftOut,
    /// It is what was asked for.
    IsAnError,
}

fn is_stored(stat: &Stat) -> bool {
    !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Socket | FileType::Unknown)
}

fn read_error(doing: &'static str, name: &[u8], errno: Errno) -> Error {
    Error::Read { doing, path: lossy(name), source: errno.into() }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
