//! The Linux backend as a column: each world has a tag, directories, addresses and ports of its own, and nothing with
//! that tag may be left when it is closed.

use std::{
    fs,
    net::Ipv4Addr,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Weak},
    time::Duration,
};

use backend_linux::{Config, FirewallKind, LinuxBackend};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    columns::{Behaviour, MAX_CONTAINERS, Skip, check, linux_traits, over_http},
    neighbour::{FAR_NETWORK, FAR_NETWORK_IPV6, HOST, NEIGHBOUR, Neighbour, on_own_host},
    patience::patience,
    world::{Closing, World},
};

/// How many worlds there can be at once on a host.
const SLOTS: u16 = 648;
/// Host ports of each.
pub(crate) const PORTS: u16 = 16;
/// Below the range that the kernel gives out by itself.
const FIRST_PORT: u16 = 20_000;
/// What the kernel takes apart in its own time is gone by then.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(10));
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What sets one world apart from others on this host, of this process or another.
pub(crate) struct Slot {
    number: u16,
    /// An abstract socket: its name is taken for as long as this lives, and leaves no file.
    _claim: UnixListener,
}

impl Slot {
    pub(crate) fn claim() -> Slot {
        let free = |number: &u16| {
            let address = SocketAddr::from_abstract_name(format!("garden-conformance-{number}")).ok()?;
            UnixListener::bind_addr(&address).ok()
        };
        let found = (0..SLOTS).find_map(|number| Some(Slot { number, _claim: free(&number)? }));
        found.expect("a free slot for a world")
    }

    /// Two characters, the first one a letter up to `r`.
    pub(crate) fn tag(&self) -> String {
        let digit = |value: u16| char::from_digit(value.into(), 36).expect("a digit");
        [digit(10 + self.number / 36), digit(self.number % 36)].iter().collect()
    }

    /// A /26: room for 16 containers.
    pub(crate) fn pool(&self) -> String {
        let base = u32::from(Ipv4Addr::new(10, 253, 0, 0)) + u32::from(self.number) * 64;
        format!("{}/26", Ipv4Addr::from(base))
    }

    /// A container's address in a /30 that is not of any world's pool.
    pub(crate) fn named_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 252, 0, 2)) + u32::from(self.number) * 64)
    }

    /// The first of its host ports.
    pub(crate) fn first_port(&self) -> u16 {
        FIRST_PORT + self.number * PORTS
    }

    fn config(&self, directory: &Path) -> Config {
        let mut config = Config {
            tag: self.tag(),
            depot: directory.join("depot"),
            store: directory.join("store"),
            max_containers: MAX_CONTAINERS,
            // So that containers are made of what was prepared, and of nothing, by turns.
            prepared_containers: 1,
            ..Default::default()
        };
        config.network.pool = self.pool().parse().expect("a subnet");
        config.network.port_pool_start = self.first_port();
        config.network.port_pool_size = PORTS;
        config
    }
}

/// The Linux backend, in process.
pub async fn linux() -> Result<World, Skip> {
    linux_with(|_| ()).await
}

/// The same with settings of its own.
pub async fn linux_with(change: impl FnOnce(&mut Config)) -> Result<World, Skip> {
    open_over(Slot::claim(), Wire::None, change).await
}

/// What is between a behaviour and the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Nothing.
    None,
    /// This project's client and server.
    Http,
}

/// Runs one behaviour on the Linux backend with settings of its own: where its theme is the network, on a host of its
/// own with a neighbour, and with what operators set that the theme is about.
pub fn check_on_linux(theme: &'static str, wire: Wire, change: fn(&mut Config), behaviour: Behaviour) {
    if !theme.starts_with("network") || !is_root() {
        return check(open_over(Slot::claim(), wire, change), behaviour);
    }
    // Before: what is taken by name in a network namespace is free in another.
    let slot = Slot::claim();
    let open = async move {
        let neighbour = Neighbour::of_this_host();
        let names = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&names, format!("search internal\nnameserver 127.0.0.53\nnameserver {NEIGHBOUR}\n"))
            .expect("write resolv.conf");
        let resolv_conf = names.path().to_owned();
        let world = open_over(slot, wire, move |config| {
            config.network.dns.resolv_conf = resolv_conf;
            of_theme(theme, config);
            change(config);
        });
        Ok(world.await?.with_neighbour(neighbour, names))
    };
    on_own_host(move || check(open, behaviour));
}

