//! The containers' network: a /30 and a veth pair for each, ports mapped from the host, isolation by firewall.
//!
//! A create first [plans](Network::plan) in memory and writes the [`Assignment`] to the container's record; only then
//! it [attaches](Network::attach) the container, so that every link and firewall element has a record that owns it. A
//! destroy [releases](Network::release), any number of times. A starting server [adopts](Network::adopt) each record
//! and then [sweeps](Network::sweep) away what no record owns.

mod attachment;
mod bandwidth;
mod cni;
mod egress;
mod ends;
mod error;
mod firewall;
mod forwarding;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod host;
mod host_port;
mod kernel;
mod lease;
mod link;
mod netlink;
mod networks;
mod outbound;
mod place;
mod plugged;
mod pool;
mod reaper;
#[cfg(test)]
mod tests;
mod traffic;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

use tokio::{sync::mpsc, task::JoinHandle};

pub use attachment::{Attachment, Lease};
pub use cni::{Dns, Wishes};
pub use error::Error;
pub use firewall::{Member, check as check_firewall};
pub use forwarding::state_directory;
pub use lease::Assignment;
pub use networks::{Cni, Networks};
pub use place::member;
pub use pool::Error as PoolError;
#[cfg(test)]
pub use pool::Subnet;
pub use traffic::Traffic;

use crate::{Defence, Defences, FirewallKind, NetworkConfig};
use egress::Egress;
use firewall::Policy;
use host::HostNetworks;
use kernel::Kernel;
use lease::{Ledger, LinkNames};
use netlink::Socket;
use pool::{BadSetting, Ipv6Pool, PortPool, SubnetPool};
use reaper::{Announcements, Reaper};

/// The largest MTU that is chosen by itself; a host with larger frames may have peers without.
const MTU_MAX: u32 = 1500;
/// The smallest MTU with which a link can have IPv6, and so IPv6 settings.
const IPV6_MTU_MIN: u32 = 1280;
const IPV4_MTU_MIN: u32 = 68;
const VETH_MTU_MAX: u32 = 65535;

/// The network of one server's containers.
#[derive(Debug)]
pub struct Network {
    ledger: Ledger,
    kernel: Kernel,
    names: Arc<LinkNames>,
    tag: String,
    firewall: FirewallKind,
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
    /// Subnets that containers have, be they of the pool or named.
    pub subnets_in_use: usize,
    /// Addresses of removed containers whose links the kernel has not removed yet.
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
        let ports = PortPool::new(config.port_pool_start, config.port_pool_size)?;
        let mtu = mtu(config, egress)?;

        let prefix = lease::prefix(tag);
        let host_has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        if config.pool_ipv6.is_some() {
            check_ipv6(host_has_ipv6, mtu)?;
        }
        let policy = Policy {
            pool: config.pool,
            pool_ipv6: config.pool_ipv6,
            allow_host_access: config.allow_host_access,
            denied: config.denied.iter().copied().map(outbound::unmapped).collect(),
            check_sources: defences.have(Defence::SourceAddress),
            link_prefix: prefix.clone(),
            ipv6: host_has_ipv6,
        };
        let ours = prefix.clone();
        let (links, host) = kernel::run(move || {
            let error = |source| Error::Netlink { what: "find the host's own networks", source };
            let mut links = Socket::open(None).map_err(error)?;
            let host = HostNetworks::read(&mut links, &ours).map_err(error)?;
            Ok((links, host))
        })
        .await?;
        let subnets = SubnetPool::new(config.pool, &host.ipv4)?;
        let ipv6 = config.pool_ipv6.map(|pool| Ipv6Pool::new(pool, &host.ipv6)).transpose()?;
        let forward_ipv6 = ipv6.is_some();
        let announcements = Announcements::open()?;
        let (asked_for, tag, state_dir) = (config.firewall, tag.to_owned(), state_dir.to_owned());
        let names = Arc::new(LinkNames::new(&tag));
        let chosen = kernel::run(move || {
            let chosen = firewall::choose(asked_for, &tag, &policy)
                .map_err(|source| Error::Firewall { what: "fixed chains".to_owned(), source })?;
            forwarding::turn_on(&state_dir, forward_ipv6)
                .map_err(|source| Error::System { what: "let the host forward packets", source })?;
            Ok((chosen, tag))
        });
        let (chosen, tag) = chosen.await?;
        let kernel = Kernel::new(links, chosen.firewall);

