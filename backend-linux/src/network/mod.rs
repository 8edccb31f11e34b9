//! The containers' network: a /30 and a veth pair for each, ports mapped from the host, isolation by firewall.
//!
//! A create first [plans](Network::plan) in memory and writes the [`Assignment`] to the container's record; only then
//! it [attaches](Network::attach) the container, so that every link and firewall element has a record that owns it. A
//! destroy [releases](Network::release), any number of times. A starting server [adopts](Network::adopt) each record
//! and then [sweeps](Network::sweep) away what no record owns.

// Not behind the seam yet.
#[allow(dead_code, unused_imports)]
mod cni;
mod egress;
mod error;
mod firewall;
mod forwarding;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod kernel;
mod lease;
mod link;
mod netlink;
mod outbound;
mod pool;
mod reaper;
#[cfg(test)]
mod tests;
mod traffic;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};

use protocol::NetIn;
use rustix::io::Errno;
use tokio::{sync::mpsc, task::JoinHandle};

pub use error::Error;
pub use firewall::Member;
pub use forwarding::state_directory;
pub use lease::{Assignment, Ipv6Pair, Lease};
pub use pool::{Error as PoolError, Subnet};
pub use traffic::Traffic;

use crate::{Defence, Defences, NetworkConfig};
use egress::Egress;
use firewall::{Change, Outbound, Policy};
use kernel::Kernel;
use lease::{Ledger, LinkNames};
use netlink::Socket;
use pool::{BadSetting, PortPool, SubnetPool};
use reaper::{Announcements, Reaper};

/// The largest MTU that is chosen by itself; a host with larger frames may have peers without.
const MTU_MAX: u32 = 1500;
/// The smallest MTU with which a link can have IPv6, and so IPv6 settings.
const IPV6_MTU_MIN: u32 = 1280;
const IPV4_MTU_MIN: u32 = 68;
const VETH_MTU_MAX: u32 = 65535;
/// How many link indexes are tried. One in use is another server's, one of a billion.
const INDEX_ATTEMPTS: usize = 4;

/// The network of one server's containers.
#[derive(Debug)]
pub struct Network {
    ledger: Ledger,
    kernel: Kernel,
    names: Arc<LinkNames>,
    prefix: String,
    mtu: u32,
    external_ip: IpAddr,
    ipv6: bool,
    released: mpsc::UnboundedSender<Assignment>,
    reaper: JoinHandle<()>,
}

/// How much of the pools is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Subnets of the pool.
    pub subnets: u32,
    /// Subnets that containers have, be they of the pool or not.
    pub subnets_in_use: usize,
    /// Subnets of removed containers whose links the kernel has not removed yet.
    pub subnets_quarantined: usize,
    /// Host ports of the pool.
    pub ports: u32,
    /// Host ports of the pool that containers have.
    pub ports_in_use: usize,
}

impl Network {
    /// Sets up what all containers share: the fixed chains of the firewall, and forwarding (`state_dir`, the same for
    /// every server of a network namespace, is where it is noted that forwarding was off). What an earlier server left stays in effect until [`sweep`](Network::sweep).
    pub async fn start(
        config: &NetworkConfig,
        tag: &str,
        state_dir: &Path,
        defences: &Defences,
    ) -> Result<Network, Error> {
        check_tag(tag)?;
        let egress = egress::discover().await?;
        let subnets = SubnetPool::new(config.pool, egress.map(|egress| egress.address))?;
        let ports = PortPool::new(config.port_pool_start, config.port_pool_size)?;
        let mtu = mtu(config, egress)?;

        let prefix = lease::prefix(tag);
        let host_has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        let policy = Policy {
            pool: config.pool,
            allow_host_access: config.allow_host_access,
            denied: Vec::new(),
            check_sources: defences.have(Defence::SourceAddress),
            link_prefix: prefix.clone(),
            ipv6: host_has_ipv6,
        };
        let kernel = Kernel::open(tag)?;
        let announcements = Announcements::open()?;
        let state_dir = state_dir.to_owned();
        kernel
            .with_firewall(move |firewall| {
                let install = firewall.install(&policy);
                install.map_err(|source| Error::Firewall { what: "fixed chains".to_owned(), source })?;
                forwarding::turn_on(&state_dir)
                    .map_err(|source| Error::System { what: "turn on net.ipv4.ip_forward", source })
            })
            .await?;

        let ledger = Ledger::new(subnets, ports);
        let (released, releases) = mpsc::unbounded_channel();
        let reaper = Reaper::new(ledger.clone(), kernel.clone(), prefix.clone());
        let reaper = tokio::spawn(reaper.run(releases, announcements));
        let egress_ip = egress.map_or(Ipv4Addr::LOCALHOST, |egress| egress.address);
        Ok(Network {
            ledger,
            kernel,
            names: Arc::new(LinkNames::new(tag)),
            prefix,
            mtu,
            external_ip: config.external_ip.unwrap_or(IpAddr::V4(egress_ip)),
            ipv6: host_has_ipv6 && mtu >= IPV6_MTU_MIN,
            released,
            reaper,
        })
    }

