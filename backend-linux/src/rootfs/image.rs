//! Images: found or unpacked, once.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::{fd::AsFd, unix::fs::DirBuilderExt, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest, Sha256};

use super::{
    Error, Result, Store, maybe_gunzip,
    source::{self, Source},
    untar::{self, End, Owner, Resolve, untar},
};

/// A root filesystem that a container can be put on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The directory to put below the overlay, never written to.
    pub lower: PathBuf,
    /// The layer in the store; none: the directory is the operator's own, used in place.
    pub digest: Option<String>,
}

/// A file as it was when it was hashed. A change of content changes at least the last of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    pub(super) fn new(path: &Path, metadata: &Metadata) -> Self {
        FileIdentity {
            path: path.into(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the last change is so long ago that another one would show: the kernel's clock for files may tick as
    /// slowly as a hundred times a second.
    fn is_settled(&self) -> bool {
        const TICKS: Duration = Duration::from_millis(100);
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else {
            return true;
        };
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds));
        // A change in the future is nothing to rely on.
        let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
        age.is_some_and(|age| age > TICKS)
    }
}

/// One lock for each key that is in use: whoever needs the same thing waits, nobody else does.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Arc<Mutex<()>>>>);

impl Locks {
    /// Runs `work` while no other call with the same key runs. A panic of an earlier one left nothing half-done: what
    /// is made here appears by rename.
    pub(super) fn holding<T>(&self, key: &str, work: impl FnOnce() -> T) -> T {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(key.to_owned()).or_default())
        };
        let result = {
            let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
            work()
        };
        drop(lock);
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Ours was the last use, unless somebody waits.
        if locks.get(key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(key);
        }
        result
    }
}

#[cfg(test)]
impl Locks {
    /// How many keys are in use.
    pub(super) fn in_use(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Store {
    /// The image that `uri` names, unpacked if it is not yet. Empty: the server's default.
    pub fn image(&self, uri: &str) -> Result<Image> {
        let uri = if uri.is_empty() { &self.default_rootfs } else { uri };
        let path = match source::parse(uri)? {
            Source::Busybox => return self.busybox_image(),
            Source::Path(path) => path,
        };
        let read_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Missing { uri: uri.into() },
            _ => Error::Read { uri: uri.into(), source },
        };
        let metadata = fs::metadata(&path).map_err(read_error)?;
        if metadata.is_dir() {
            return Ok(Image { lower: path, digest: None });
        }
        if !metadata.is_file() {
            return Err(Error::NotAnImage { uri: uri.into() });
        }
        if let Some(image) = self.cached(&FileIdentity::new(&path, &metadata)) {
            return Ok(image);
        }
        // Many creates may ask for a new file at once: one of them reads it.
        self.locks.holding(&format!("file {}", path.display()), || self.tar_image(uri, &path))
    }

    fn tar_image(&self, uri: &str, path: &Path) -> Result<Image> {
        let read_error = |source| Error::Read { uri: uri.into(), source };
        let mut file = File::open(path).map_err(read_error)?;
        let identity = FileIdentity::new(path, &file.metadata().map_err(read_error)?);
        if let Some(image) = self.cached(&identity) {
            return Ok(image);
        }
        let digest = sha256(&mut file).map_err(read_error)?;
        let image = self.layer(&digest, |directory| {
            io::Seek::rewind(&mut file).map_err(read_error)?;
            unpack(uri, &file, directory)?;
            // What was unpacked is what was hashed.
            let unchanged = FileIdentity::new(path, &file.metadata().map_err(read_error)?) == identity;
            if unchanged { Ok(()) } else { Err(Error::Changed { uri: uri.into() }) }
        })?;
        self.remember(identity, digest);
        Ok(image)
    }

    /// The image of a file that is known and has not changed.
    pub(super) fn cached(&self, identity: &FileIdentity) -> Option<Image> {
        let digest = {
            let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
            digests.get(identity).cloned()?
        };
        let lower = self.layers().join(&digest);
        lower.is_dir().then_some(Image { lower, digest: Some(digest) })
    }

    /// Remembers what a file holds, once its times can tell a later change apart.
    pub(super) fn remember(&self, identity: FileIdentity, digest: String) {
        if !identity.is_settled() {
            return;
        }
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        // Its earlier contents will not come back.
        digests.retain(|known, _| known.path != identity.path);
        digests.insert(identity, digest);
    }

    /// The layer `digest`, filled by `fill` if it is not there. It appears whole or not at all; a failure leaves
    /// nothing.
    pub(super) fn layer(&self, digest: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Image> {
        let lower = self.layers().join(digest);
        self.locks.holding(&format!("layer {digest}"), || {
            if lower.is_dir() {
                return Ok(());
            }
            let directory = self.tmp().join(self.unique_name());
            let store_error = |source| Error::Store { doing: "create", path: directory.clone(), source };
            fs::DirBuilder::new().mode(0o755).create(&directory).map_err(store_error)?;
            let filled = fill(&directory).and_then(|()| {
                renameat_with(CWD, &directory, CWD, &lower, RenameFlags::NOREPLACE)
                    .map_err(|error| store_error(error.into()))
            });
            if filled.is_err() {
                // The first error is the one to tell. What stays is emptied at the next start.
                let _ = self.discard(&directory).and_then(|()| self.empty_trash());
            }
            filled
        })?;
        Ok(Image { lower, digest: Some(digest.into()) })
    }
}

fn unpack(uri: &str, file: &File, directory: &Path) -> Result<()> {
    let read_error = |source| Error::Read { uri: uri.into(), source };
    let input = maybe_gunzip(file).map_err(read_error)?;
    let target = File::open(directory).map_err(|source| Error::Store {
        doing: "open",
        path: directory.into(),
        source,
    })?;
    let options = untar::Options { owner: Owner::Archive, resolve: Resolve::Beneath, end: End::MustBeMarked };
    match untar(input, target.as_fd(), &options) {
        Ok(_) => Ok(()),
        Err(untar::Error::NotTar) => Err(Error::NotAnImage { uri: uri.into() }),
        Err(source) => Err(Error::Unpack { uri: uri.into(), source }),
    }
}

/// The digest of what is left to read.
pub(super) fn sha256(input: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(format!("{:x}", hasher.finalize())),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
