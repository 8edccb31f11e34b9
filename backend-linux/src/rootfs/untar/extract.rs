//! Entries to files.

use std::{
    collections::BTreeMap,
    io::Read,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, chmodat, chownat, fchmod, fchown,
        fsetxattr, ftruncate, futimens, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat,
        unlinkat, utimensat,
    },
    io::Errno,
    process::{Gid, Uid},
};

use super::{
    End, Error, Options, Owner, Resolve, Summary,
    archive::{Archive, Entry, Kind},
    error::lossy,
    places::{Name, Places},
};

const BUFFER_BYTES: usize = 128 * 1024;
/// So many directories' modes and times are put off to the end; beyond it the earliest get theirs early, which costs
/// them an exact modification time, and not us our bounded memory.
const PENDING_MAX: usize = 50_000;

pub(super) struct Extractor<'a> {
    places: Places<'a>,
    options: Options,
    /// Directories whose mode and times come when nothing more is put into them.
    pending: BTreeMap<Name, Pending>,
    buffer: Vec<u8>,
    summary: Summary,
}

struct Pending {
    entry: Entry,
    /// Whether it was made for the archive, or was there before.
    made: bool,
}

impl<'a> Extractor<'a> {
    pub fn new(root: BorrowedFd<'a>, options: &Options) -> Self {
        Extractor {
            places: Places::new(root, options.resolve, options.owner),
            options: *options,
            pending: BTreeMap::new(),
            buffer: vec![0; BUFFER_BYTES],
            summary: Summary::default(),
        }
    }

    pub fn run<R: Read>(mut self, mut archive: Archive<R>) -> Result<Summary, Error> {
        while let Some(entry) = archive.next_entry()? {
            self.extract(entry, &mut archive)?;
            self.summary.entries += 1;
        }
        if archive.unmarked_end && self.options.end == End::MustBeMarked {
            return Err(if self.summary.entries == 0 { Error::NotTar } else { Error::CutShort });
        }
        // Children sort behind their parents and go first: a parent may forbid to look into it.
        while let Some((name, pending)) = self.pending.pop_last() {
            self.finish_directory(&name, &pending)?;
        }
        archive.drain()?;
        Ok(self.summary)
    }

    fn extract<R: Read>(&mut self, entry: Entry, archive: &mut Archive<R>) -> Result<(), Error> {
        let name = Name::new(&entry.path)?;
        if name.is_top() {
            return match entry.kind {
                Kind::Directory => self.put_off(name, entry, false),
                _ => Err(Error::Name { entry: lossy(&entry.path), problem: "has no name" }),
            };
        }
        match entry.kind {
            Kind::Directory => self.directory(name, entry),
            Kind::File => self.file(&name, &entry, archive),
            Kind::Hardlink => self.hardlink(&name, &entry),
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.special(&name, &entry),
        }
    }

    fn directory(&mut self, name: Name, entry: Entry) -> Result<(), Error> {
        let through_links = self.options.resolve == Resolve::ThroughLinks;
        let (parent, last) = self.places.parent(&name)?;
        let fail = |errno: Errno| Error::write("make the directory", name.bytes(), errno);
        // Others cannot look in before it has its owner and mode.
        match mkdirat(parent, last, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => {
                made.map_err(fail)?;
                return self.put_off(name, entry, true);
            }
        }
        let is_directory = |flags| {
            let stat = statat(parent, last, flags);
            stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        if is_directory(AtFlags::SYMLINK_NOFOLLOW) {
            return self.put_off(name, entry, false);
        }
        if through_links && is_directory(AtFlags::empty()) {
            // A link to a directory (`lib` to `usr/lib`) serves as one, and what it leads to stays as it is.
            return Ok(());
        }
        unlinkat(parent, last, AtFlags::empty()).map_err(fail)?;
        mkdirat(parent, last, Mode::RWXU).map_err(fail)?;
        self.put_off(name, entry, true)
    }

    fn put_off(&mut self, name: Name, entry: Entry, made: bool) -> Result<(), Error> {
        // A directory may be named twice, as some writers do.
        let made = made || self.pending.get(&name).is_some_and(|earlier| earlier.made);
        self.pending.insert(name, Pending { entry, made });
        if self.pending.len() > PENDING_MAX
            && let Some((name, pending)) = self.pending.pop_first()
        {
            self.finish_directory(&name, &pending)?;
        }
        Ok(())
    }

    fn finish_directory(&mut self, name: &Name, pending: &Pending) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if name.is_top() {
            openat(self.places.root(), ".", flags, Mode::empty())
        } else {
            let (parent, last) = self.places.parent(name)?;
            openat(parent, last, flags, Mode::empty())
        };
        let foreign = self.options.owner == Owner::Caller && !pending.made;
        let directory = match opened {
            // A later entry took its place.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(()),
            Err(Errno::ACCESS) if foreign => return Ok(()),
            opened => opened.map_err(|errno| Error::write("open the directory", name.bytes(), errno))?,
        };
        match self.finish(&directory, name, &pending.entry) {
            // Another's directory that was there before (`/tmp`) stays as it is; what it was to hold is in it.
            Err(Error::Write { source, .. })
                if foreign && source.raw_os_error() == Some(Errno::PERM.raw_os_error()) =>
            {
                Ok(())
            }
            finished => finished,
        }
    }

