//! The directory where the records are: one directory for each container, by its handle.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Error, Record, lock_directory};

const RECORD: &str = "record.json";
const RECORD_TMP: &str = "record.json.new";
/// Paths of the server's cgroups that all others are in, as a list in JSON.
const CGROUPS: &str = "host/cgroups.json";
const CGROUPS_TMP: &str = "host/cgroups.json.new";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The depot: `containers/HANDLE/record.json` and what else a container needs outside of itself; `host/` for what
/// belongs to no container.
pub struct Depot {
    root: PathBuf,
    die_at_write: Option<u64>,
    writes: AtomicU64,
    _lock: File,
}

impl Depot {
    /// Opens it, made if missing. Fails while another server has it. What stems from before a reboot is dropped: of
    /// those containers nothing is left but files.
    pub fn open(root: &Path, die_at_write: Option<u64>) -> Result<Depot, Error> {
        let error = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Depot { handle: String::new(), doing, path, source }
        };
        let (containers, host) = (root.join("containers"), root.join("host"));
        for directory in [root, &containers, &host] {
            make_directory(directory).map_err(error("make", directory))?;
        }
        let lock =
            lock_directory(&host).map_err(error("lock (is another server using the depot?)", &host))?;
        let boot_id = fs::read_to_string(BOOT_ID).map_err(error("read", Path::new(BOOT_ID)))?;
        let stored = host.join("boot_id");
        if fs::read_to_string(&stored).ok().as_deref() != Some(&boot_id) {
            fs::remove_dir_all(&containers).map_err(error("clear", &containers))?;
            make_directory(&containers).map_err(error("make", &containers))?;
            fs::write(&stored, boot_id).map_err(error("write", &stored))?;
        }
        Ok(Depot { root: root.to_owned(), die_at_write, writes: AtomicU64::new(0), _lock: lock })
    }

    /// What was noted last of the cgroups that all containers' are in. A note that cannot be read is none: where this
    /// server would make them is where they are, unless it was started in another place.
    pub fn cgroups(&self) -> Result<Vec<PathBuf>, Error> {
        let path = self.root.join(CGROUPS);
        match fs::read(&path) {
            Ok(json) => Ok(serde_json::from_slice(&json).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(self.error("", "read", &path)(error)),
        }
    }

    /// Notes the cgroups that all containers' are in, for the next server, which may be started in another place.
    pub fn note_cgroups<'a>(&self, groups: impl Iterator<Item = &'a Path>) -> Result<(), Error> {
        let (new, path) = (self.root.join(CGROUPS_TMP), self.root.join(CGROUPS));
        let json = serde_json::to_vec(&groups.collect::<Vec<_>>()).map_err(io::Error::from);
        let written = json.and_then(|json| fs::write(&new, json)).and_then(|()| fs::rename(&new, &path));
        written.map_err(self.error("", "write", &path))
    }

    /// A container's directory.
    pub fn directory(&self, handle: &str) -> PathBuf {
        self.root.join("containers").join(handle)
    }

    fn error(
        &self,
        handle: &str,
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> Error + use<> {
        let (handle, path) = (handle.to_owned(), path.to_owned());
        move |source| Error::Depot { handle, doing, path, source }
    }

    /// Makes a container's directory, which must not exist.
    pub fn make(&self, handle: &str) -> Result<PathBuf, Error> {
        let directory = self.directory(handle);
        let made = fs::DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(self.error(handle, "make", &directory))?;
        Ok(directory)
    }

    /// Puts a record in place of the one before, whole or not at all. It need not survive a crash of the host, after
    /// which there is no container to go with it.
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let directory = self.directory(&record.handle);
        let (new, path) = (directory.join(RECORD_TMP), directory.join(RECORD));
        let error = |doing| self.error(&record.handle, doing, &path);
        let json = serde_json::to_vec(record).map_err(|source| error("encode")(source.into()))?;
        File::create(&new).and_then(|mut file| file.write_all(&json)).map_err(error("write"))?;
        self.die_if_due();
        fs::rename(&new, &path).map_err(error("write"))?;
        self.die_if_due();
        Ok(())
    }

    /// Removes a container's directory, the record last. None there is no error.
    pub fn remove(&self, handle: &str) -> Result<(), Error> {
        let directory = self.directory(handle);
        let error = |path: &Path| self.error(handle, "remove", path);
        let entries = match fs::read_dir(&directory) {
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(()),
            entries => {
                entries.and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(error(&directory))?
            }
        };
        let others = entries.iter().filter(|entry| entry.file_name() != RECORD).map(fs::DirEntry::path);
        for path in others {
            let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            removed.map_err(error(&path))?;
        }
        self.die_if_due();
        match fs::remove_file(directory.join(RECORD)) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(error(&directory)(source)),
            _ => {}
        }
        self.die_if_due();
        fs::remove_dir(&directory).map_err(error(&directory))
    }

    /// Every record, and the handles of directories that have none that can be read.
    pub fn load(&self) -> Result<(Vec<Record>, Vec<String>), Error> {
        let containers = self.root.join("containers");
        let entries = fs::read_dir(&containers).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let (mut records, mut strays) = (Vec::new(), Vec::new());
        for entry in entries.map_err(self.error("", "read", &containers))? {
            // Handles are UTF-8, so whatever is not was not made by a server.
            let Ok(handle) = entry.file_name().into_string() else { continue };
            match fs::read(entry.path().join(RECORD)).map(|json| serde_json::from_slice::<Record>(&json)) {
                Ok(Ok(record)) if record.handle == handle => records.push(record),
                Err(error) if error.kind() == ErrorKind::NotFound => strays.push(handle),
                unreadable => {
                    tracing::error!(
                        handle,
                        ?unreadable,
                        "a container's record cannot be read: destroying the rest"
                    );
                    strays.push(handle);
                }
            }
        }
        Ok((records, strays))
    }

    /// For tests of recovery: ends this process as hard as can be, at the step that was asked for.
    fn die_if_due(&self) {
        let Some(due) = self.die_at_write else { return };
        if self.writes.fetch_add(1, Ordering::SeqCst) + 1 == due {
            // It cannot fail, and does not return.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
