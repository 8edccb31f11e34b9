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
/// How many records a file may have before only the last one is kept.
const RECORDS_MAX: u64 = 32;
/// How long a file may be for that: records with large properties are not to fill the memory that the depot is in.
const FILE_MAX_BYTES: u64 = 256 * 1024;
/// Where root filesystems are mounted for a moment while containers are made, each in a mount namespace of its own.
const MOUNT_POINT: &str = "root";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The depot: `containers/HANDLE/record.json`, whose last whole line counts, and what else a container needs outside of
/// itself; `host/` for what belongs to no container.
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
        for directory in [root, &containers, &host, &host.join(MOUNT_POINT)] {
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

    /// Where a root filesystem is mounted by who has a mount namespace to itself.
    pub fn mount_point(&self) -> PathBuf {
        self.root.join("host").join(MOUNT_POINT)
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

    /// Adds a record to those before it, of which it takes the place once it is whole. It need not survive a crash of
    /// the host, after which there is no container to go with it.
    ///
    /// Added, since ext4 writes a new file to the disk before it puts it in the place of another.
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let directory = self.directory(&record.handle);
        let path = directory.join(RECORD);
        let error = |doing| self.error(&record.handle, doing, &path);
        let json = serde_json::to_vec(record).map_err(|source| error("encode")(source.into()))?;
        // What came before may have no end: a full disk, or a killed server.
        let line = [b"\n", json.as_slice(), b"\n"].concat();
        let write = || -> io::Result<()> {
            let mut file = File::options().append(true).create(true).open(&path)?;
            if file.metadata()?.len() > FILE_MAX_BYTES.min(line.len() as u64 * RECORDS_MAX) {
                let new = directory.join(RECORD_TMP);
                fs::write(&new, &line)?;
                self.die_if_due();
                fs::rename(&new, &path)
            } else {
                if self.is_due() {
                    file.write_all(&line[..line.len() / 2])?;
                    die();
                }
                file.write_all(&line)
            }
        };
        write().map_err(error("write"))?;
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
            match fs::read(entry.path().join(RECORD)).map(|text| latest(&text)) {
                Ok(Some(Ok(record))) if record.handle == handle => records.push(record),
                // Not even the first one was written.
                Ok(None) => strays.push(handle),
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

    /// For tests of recovery: whether this is the step to die at.
    fn is_due(&self) -> bool {
        self.die_at_write.is_some_and(|due| self.writes.fetch_add(1, Ordering::SeqCst) + 1 == due)
    }

    fn die_if_due(&self) {
        if self.is_due() {
            die();
        }
    }
}

/// Ends this process as hard as can be.
fn die() {
    // It cannot fail, and does not return.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// The last record that was written to its end, of a file that may be one record without a line's end, as earlier
/// servers wrote it. None: there is none.
fn latest(text: &[u8]) -> Option<serde_json::Result<Record>> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(text, |end| &text[..end]);
    let lines = whole.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    // What a full disk or a kill has cut short, and another such write has ended as a line, ends early as JSON.
    lines.map(serde_json::from_slice).find(|record| !record.as_ref().is_err_and(|error| error.is_eof()))
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        net::Ipv4Addr,
        time::{Duration, SystemTime},
    };

    use ipnetwork::Ipv4Network;

    use super::{super::State, *};
    use crate::network::{Assignment, Attachment, Subnet};

    fn record(state: State) -> Record {
        let assignment = Assignment {
            subnet: Subnet::try_from("10.0.0.0/30".parse::<Ipv4Network>().unwrap()).unwrap(),
            host_ip: Ipv4Addr::new(10, 0, 0, 1),
            container_ip: Ipv4Addr::new(10, 0, 0, 2),
            host_link: "link".into(),
            mtu: 1500,
            ipv6: None,
        };
        Record {
            handle: "h".into(),
            state,
            created_at: SystemTime::UNIX_EPOCH,
            grace_time: Duration::ZERO,
            privileged: false,
            ids: None,
            image: None,
            env: Vec::new(),
            properties: BTreeMap::new(),
            limits: Default::default(),
            assignment: Attachment::Own(assignment),
            ports: Vec::new(),
            net_out: Vec::new(),
            events: Vec::new(),
            oom_kills_seen: 0,
            apart: BTreeMap::new(),
        }
    }

    fn depot() -> (tempfile::TempDir, Depot) {
        let root = tempfile::tempdir().unwrap();
        let depot = Depot::open(root.path(), None).unwrap();
        depot.make("h").unwrap();
        (root, depot)
    }

    fn states(depot: &Depot) -> (Vec<State>, usize) {
        let (records, strays) = depot.load().unwrap();
        (records.iter().map(|record| record.state).collect(), strays.len())
    }

    #[test]
    fn the_last_record_that_was_written_to_its_end_counts() {
        let (_root, depot) = depot();
        let path = depot.directory("h").join(RECORD);
        assert_eq!(states(&depot), (vec![], 1), "no record at all");
        depot.write(&record(State::Creating)).unwrap();
        depot.write(&record(State::Active)).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let creating = whole.windows(2).position(|two| two == b"}\n").unwrap() + 2;
            let expected = match cut {
                _ if cut == whole.len() => (vec![State::Active], 0),
                _ if cut >= creating => (vec![State::Creating], 0),
                _ => (vec![], 1),
            };
            assert_eq!(states(&depot), expected, "{cut} bytes of {}", whole.len());
            // Whatever was left, the next one counts.
            depot.write(&record(State::Destroying)).unwrap();
            assert_eq!(states(&depot), (vec![State::Destroying], 0), "after {cut} bytes");
        }
    }

    #[test]
    fn records_that_were_cut_short_one_after_the_other_do_not_count() {
        let (_root, depot) = depot();
        let path = depot.directory("h").join(RECORD);
        depot.write(&record(State::Active)).unwrap();
        let whole = fs::read(&path).unwrap();
        for first in 0..whole.len() - 1 {
            // Of the second one there may be no more than the end of a line.
            for second in [1, whole.len() / 2] {
                fs::write(&path, [&whole, &whole[..first], &whole[..second]].concat()).unwrap();
                assert_eq!(states(&depot), (vec![State::Active], 0), "after {first} and {second} bytes");
            }
        }
    }

    #[test]
    fn a_large_record_that_changes_takes_little_more_room_than_it_needs() {
        let (_root, depot) = depot();
        let path = depot.directory("h").join(RECORD);
        let large = Record { env: vec!["x".repeat(1 << 20)], ..record(State::Active) };
        for _ in 0..4 {
            depot.write(&large).unwrap();
            assert!(fs::metadata(&path).unwrap().len() < (1 << 20) + FILE_MAX_BYTES);
        }
        assert_eq!(states(&depot), (vec![State::Active], 0));
    }

    #[test]
    fn a_record_of_an_earlier_server_is_read_and_replaced() {
        let (_root, depot) = depot();
        let path = depot.directory("h").join(RECORD);
        fs::write(&path, serde_json::to_vec(&record(State::Active)).unwrap()).unwrap();
        assert_eq!(states(&depot), (vec![State::Active], 0));
        depot.write(&record(State::Stopped)).unwrap();
        assert_eq!(states(&depot), (vec![State::Stopped], 0));
    }

    #[test]
    fn a_record_that_changes_for_ever_does_not_grow_for_ever() {
        let (_root, depot) = depot();
        let path = depot.directory("h").join(RECORD);
        let mut largest = 0;
        for _ in 0..4 * RECORDS_MAX {
            depot.write(&record(State::Active)).unwrap();
            largest = largest.max(fs::metadata(&path).unwrap().len());
        }
        depot.write(&record(State::Stopped)).unwrap();
        assert_eq!(states(&depot), (vec![State::Stopped], 0));
        let one = serde_json::to_vec(&record(State::Active)).unwrap().len() as u64 + 2;
        assert!(largest <= one * (RECORDS_MAX + 1), "{largest} bytes for records of {one}");
    }

    #[test]
    fn what_is_no_record_is_a_stray() {
        let (_root, depot) = depot();
        fs::write(depot.directory("h").join(RECORD), b"\n{\"handle\":\n").unwrap();
        assert_eq!(states(&depot), (vec![], 1));
    }
}
