//! The server's binary with the Linux backend, to be killed and started again.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use garden_client::Client;
use protocol::Backend;

use crate::{
    linux::{PORTS, Slot, groups},
    patience::patience,
};

/// How long a server may take to answer, and to die.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(30));

/// How many supervisors wait for a container while a server runs.
pub const PREPARED: usize = 1;

/// A server in a directory of its own, with its own tag and addresses.
pub struct Killable {
    directory: tempfile::TempDir,
    slot: Slot,
    child: Option<Child>,
    wrapper: Vec<String>,
    options: Vec<String>,
}

impl Killable {
    /// Prepares one; it is not running yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Killable {
        Killable {
            directory: tempfile::tempdir().expect("a directory"),
            slot: Slot::claim(),
            child: None,
            wrapper: Vec::new(),
            options: Vec::new(),
        }
    }

    /// Has the server started by another program, whose last arguments are the server's command line.
    pub fn started_by(mut self, wrapper: &[&str]) -> Killable {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Has the server started with these options too.
    pub fn with_options(mut self, options: &[&str]) -> Killable {
        self.options = options.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// The process id of the server, which runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// How the names of its links begin.
    pub fn link_prefix(&self) -> String {
        format!("g{}-", self.slot.tag())
    }

    /// An address that a container of this server, and of no other, may name.
    pub fn named_address(&self) -> Ipv4Addr {
        self.slot.named_address()
    }

    /// What the groups are called that those of its containers are in.
    pub fn base_group(&self) -> String {
        format!("garden-{}", self.slot.tag())
    }

    /// The most memory that the server ever had, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// A path of its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, subcommand: Option<&str>) -> Command {
        let mut command = match self.wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary("garden-server"));
                command
            }
            None => Command::new(binary("garden-server")),
        };
        command
            .args(["--backend", "linux", "--tag", &self.slot.tag(), "--network-pool", &self.slot.pool()])
            .args(["--port-pool-start", &self.slot.first_port().to_string()])
            .args(["--port-pool-size", &PORTS.to_string()])
            .arg("--bind-socket")
            .arg(self.path("socket"))
            .arg("--depot")
            .arg(self.path("depot"))
            .arg("--store")
            .arg(self.path("store"))
            .args(["--prepared-containers", &PREPARED.to_string()])
            .args(&self.options)
            .args(subcommand)
            .stdin(Stdio::null());
        command
    }

    /// Starts the server; with `die_at` it will kill itself at that write of a record. Waits until it answers, or has
    /// died.
    pub async fn start(&mut self, die_at: Option<u64>) -> Client {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).expect("a log");
        let mut command = self.command(None);
        if let Some(write) = die_at {
            command.args(["--die-at-record-write", &write.to_string()]);
        }
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let child = self.child.insert(command.spawn().expect("garden-server"));
        let client = Client::new(&format!("unix:{}", self.directory.path().join("socket").display()));
        let client = client.expect("a client");
        let begun = Instant::now();
        while client.ping().await.is_err() {
            if die_at.is_some() && child.try_wait().expect("wait for the server").is_some() {
                break;
            }
            if begun.elapsed() > *PATIENCE {
                panic!("the server does not answer: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits for it to die by itself. False if it does not.
    pub async fn dies(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < *PATIENCE {
            if self
                .child
                .as_mut()
                .is_none_or(|child| child.try_wait().expect("wait for the server").is_some())
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }

    /// Kills it, as hard as can be.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have died already.
            let _ = child.kill();
            child.wait().expect("wait for the server");
        }
    }

    /// Kills the server, removes everything it made, and says what is still there.
    pub async fn clean_up(mut self) -> Vec<String> {
        self.kill();
        let output = self.command(Some("cleanup")).output().expect("garden-server cleanup");
        let mut left = Vec::new();
        if !output.status.success() {
            left.push(format!("cleanup failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        left.extend(self.left_behind().await);
        left
    }

    /// Waits for everything of this server's containers to be gone; says what is not. The kernel takes a link away some
    /// time after the namespace that it led to.
    pub async fn left_behind(&self) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let left = self.present();
            if left.is_empty() || begun.elapsed() > *PATIENCE {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything of this server's containers that is on the host, as paths and names.
    fn present(&self) -> Vec<String> {
        let mut left = Vec::new();
        for below in ["depot/containers", "store/write"] {
            let entries = fs::read_dir(self.path(below)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let link = |name: &str| name.starts_with(&self.link_prefix());
        let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let links = links.filter_map(|link| link.file_name().into_string().ok()).filter(|name| link(name));
        left.extend(links.skip(if self.child.is_some() { PREPARED } else { 0 }));
        for base in groups(Path::new("/sys/fs/cgroup"), &self.base_group()) {
            let groups = fs::read_dir(base).into_iter().flatten().flatten();
            let groups = groups.filter(|entry| entry.path().is_dir());
            left.extend(groups.map(|entry| entry.path().display().to_string()));
        }
        left
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("the server's log:\n{}", self.log());
            let _ = self.command(Some("cleanup")).status();
        }
    }
}

/// Waits for supervisors of containers whose handle begins with `prefix` to be gone; says which are not. One that has
/// been told to end says that it will, and then does.
pub async fn supervisors_left(prefix: &str) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let left = supervisors(prefix);
        if left.is_empty() || begun.elapsed() > *PATIENCE {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Supervisors of containers whose handle begins with `prefix`: ids and handles.
pub fn supervisors(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let mut words = line.split(|byte| *byte == 0);
        if words.next() == Some(b"garden-init") {
            let handle = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
            if handle.starts_with(prefix) {
                found.push(format!("{} {handle}", entry.file_name().display()));
            }
        }
    }
    found
}

/// A binary of this workspace, beside the tests.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    let beside = own.ancestors().skip(1).take(2).map(|directory: &Path| directory.join(name));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is not built: cargo build"))
}

/// Whether tests that make containers can run; says so if not, which under CI=true is a failure.
pub fn can_make_containers() -> bool {
    if fs::metadata("/proc/self")
        .map(|own| std::os::unix::fs::MetadataExt::uid(&own))
        .is_ok_and(|uid| uid == 0)
    {
        return true;
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI=true allows no skip: this needs root");
    println!("skipped: only root can make containers");
    false
}
