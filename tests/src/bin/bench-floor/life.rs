//! The parent's side of a life.

use std::{
    error::Error,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::{Batch, Netlink};

/// The host id that root inside is mapped to.
const ROOT: u32 = 4294967294;
const SET: &str = "here";
/// The controllers of cgroup v1 that a container needs.
const CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "devices"];

/// How long the parts of a life took.
pub struct Took {
    pub create: Duration,
    pub run: Duration,
    pub destroy: Duration,
}

/// What all lives share.
pub struct Floor {
    directory: PathBuf,
    cgroups: Vec<PathBuf>,
    route: Netlink,
    firewall: Netlink,
    table: String,
    own_pid_namespace: File,
    lives: u32,
}

struct Container {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    base: PathBuf,
    groups: Vec<PathBuf>,
    address: Ipv4Addr,
}

impl Floor {
    /// Looks for the cgroups, and makes an nftables table with a set.
    pub fn new(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let top = Path::new("/sys/fs/cgroup");
        let cgroups = if top.join("cgroup.controllers").exists() {
            vec![top.to_owned()]
        } else {
            CONTROLLERS.iter().map(|name| top.join(name)).filter(|path| path.join("tasks").exists()).collect()
        };
        let table = format!("floor_{}", std::process::id());
        nft(&format!("add table ip {table}; add set ip {table} {SET} {{ type ipv4_addr; }}"))?;
        Ok(Floor {
            directory: directory.to_owned(),
            cgroups,
            route: Netlink::route()?,
            firewall: Netlink::firewall()?,
            table,
            own_pid_namespace: File::open("/proc/self/ns/pid")?,
            lives: 0,
        })
    }

    /// One life.
    pub fn life(&mut self) -> Result<Took, Box<dyn Error>> {
        let begun = Instant::now();
        let mut container = self.create()?;
        let create = begun.elapsed();
        let begun = Instant::now();
        writeln!(container.to)?;
        container.expect("0")?;
        let run = begun.elapsed();
        let begun = Instant::now();
        self.destroy(container)?;
        let destroy = begun.elapsed();
        // Off the path, as the server does it.
        let trash = self.directory.join("trash");
        if trash.exists() {
            fs::remove_dir_all(trash)?;
        }
        Ok(Took { create, run, destroy })
    }

    fn create(&mut self) -> Result<Container, Box<dyn Error>> {
        self.lives += 1;
        // Unique among floors that run side by side; a link's name lives on for a while after its namespace.
        let number = (std::process::id() % 1024) * 4096 + self.lives % 4096;
        let name = format!("fl{number}");
        let base = self.directory.join(&name);
        let (upper, work, merged) = (base.join("upper"), base.join("work"), base.join("merged"));
        for path in [&base, &upper, &work, &merged] {
            fs::create_dir(path)?;
        }
        chown(&upper, Some(ROOT), Some(ROOT))?;
        chown(&work, Some(ROOT), Some(ROOT))?;
        self.record(&base)?;
        let groups = self.make_groups(&name)?;
        let joins: Vec<String> = groups.iter().map(|group| join_file(group).display().to_string()).collect();

        // 198.18.0.0/15 is kept for benchmarks (RFC 2544): nobody's route leads there.
        let host_end = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (number % 32768) * 4 + 1);
        let address = Ipv4Addr::from(u32::from(host_end) + 1);
        unshare(CloneFlags::CLONE_NEWPID)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("child")
            .args([&merged, &self.directory.join("rootfs"), &upper, &work])
            .arg(address.to_string())
            .env("FLOOR_CGROUPS", joins.join(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        setns(&self.own_pid_namespace, CloneFlags::CLONE_NEWPID)?;
        let to = child.stdin.take().ok_or("no input")?;
        let from = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut container = Container { child, to, from, base, groups, address };

        container.expect("unshared")?;
        let pid = container.child.id();
        let index = 1_000_000 + number;
        let mut batch = Batch::default();
        batch.veth(&name, index, pid).address(index, host_end);
        self.route.send(batch)?;
        let mut batch = Batch::default();
        batch.element(true, &self.table, SET, address);
        self.firewall.send(batch)?;
        writeln!(container.to)?;
        container.expect("mapped?")?;
        let map = format!("0 {ROOT} 1\n1 1 {}", ROOT - 1);
        fs::write(format!("/proc/{pid}/uid_map"), &map)?;
        fs::write(format!("/proc/{pid}/gid_map"), &map)?;
        writeln!(container.to)?;
        container.expect("ready")?;
        Ok(container)
    }

    fn destroy(&self, mut container: Container) -> Result<(), Box<dyn Error>> {
        container.child.kill()?;
        container.child.wait()?;
        let mut batch = Batch::default();
        batch.element(false, &self.table, SET, container.address);
        self.firewall.send(batch)?;
        for group in &container.groups {
            remove_group(group)?;
        }
        fs::remove_file(container.base.join("record"))?;
        fs::rename(&container.base, self.directory.join("trash"))?;
        Ok(())
    }

    /// What the server writes so that it survives.
    fn record(&self, base: &Path) -> Result<(), Box<dyn Error>> {
        fs::write(base.join("record.new"), [b'x'; 2000])?;
        fs::rename(base.join("record.new"), base.join("record"))?;
        Ok(())
    }

    fn make_groups(&self, name: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
        let mut groups = Vec::with_capacity(self.cgroups.len());
        for top in &self.cgroups {
            let group = top.join(format!("floor-{name}"));
            fs::create_dir(&group)?;
            for file in ["memory.max", "memory.limit_in_bytes"] {
                if group.join(file).exists() {
                    fs::write(group.join(file), "67108864")?;
                }
            }
            groups.push(group);
        }
        Ok(groups)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if let Err(error) = nft(&format!("delete table ip {}", self.table)) {
            eprintln!("bench-floor: {error}");
        }
    }
}

impl Drop for Container {
    /// For a life that failed half-way; after a whole one there is nothing to do.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for group in self.groups.iter().filter(|group| group.exists()) {
            let _ = remove_group(group);
        }
    }
}

impl Container {
    fn expect(&mut self, what: &str) -> Result<(), Box<dyn Error>> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        if line.trim_end() == what {
            Ok(())
        } else {
            Err(format!("the child said {line:?}, not {what:?}").into())
        }
    }
}

/// The file through which a process joins a group itself; on v1 `tasks` is far faster than `cgroup.procs`.
fn join_file(group: &Path) -> PathBuf {
    let tasks = group.join("tasks");
    if tasks.exists() { tasks } else { group.join("cgroup.procs") }
}

fn remove_group(group: &Path) -> Result<(), Box<dyn Error>> {
    for _ in 0..1000 {
        match fs::remove_dir(group) {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => {
                sleep(Duration::from_micros(100));
            }
            other => return Ok(other?),
        }
    }
    Err(format!("{} stays busy", group.display()).into())
}

fn nft(script: &str) -> Result<(), Box<dyn Error>> {
    let status = Command::new("nft").arg(script).status()?;
    if status.success() { Ok(()) } else { Err(format!("nft {script}: {status}").into()) }
}