    /// Chooses a container's place on the network: `requested` names a subnet or an address, or is empty. Memory only.
    pub fn plan(&self, requested: &str) -> Result<Lease, Error> {
        let host_link = self.names.next_name();
        let mut pools = self.ledger.lock();
        let subnet = pools.subnets.take(requested, &host_link)?;
        pools.planned.insert(host_link.clone());
        drop(pools);
        let assignment = Assignment {
            subnet,
            host_ip: subnet.host_address(),
            container_ip: subnet.container_address(),
            host_link,
            mtu: self.mtu,
            ipv6: None,
        };
        Ok(Lease { assignment, ledger: self.ledger.clone() })
    }

    /// Takes what a record says that a container has. Memory only; [`sweep`](Network::sweep) puts the firewall right.
    pub fn adopt(&self, assignment: &Assignment, ports: &[NetIn]) -> Result<Lease, Error> {
        let owner = &assignment.host_link;
        let mut pools = self.ledger.lock();
        pools.subnets.take_exactly(assignment.subnet, owner)?;
        if let Err(error) = pools.ports.adopt(ports, owner) {
            pools.subnets.give_back(assignment.subnet, owner);
            return Err(error.into());
        }
        drop(pools);
        Ok(Lease { assignment: assignment.clone(), ledger: self.ledger.clone() })
    }

    /// Chooses host ports for a container, all or none, and fills in what `wanted` leaves open. Memory only.
    pub fn reserve_ports(&self, assignment: &Assignment, wanted: &[NetIn]) -> Result<Vec<NetIn>, Error> {
        Ok(self.ledger.lock().ports.take(wanted, &assignment.host_link)?)
    }

    /// Gives back ports that were reserved and not opened. Memory only.
    pub fn unreserve_ports(&self, assignment: &Assignment, ports: &[NetIn]) {
        self.ledger.lock().ports.give_back(ports, &assignment.host_link);
    }

