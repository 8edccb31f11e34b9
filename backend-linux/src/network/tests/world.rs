//! Network namespaces, each with a thread that lives in it. A thread that was moved is never used for anything else.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use protocol::NetIn;

use crate::{
    Defences, FirewallKind, NetworkConfig,
    network::{
        Network, ends,
        lease::{Assignment, Ipv6Pair, Lease},
        link,
        netlink::Socket,
        pool::Subnet,
    },
};

/// How long a connection may take that is expected to succeed, or fail at once.
pub const PATIENCE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace and the thread that lives in it.
pub struct Namespace {
    jobs: mpsc::Sender<Job>,
    pub netns: OwnedFd,
}

impl Namespace {
    pub fn new() -> Namespace {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (made, netns) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let netns = File::open("/proc/thread-self/ns/net").unwrap();
            made.send(OwnedFd::from(netns)).unwrap();
            for job in inbox {
                job();
            }
        });
        Namespace { jobs, netns: netns.recv().unwrap() }
    }

    /// Runs `work` on the namespace's thread.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || done.send(catch_unwind(AssertUnwindSafe(work))).unwrap();
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// As a container's supervisor opens one for the server.
    pub fn route_socket(&self) -> OwnedFd {
        self.run(|| Socket::open(None).unwrap().as_fd().try_clone_to_owned().unwrap())
    }

    /// A server that answers each TCP connection with `name` and the client's address.
    pub fn serve(&self, address: impl Into<IpAddr>, port: u16, name: &'static str) {
        let address = SocketAddr::new(address.into(), port);
        let listener = self.run(move || TcpListener::bind(address).unwrap());
        thread::spawn(move || {
            while let Ok((mut connection, client)) = listener.accept() {
                let _ = write!(connection, "{name} to {}", client.ip());
            }
        });
    }

    /// What a server says to a client in this namespace.
    pub fn ask(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
        let address = SocketAddr::new(address.into(), port);
        self.run(move || {
            let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
            connection.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    pub fn set_sysctl(&self, name: &str, value: &'static str) {
        let path = format!("/proc/sys/net/ipv4/{name}");
        self.run(move || std::fs::write(path, value).unwrap());
    }

    /// A tool's view, for inspection.
    pub fn show(&self, command: &[&str]) -> String {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        self.run(move || {
            let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    }
}

/// A host, and behind its uplink the rest of the world.
pub struct World {
    /// What the network under test was started with.
    pub config: NetworkConfig,
    pub host: Namespace,
    pub outside: Namespace,
    pub host_address: Ipv4Addr,
    pub outside_address: Ipv4Addr,
    /// The same of IPv6: `container_ip` is the one outside.
    pub ipv6: Ipv6Pair,
}

impl World {
    /// None, and says why: not root. Under CI that is a failure.
    pub fn new() -> Option<World> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "kernel tests need root");
            println!("skipped: needs root, to make network namespaces");
            return None;
        }
        let (host, outside) = (Namespace::new(), Namespace::new());
        // New namespaces have these from the machine, where anything may be running.
        for (sysctl, value) in [
            ("ip_forward", "0"),
            ("conf/all/rp_filter", "0"),
            ("conf/default/rp_filter", "0"),
            // Who is refused often is told so each time, not once in a second.
            ("icmp_ratelimit", "0"),
        ] {
            host.set_sysctl(sysctl, value);
        }
        // The uplink is made with what is under test; its own tests are in `lifecycle`.
        let subnet = Subnet::try_from("203.0.113.0/30".parse::<ipnetwork::Ipv4Network>().unwrap()).unwrap();
        let uplink = Assignment {
            subnet,
            host_ip: subnet.host_address(),
            container_ip: subnet.container_address(),
            host_link: "uplink".to_owned(),
            mtu: 1400,
            ipv6: Some(Ipv6Pair {
                host_ip: "2001:db8:ffff::1".parse().unwrap(),
                container_ip: "2001:db8:ffff::2".parse().unwrap(),
            }),
        };
        let (assignment, netns, inside) =
            (uplink.clone(), host.netns.try_clone().unwrap(), Socket::from(host.route_socket()));
        outside.run(move || {
            let (mut outer, mut inner) = (Socket::open(None).unwrap(), inside);
            link::create_pair(&mut outer, &assignment, 77, netns.as_fd()).unwrap();
            ends::configure_host_end(&mut outer, &assignment, 77, false).unwrap();
            ends::configure_container_end(&mut inner, &assignment, 77, false).unwrap();
        });
        let (host_address, outside_address) = (uplink.container_ip, uplink.host_ip);
        let config = NetworkConfig::default();
        let ipv6 =
            uplink.ipv6.map(|pair| Ipv6Pair { host_ip: pair.container_ip, container_ip: pair.host_ip })?;
        Some(World { config, host, outside, host_address, outside_address, ipv6 })
    }

    /// All of the host's firewall, by the tool of the kind under test.
    pub fn firewall(&self) -> String {
        match self.config.firewall {
            FirewallKind::Iptables => {
                self.host.show(&["iptables-save"]) + &self.host.show(&["ip6tables-save"])
            }
            _ => self.host.show(&["nft", "list", "ruleset"]),
        }
    }

    /// A chain of the filter table.
    pub fn chain(&self, name: &str) -> String {
        match self.config.firewall {
            FirewallKind::Iptables => self.host.show(&["iptables", "-S", name]),
            _ => self.host.show(&["nft", "list", "chain", "ip", "garden-t", name]),
        }
    }

    /// The lines of it that are about single containers.
    pub fn containers_in_firewall(&self) -> Vec<String> {
        let is_link = |name: &str| name.len() >= 8 && name.as_bytes()[..8].iter().all(u8::is_ascii_hexdigit);
        let text = self.firewall();
        let of_one = |line: &&str| {
            let names_link = line.split("gt-").skip(1).any(is_link);
            names_link || line.contains("elements") || line.contains("DNAT --to")
        };
        text.lines().filter(of_one).map(str::to_owned).collect()
    }
}

/// [`on_host_with`] each kind of firewall, each on a host of its own.
pub fn on_host(
    config: NetworkConfig,
    test: impl AsyncFnOnce(&World, &Network, &Path) + Clone + Send + 'static,
) {
    for firewall in [FirewallKind::Nftables, FirewallKind::Iptables] {
        println!("under {firewall:?}:");
        on_host_with(NetworkConfig { firewall, ..config.clone() }, test.clone());
    }
}

/// Starts the network under test on a host of its own, runs `test` there, takes all down, and sees that nothing is
/// left. `test` may block: what works in the background has a thread of its own.
pub fn on_host_with(config: NetworkConfig, test: impl AsyncFnOnce(&World, &Network, &Path) + Send + 'static) {
    let Some(mut world) = World::new() else { return };
    world.config = config.clone();
    let world = Arc::new(world);
    let state_dir = tempfile::tempdir().unwrap();
    let state = state_dir.path().join("servers").join("state");
    let inside = Arc::clone(&world);
    // Threads begin in the namespace of the thread that starts them: this one's, the runtime's, and its blocking ones.
    let thread = world.host.run(move || {
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let network = Network::start(&config, TAG, &state, &Defences::default()).await.unwrap();
                test(&inside, &network, &state).await;
                drop(network);
                Network::cleanup(TAG, &state).await.unwrap();
                Network::cleanup(TAG, &state).await.unwrap();
            });
        })
    });
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
    let left = world.host.show(&["nft", "list", "ruleset"]) + &world.firewall();
    assert!(!left.contains("garden") && !left.contains("gt-"), "{left}");
    assert!(!world.host.show(&["ip", "-o", "link"]).contains("veth gt-"));
    assert_eq!(std::fs::read_dir(state_dir.path()).unwrap().count(), 0);
}

/// Waits for what happens in the background.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The server's tag.
pub const TAG: &str = "t";

/// A container without processes: its place on the network and its namespace.
pub struct Container {
    pub lease: Lease,
    pub namespace: Namespace,
}

impl Container {
    pub async fn new(network: &Network) -> Container {
        Container::at(network, "").await
    }

    /// With the subnet or address of that name.
    pub async fn at(network: &Network, requested: &str) -> Container {
        let (lease, namespace) = (network.plan(requested).await.unwrap(), Namespace::new());
        let socket = namespace.route_socket();
        network.attach(lease.assignment(), namespace.netns.as_fd(), socket.as_fd()).await.unwrap();
        Container { lease, namespace }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.lease.assignment().container_ip
    }

    /// Publishes `container_port` and returns the host's port.
    pub async fn publish(&self, network: &Network, container_port: u16) -> u16 {
        let wanted = [NetIn { host_port: 0, container_port }];
        let ports = network.reserve_ports(self.lease.assignment(), &wanted).unwrap();
        network.open(self.lease.assignment(), "", &ports, &[]).await.unwrap();
        ports[0].host_port
    }
}
