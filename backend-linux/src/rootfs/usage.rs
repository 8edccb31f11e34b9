//! How much space a tree takes.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat},
    io::Errno,
};

use super::{Error, Result};

/// `st_blocks` counts these, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;

/// What a tree takes of its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Space that is really taken: holes of sparse files are not.
    pub bytes: u64,
    /// Files and directories, the top one not counted.
    pub inodes: u64,
}

/// What the tree below `top` takes; nothing if it is gone. A file with several names counts once. Safe on a tree that
/// others are changing: no link is followed, what vanishes meanwhile is not counted, and neither is what lies so deep
/// that the kernel has no path for it (4096 bytes).
pub fn usage(top: &Path) -> Result<Usage> {
    walk(top).map_err(|source| Error::Store { doing: "measure", path: top.into(), source: source.into() })
}

fn walk(top: &Path) -> Result<Usage, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match openat(CWD, top, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Usage::default()),
        root => root?,
    };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut directories = vec![PathBuf::from(".")];
    while let Some(path) = directories.pop() {
        match openat2(&root, &path, flags, Mode::empty(), beneath) {
            Ok(directory) => count(&directory, &path, &mut usage, &mut seen, &mut directories)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(usage)
}

fn count(
    directory: &OwnedFd,
    path: &Path,
    usage: &mut Usage,
    seen: &mut HashSet<(u64, u64)>,
    directories: &mut Vec<PathBuf>,
) -> Result<(), Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !is_directory && !seen.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        usage.inodes += 1;
        usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES);
        if is_directory {
            directories.push(path.join(OsStr::from_bytes(name.to_bytes())));
        }
    }
    Ok(())
}