    /// Puts a container on the network. `netns` is its network namespace, `socket` an rtnetlink socket that was opened
    /// in there: a thread of the server cannot enter it. After an error, [`release`](Network::release).
    pub async fn attach(
        &self,
        assignment: &Assignment,
        netns: BorrowedFd<'_>,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let duplicate = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|source| Error::System {
                what: "duplicate a descriptor of the network namespace",
                source,
            })
        };
        let (netns, socket) = (duplicate(netns)?, duplicate(socket)?);
        self.ledger.lock().planned.remove(&assignment.host_link);
        let (names, ipv6) = (Arc::clone(&self.names), self.ipv6);
        let (on_host, inside) = (assignment.clone(), assignment.clone());
        let (ledger, later) = (self.ledger.clone(), self.ledger.clone());
        self.kernel
            .with_links_then(
                move |links| {
                    check_held(&ledger, &on_host)?;
                    make_host_end(links, &on_host, &names, netns.as_fd(), ipv6)
                        .map_err(|source| Error::Link { link: on_host.host_link, source })
                },
                move |index, kernel| {
                    let mut socket = Socket::from(socket);
                    link::configure_container_end(&mut socket, &inside, index, ipv6)
                        .map_err(|source| Error::Link { link: inside.host_link.clone(), source })?;
                    let owner = inside.host_link.clone();
                    kernel.change_now(&owner, move || {
                        check_held(&later, &inside)?;
                        Ok(Change::Admit(inside))
                    })
                },
            )
            .await
    }

    /// Maps reserved ports to a container. Once more does no harm.
    pub async fn open_ports(&self, assignment: &Assignment, ports: &[NetIn]) -> Result<(), Error> {
        let (assignment, ports, ledger) = (assignment.clone(), ports.to_vec(), self.ledger.clone());
        ledger.lock().planned.remove(&assignment.host_link);
        let owner = assignment.host_link.clone();
        let prepare = move || {
            check_held(&ledger, &assignment)?;
            Ok(Change::Open(Member { assignment, ports, outbound: Outbound::default() }))
        };
        self.kernel.change(&owner, prepare, || {}).await
    }

    /// Closes mapped ports and frees them. Once more does no harm.
    pub async fn close_ports(&self, assignment: &Assignment, ports: &[NetIn]) -> Result<(), Error> {
        let owner = assignment.host_link.clone();
        let (asked, ledger) = ((assignment.clone(), ports.to_vec()), self.ledger.clone());
        let (closed, later) = ((owner.clone(), ports.to_vec()), self.ledger.clone());
        let prepare = move || {
            let (assignment, ports) = asked;
            let ports = not_others(&ledger, &assignment, ports);
            Ok(Change::Close { assignment, ports })
        };
        let finish = move || later.lock().ports.give_back(&closed.1, &closed.0);
        self.kernel.change(&owner, prepare, finish).await
    }

    /// Takes a container off the network, with every port that it has, known to `ports` or not. Its link is left to go
    /// with its namespace, and its subnet is free when it has gone. Once more does no harm; after an error all is still
    /// the container's.
    pub async fn release(&self, assignment: &Assignment, ports: &[NetIn]) -> Result<(), Error> {
        let owner = assignment.host_link.clone();
        let (asked, ledger) = ((assignment.clone(), ports.to_vec()), self.ledger.clone());
        let prepare = move || {
            let (assignment, ports) = asked;
            let ports = not_others(&ledger, &assignment, ports);
            Ok(Change::Expel { assignment, ports })
        };
        let (assignment, ledger, released) = (assignment.clone(), self.ledger.clone(), self.released.clone());
        let finish = move || {
            let owner = &assignment.host_link;
            let mut pools = ledger.lock();
            pools.ports.give_back_all(owner);
            if pools.planned.remove(owner) {
                // Nothing was made that the subnet would have to wait for.
                pools.subnets.give_back(assignment.subnet, owner);
            } else if pools.subnets.quarantine(assignment.subnet, owner) {
                // The receiver goes with the server, and then its memory is of no more use.
                let _ = released.send(assignment.clone());
            }
        };
        self.kernel.change(&owner, prepare, finish).await
    }

    /// Makes the kernel agree with the records, once, after all of them were adopted and before anything else: links
    /// of ours that no container of `owned` has are deleted, and the firewall has their elements and no others. Returns
    /// the names of the deleted links.
    pub async fn sweep(&self, owned: Vec<Member>) -> Result<Vec<String>, Error> {
        let kept: HashSet<String> = owned.iter().map(|member| member.assignment.host_link.clone()).collect();
        self.kernel
            .with_firewall(move |firewall| {
                let elements = firewall.replace_all(&owned);
                elements.map_err(|source| Error::Firewall {
                    what: "containers of the records".to_owned(),
                    source,
                })
            })
            .await?;
        let prefix = self.prefix.clone();
        self.kernel.with_links(move |links| delete_links(links, &prefix, |name| !kept.contains(name))).await
    }

    /// Removes all that a server of this tag ever set up: links, firewall tables, forwarding. Once more does no harm.
    pub async fn cleanup(tag: &str, state_dir: &Path) -> Result<(), Error> {
        check_tag(tag)?;
        let (prefix, state_dir) = (lease::prefix(tag), state_dir.to_owned());
        Kernel::open(tag)?
            .with_links_then(
                move |links| delete_links(links, &prefix, |_| true),
                move |_, kernel| {
                    let mut firewall = kernel.firewall();
                    let tables = |source| Error::Firewall { what: "clean-up".to_owned(), source };
                    firewall.uninstall().map_err(tables)?;
                    forwarding::restore(&state_dir, || firewall.has_siblings())
                        .map_err(|source| Error::System { what: "restore net.ipv4.ip_forward", source })?
                        .map_err(tables)
                },
            )
            .await
    }

    /// How many containers the pool bears.
    pub fn capacity(&self) -> u32 {
        self.ledger.lock().subnets.capacity()
    }

    /// How much of the pools is taken.
    pub fn usage(&self) -> Usage {
        let pools = self.ledger.lock();
        Usage {
            subnets: pools.subnets.capacity(),
            subnets_in_use: pools.subnets.in_use(),
            subnets_quarantined: pools.subnets.quarantined(),
            ports: pools.ports.capacity(),
            ports_in_use: pools.ports.in_use(),
        }
    }

    /// The host's address as others see it; 127.0.0.1 where it has none and none was set.
    pub fn external_ip(&self) -> IpAddr {
        self.external_ip
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

/// Returns the index of the host's end.
fn make_host_end(
    links: &mut Socket,
    assignment: &Assignment,
    names: &LinkNames,
    netns: BorrowedFd<'_>,
    ipv6: bool,
) -> Result<u32, netlink::Error> {
    let mut attempts = 0;
    let index = loop {
        let index = names.next_index();
        attempts += 1;
        match link::create_pair(links, assignment, index, netns) {
            Ok(()) => break index,
            Err(error) if error.errno() == Some(Errno::BUSY) && attempts < INDEX_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    };
    link::configure_host_end(links, assignment, index, ipv6)?;
    Ok(index)
}

/// A step that was given up by its caller may still be waiting for its turn when the container is released. Asked with
/// the firewall in hand, as a release has it, this keeps it from leaving elements behind.
fn check_held(ledger: &Ledger, assignment: &Assignment) -> Result<(), Error> {
    if ledger.lock().subnets.is_held(assignment.subnet, &assignment.host_link) {
        return Ok(());
    }
    Err(Error::Released { link: assignment.host_link.clone() })
}

/// Those of the ports that no other container has: of two releases of one container, the later may find that another
/// has its ports by now.
fn not_others(ledger: &Ledger, assignment: &Assignment, mut ports: Vec<NetIn>) -> Vec<NetIn> {
    let pools = ledger.lock();
    ports.retain(|port| pools.ports.owner(port.host_port).is_none_or(|owner| owner == assignment.host_link));
    ports
}

fn delete_links(
    links: &mut Socket,
    prefix: &str,
    unwanted: impl Fn(&str) -> bool,
) -> Result<Vec<String>, Error> {
    let error = |source| Error::Netlink { what: "remove links that no container owns", source };
    let mut found = link::list(links, prefix).map_err(error)?;
    found.retain(|link| unwanted(&link.name));
    link::delete(links, &found).map_err(error)?;
    Ok(found.into_iter().map(|link| link.name).collect())
}

fn check_tag(tag: &str) -> Result<(), BadSetting> {
    if tag.len() <= 2 && tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Ok(());
    }
    Err(BadSetting {
        setting: "tag",
        reason: format!("{tag:?} is more than two lower-case letters or digits"),
    })
}

fn mtu(config: &NetworkConfig, egress: Option<Egress>) -> Result<u32, BadSetting> {
    match config.mtu {
        Some(mtu) if (IPV4_MTU_MIN..=VETH_MTU_MAX).contains(&mtu) => Ok(mtu),
        Some(mtu) => {
            let reason = format!("{mtu} is not between {IPV4_MTU_MIN} and {VETH_MTU_MAX}");
            Err(BadSetting { setting: "mtu", reason })
        }
        None => Ok(egress.map_or(MTU_MAX, |egress| egress.mtu.min(MTU_MAX))),
    }
}