        let ledger = Ledger::new(subnets, ipv6, ports);
        let (released, releases) = mpsc::unbounded_channel();
        let reaper = Reaper::new(ledger.clone(), kernel.clone(), prefix.clone());
        let reaper = tokio::spawn(reaper.run(releases, announcements));
        let egress_ip = egress.map_or(Ipv4Addr::LOCALHOST, |egress| egress.address);
        Ok(Network {
            ledger,
            kernel,
            names,
            tag,
            firewall: chosen.kind,
            prefix,
            mtu,
            external_ip: config.external_ip.unwrap_or(IpAddr::V4(egress_ip)),
            ipv6: host_has_ipv6 && mtu >= IPV6_MTU_MIN,
            released,
            reaper,
        })
    }

    /// Makes the kernel agree with the records, once, after all of them were adopted and before anything else: links
    /// of ours that no container of `owned` has are deleted, and the firewall has their elements and no others. Returns
    /// the names of the deleted links.
    pub async fn sweep(&self, owned: Vec<Member>) -> Result<Vec<String>, Error> {
        let kept: HashSet<String> = owned.iter().map(|member| member.assignment.host_link.clone()).collect();
        let (kind, tag) = (self.firewall, self.tag.clone());
        self.kernel
            .with_firewall(move |firewall| {
                firewall.replace_all(&owned).map_err(|source| Error::Firewall {
                    what: "containers of the records".to_owned(),
                    source,
                })?;
                // Only now: until then these kept the containers apart.
                firewall::remove_others(kind, &tag).map_err(|source| Error::Firewall {
                    what: "what an earlier server left in another kind".to_owned(),
                    source,
                })
            })
            .await?;
        let prefix = self.prefix.clone();
        self.kernel.with_links(move |links| delete_links(links, &prefix, |name| !kept.contains(name))).await
    }

    /// The names of the containers' links that there are.
    pub async fn links(&self) -> Result<HashSet<String>, Error> {
        let prefix = self.prefix.clone();
        let error = |source| Error::Netlink { what: "list the containers' links", source };
        let found = self.kernel.with_links(move |links| link::list(links, &prefix).map_err(error)).await?;
        Ok(found.into_iter().map(|link| link.name).collect())
    }

    /// Removes all that a server of this tag ever set up: links, firewall tables, forwarding. Once more does no harm.
    pub async fn cleanup(tag: &str, state_dir: &Path) -> Result<(), Error> {
        check_tag(tag)?;
        let (tag, prefix, state_dir) = (tag.to_owned(), lease::prefix(tag), state_dir.to_owned());
        kernel::run(move || {
            let mut links =
                Socket::open(None).map_err(|source| Error::Netlink { what: "open rtnetlink", source })?;
            delete_links(&mut links, &prefix, |_| true)?;
            let tables = |source| Error::Firewall { what: "clean-up".to_owned(), source };
            let mut firewalls = firewall::every_kind(&tag).map_err(tables)?;
            firewalls.iter_mut().try_for_each(|opened| opened.firewall.uninstall()).map_err(tables)?;
            let siblings = || -> Result<bool, firewall::Error> {
                for opened in &mut firewalls {
                    if opened.firewall.has_siblings()? {
                        return Ok(true);
                    }
                }
                Ok(false)
            };
            forwarding::restore(&state_dir, siblings)
                .map_err(|source| Error::System { what: "have the host forward packets as before", source })?
                .map_err(tables)
        })
        .await
    }

    /// How many containers the pools bear.
    pub fn capacity(&self) -> u32 {
        let pools = self.ledger.lock();
        let ipv6 = pools.ipv6.as_ref().map_or(u32::MAX, Ipv6Pool::capacity);
        pools.subnets.capacity().min(ipv6)
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

/// Whether containers can have IPv6 on this host.
fn check_ipv6(host_has_ipv6: bool, mtu: u32) -> Result<(), BadSetting> {
    let bad = |reason| Err(BadSetting { setting: "network-pool-ipv6", reason });
    if !host_has_ipv6 {
        return bad("this kernel has no IPv6".to_owned());
    }
    // What cannot be read is not known to be off.
    let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    if off.is_ok_and(|off| off.trim() != "0") {
        return bad(
            "this host switches IPv6 off for new links: net.ipv6.conf.default.disable_ipv6".to_owned()
        );
    }
    if mtu < IPV6_MTU_MIN {
        return bad(format!("links with an MTU of {mtu} cannot have IPv6, which takes {IPV6_MTU_MIN}"));
    }
    Ok(())
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