/// What an operator sets.
fn of_theme(theme: &str, config: &mut Config) {
    let network = &mut config.network;
    match theme {
        "network_rules" => {
            let host = format!("{HOST}/32");
            network.denied = [FAR_NETWORK, &host].map(|text| text.parse().expect("a network")).to_vec();
        }
        "network_ipv6" => {
            // Each world has a host of its own: they can have the same addresses.
            network.pool_ipv6 = Some("fd67:7264:77::/112".parse().expect("a network"));
            network.denied = vec![FAR_NETWORK_IPV6.parse().expect("a network")];
        }
        "network_open" => network.allow_host_access = true,
        "network_names" => {
            network.dns.additional_hosts = vec!["192.0.2.8 db.internal db".parse().expect("an entry")];
        }
        "network_load" => network.container_metrics = true,
        _ => {}
    }
}

async fn open_over(slot: Slot, wire: Wire, change: impl FnOnce(&mut Config)) -> Result<World, Skip> {
    let (backend, closing) = open(slot, change).await?;
    Ok(match wire {
        Wire::None => World::new(backend, linux_traits(), closing),
        Wire::Http => over_http(backend, linux_traits(), closing).await,
    })
}

fn is_root() -> bool {
    // The owner of a process's own directory is its effective user.
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").expect("/proc")) == 0
}

async fn open(
    slot: Slot,
    change: impl FnOnce(&mut Config),
) -> Result<(std::sync::Arc<LinuxBackend>, Closing), Skip> {
    if !is_root() {
        return Err("only root can make containers".into());
    }
    let prefix = format!("garden-{}-", slot.tag());
    let directory = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a directory");
    let mut config = slot.config(directory.path());
    change(&mut config);
    let backend = match LinuxBackend::start(config.clone()).await {
        Ok(backend) => backend,
        Err(error) => panic!("start the Linux backend: {}", protocol::Error::failed(&error)),
    };
    let closing = close(slot, config, directory, std::sync::Arc::downgrade(&backend));
    Ok((backend, Box::pin(closing)))
}

/// Looks for what the world's containers left; stops the backend, cleans up, and looks for what that left.
async fn close(
    slot: Slot,
    config: Config,
    directory: TempDir,
    backend: Weak<LinuxBackend>,
) -> Result<(), String> {
    let of_containers = none_left(|| left_by_containers(&config, config.prepared_containers)).await;
    let running =
        none_left(|| backend.upgrade().map(|_| "the backend, still in use".into()).into_iter().collect());
    running.await?;
    // Its last tasks end in their own time, and hold the depot until then.
    let begun = Instant::now();
    while let Err(error) = backend_linux::cleanup(&config).await {
        if begun.elapsed() > *PATIENCE {
            return Err(format!("clean-up: {}", protocol::Error::failed(&error)));
        }
        sleep(POLL).await;
    }
    let of_all = none_left(|| left_by_all(&config, directory.path())).await;
    let removed = directory.close().map_err(|error| format!("remove the world's directory: {error}"));
    drop(slot);
    of_containers.and(of_all).and(removed)
}

/// Waits until nothing is found any more, or says what is.
async fn none_left(find: impl Fn() -> Vec<String>) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let found = find();
        if found.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > *PATIENCE {
            return Err(format!("left behind:\n  {}", found.join("\n  ")));
        }
        sleep(POLL).await;
    }
}

/// `prepared`: how many links may wait for a container.
fn left_by_containers(config: &Config, prepared: usize) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let containers = names_in(&config.depot.join("containers"));
    found.extend(containers.iter().map(|name| format!("depot entry {name}")));
    let link_prefix = format!("g{}-", config.tag);
    let mut links = links();
    links.retain(|name| name.starts_with(&link_prefix));
    found.extend(links.iter().skip(prepared).map(|name| format!("link {name}")));
    let base = format!("garden-{}", config.tag);
    for group in groups(Path::new("/sys/fs/cgroup"), &base) {
        let containers = names_in(&group).into_iter().filter(|name| group.join(name).is_dir());
        found.extend(containers.map(|name| format!("cgroup {}", group.join(name).display())));
    }
    found.extend(processes(&base, &config.depot));
    found
}