    fn file<R: Read>(&mut self, name: &Name, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Error> {
        let (parent, last) = self.places.parent(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = instead(parent, last, || openat(parent, last, flags, Mode::RUSR | Mode::WUSR));
        let file = opened.map_err(|errno| Error::write("create", name.bytes(), errno))?;
        let file = std::fs::File::from(file);
        let mut written = 0;
        for segment in &entry.segments {
            let mut offset = segment.offset;
            let end = segment.offset + segment.length;
            while offset < end {
                let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(self.buffer.len());
                let read = archive.read_data(&mut self.buffer[..wanted])?;
                file.write_all_at(&self.buffer[..read], offset)
                    .map_err(|source| Error::write("write", name.bytes(), source))?;
                offset += read as u64;
                written = offset;
            }
        }
        if written < entry.size {
            ftruncate(&file, entry.size).map_err(|errno| Error::write("extend", name.bytes(), errno))?;
        }
        self.finish(&file.into(), name, entry)
    }

    fn hardlink(&mut self, name: &Name, entry: &Entry) -> Result<(), Error> {
        let target = Name::new(&entry.link)?;
        let fail = |errno: Errno| Error::write("make the hard link", name.bytes(), errno);
        if target.is_top() {
            return Err(Error::Name { entry: lossy(&entry.path), problem: "is a hard link to nothing" });
        }
        let (target_parent, target_last) = target.split();
        let target_parent = self.places.open(target_parent, name)?;
        if *name == target {
            // A link to itself is there already, if it is there.
            return statat(target_parent, target_last, AtFlags::SYMLINK_NOFOLLOW).map(drop).map_err(fail);
        }
        let (parent, last) = self.places.parent(name)?;
        let link = || linkat(&target_parent, target_last, parent, last, AtFlags::empty());
        instead(parent, last, link).map_err(fail)
    }

    /// What has no data and cannot be opened without consequences.
    fn special(&mut self, name: &Name, entry: &Entry) -> Result<(), Error> {
        let owner = self.owner_of(entry);
        let (parent, last) = self.places.parent(name)?;
        let fail = |errno: Errno| Error::write("create", name.bytes(), errno);
        let mode = Mode::from_raw_mode(entry.mode);
        let device = makedev(entry.device_major, entry.device_minor);
        let node = |kind, device| mknodat(parent, last, kind, mode, device);
        instead(parent, last, || match entry.kind {
            Kind::Symlink => symlinkat(&entry.link[..], parent, last),
            Kind::CharDevice => node(FileType::CharacterDevice, device),
            Kind::BlockDevice => node(FileType::BlockDevice, device),
            _ => node(FileType::Fifo, 0),
        })
        .map_err(fail)?;
        if let Some((uid, gid)) = owner {
            chownat(parent, last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| Error::owner(name.bytes(), (uid.as_raw(), gid.as_raw()), errno))?;
        }
        if entry.kind != Kind::Symlink {
            // Not by the process's umask.
            chmodat(parent, last, mode, AtFlags::empty())
                .map_err(|errno| Error::write("change the mode of", name.bytes(), errno))?;
        }
        utimensat(parent, last, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::write("set the time of", name.bytes(), errno))
    }

    /// Owner, mode, xattrs and times, in this order: a change of owner takes setuid bits and capabilities away.
    fn finish(&mut self, file: &OwnedFd, name: &Name, entry: &Entry) -> Result<(), Error> {
        if let Some((uid, gid)) = self.owner_of(entry) {
            fchown(file, Some(uid), Some(gid))
                .map_err(|errno| Error::owner(name.bytes(), (uid.as_raw(), gid.as_raw()), errno))?;
        }
        fchmod(file, Mode::from_raw_mode(entry.mode))
            .map_err(|errno| Error::write("change the mode of", name.bytes(), errno))?;
        self.set_xattrs(file, name, entry)?;
        futimens(file, &times(entry)).map_err(|errno| Error::write("set the time of", name.bytes(), errno))
    }

    fn set_xattrs(&mut self, file: &OwnedFd, name: &Name, entry: &Entry) -> Result<(), Error> {
        for (key, value) in &entry.xattrs {
            // The overlay would take these as its own: a layer could lead to where it has no business.
            if key.starts_with(b"trusted.overlay.") {
                continue;
            }
            match fsetxattr(file, &key[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP | Errno::PERM) if self.options.owner != Owner::Archive => {
                    self.summary.xattrs_skipped += 1;
                }
                Err(errno) => return Err(Error::write("set an extended attribute of", name.bytes(), errno)),
            }
        }
        Ok(())
    }

    fn owner_of(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        match self.options.owner {
            Owner::Archive => Some((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))),
            Owner::As { uid, gid } => Some((Uid::from_raw(uid), Gid::from_raw(gid))),
            Owner::Caller => None,
        }
    }
}

/// Makes something where something else may be: that goes first, so that what other names or open files it has do not
/// change. A directory does not go.
fn instead<T>(parent: BorrowedFd<'_>, name: &[u8], make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            make()
        }
        made => made,
    }
}

fn times(entry: &Entry) -> Timestamps {
    let (tv_sec, nanoseconds) = entry.mtime;
    let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