fn left_by_all(config: &Config, directory: &Path) -> Vec<String> {
    let mut found = left_by_containers(config, 0);
    let base = format!("garden-{}", config.tag);
    let groups = groups(Path::new("/sys/fs/cgroup"), &base);
    found.extend(groups.iter().map(|group| format!("cgroup {}", group.display())));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let directory = directory.display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&directory)).map(|line| format!("mount {line}")));
    let of_us = |line: &str| line.split(' ').any(|word| word == base);
    found.extend(printed("nft", &["list", "tables"], of_us));
    if config.network.firewall == FirewallKind::Iptables {
        let link = format!("g{}-", config.tag);
        let names_us = |line: &str| line.contains(&base) || line.contains(&link);
        found.extend(printed("iptables-save", &[], names_us));
        found.extend(printed("ip6tables-save", &[], names_us));
    }
    for program in ["iptables-save", "ip6tables-save"] {
        // Where there is no such program, the server could not have used it either.
        let Ok(output) = Command::new(program).output() else { continue };
        let rules = String::from_utf8_lossy(&output.stdout).into_owned();
        found.extend(
            rules.lines().filter(|line| line.contains(&base)).map(|line| format!("{program} {line}")),
        );
    }
    found
}

/// The lines that a tool of the firewall prints of us.
fn printed(program: &str, arguments: &[&str], of_us: impl Fn(&str) -> bool) -> Vec<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().filter(|line| of_us(line)).map(|line| format!("firewall {line}")).collect()
        }
        Err(error) => vec![format!("(cannot run {program} to look at the firewall: {error})")],
    }
}

/// Of the network namespace that the calling thread is in, which `/sys` may not show.
fn links() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Directories named `base` in any hierarchy.
pub(crate) fn groups(directory: &Path, base: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match entry.file_name() == base {
                true => found.push(entry.path()),
                false => found.extend(groups(&entry.path(), base)),
            }
        }
    }
    found
}

/// Processes in a group of ours, or that were started with our depot's name.
fn processes(base: &str, depot: &Path) -> Vec<String> {
    let depot = depot.display().to_string();
    let below = format!("/{base}/");
    let ours = |pid: &String| {
        let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        // Supervisors that wait for a container are in the group of all, and in none below it.
        let in_group = groups.lines().any(|line| line.split_once(&below).is_some());
        (in_group || command.contains(&depot)).then(|| format!("process {pid} {command}"))
    };
    let pids =
        names_in(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    pids.collect::<Vec<_>>().iter().filter_map(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_worlds_share_nothing() {
        let (one, other) = (Slot::claim(), Slot::claim());
        assert_ne!(one.number, other.number);
        let (one, other) = (one.config(Path::new("/a")), other.config(Path::new("/a")));
        assert_ne!(one.tag, other.tag);
        assert!(!one.network.pool.overlaps(other.network.pool));
        let ports = |config: &Config| config.network.port_pool_start..config.network.port_pool_start + PORTS;
        assert!(ports(&one).all(|port| !ports(&other).contains(&port)));
    }

    #[test]
    fn a_process_that_is_left_is_found() {
        let mut child = Command::new("sleep").arg("1000").arg0_of_depot().spawn().expect("a process");
        let look = || processes("garden-none", Path::new("/depot-of-this-test"));
        // A process that was just spawned has no command line for a moment, while the kernel executes it.
        let begun = Instant::now();
        let mut found = look();
        while found.is_empty() && begun.elapsed() < *PATIENCE {
            found = look();
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(found.len(), 1, "{found:?}");
    }

    trait Named {
        fn arg0_of_depot(&mut self) -> &mut Self;
    }

    impl Named for Command {
        fn arg0_of_depot(&mut self) -> &mut Self {
            std::os::unix::process::CommandExt::arg0(self, "/depot-of-this-test")
        }
    }
}
