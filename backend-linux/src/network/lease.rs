//! What a container has of the network: its assignment, which its record keeps, and the lease that holds it in memory.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::{Deserialize, Serialize};

pub use super::pool::Ipv6Pair;
use super::pool::{Error as PoolError, Ipv6Pool, Place, PortPool, Subnet, SubnetPool};

/// Where a container is on the network; kept in its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The subnet that the container is in: a /30 of its own, or a larger one that it may share.
    pub subnet: Subnet,
    /// The host's address in it, the container's gateway.
    pub host_ip: Ipv4Addr,
    /// The container's address.
    pub container_ip: Ipv4Addr,
    /// The host's end of the link; no other container ever had this name, so it stands for the owner.
    pub host_link: String,
    /// Of both ends.
    pub mtu: u32,
    /// The same two addresses of the other family; none: there is no IPv6.
    #[serde(default)]
    pub ipv6: Option<Ipv6Pair>,
}

impl Assignment {
    /// The container's addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ipv6 = self.ipv6.map(|pair| pair.container_ip.into());
        std::iter::once(self.container_ip.into()).chain(ipv6).collect()
    }

    /// What it has of the subnets.
    pub(super) fn place(&self) -> Place {
        Place { subnet: self.subnet, address: self.container_ip }
    }
}

/// Keeps an [`Assignment`] and its ports from others.
///
/// Dropped, it frees them only if no link was ever made: a container that is on the network outlives its server, and
/// leaves the network by [`release`](super::Network::release) alone.
pub struct Lease {
    pub(super) assignment: Assignment,
    pub(super) ledger: Ledger,
}

impl Lease {
    /// What to keep in the container's record.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.assignment).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let owner = &self.assignment.host_link;
        let mut pools = self.ledger.lock();
        if pools.planned.remove(owner) {
            pools.give_back(&self.assignment);
            pools.ports.give_back_all(owner);
        }
    }
}

/// What is taken, in memory. Locked for moments only, never while something is waited for.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Mutex<Pools>>);

#[derive(Debug)]
pub struct Pools {
    pub subnets: SubnetPool,
    /// None: containers have no IPv6.
    pub ipv6: Option<Ipv6Pool>,
    pub ports: PortPool,
    /// Owners of leases for which nothing was done in the kernel yet.
    pub planned: std::collections::HashSet<String>,
}

impl Pools {
    /// Takes the addresses that a record says; the one who has them may take them again.
    pub fn take_exactly(&mut self, assignment: &Assignment) -> Result<(), PoolError> {
        let owner = &assignment.host_link;
        self.subnets.take_exactly(assignment.place(), owner)?;
        let Some((pool, pair)) = self.ipv6.as_mut().zip(assignment.ipv6) else { return Ok(()) };
        pool.take_exactly(pair, owner).inspect_err(|_| self.subnets.give_back(assignment.place(), owner))
    }

    /// Takes addresses out of use but does not free them yet. True also for those that nobody has, as after a restart;
    /// false: they are another's.
    pub fn quarantine(&mut self, assignment: &Assignment) -> bool {
        let owner = &assignment.host_link;
        // Those of IPv6 are the owner's until they are given back. If another has them, there is nothing to hold.
        if let Some((pool, pair)) = self.ipv6.as_mut().zip(assignment.ipv6) {
            let _ = pool.take_exactly(pair, owner);
        }
        self.subnets.quarantine(assignment.place(), owner)
    }

    /// Frees the addresses that are its owner's.
    pub fn give_back(&mut self, assignment: &Assignment) {
        let owner = &assignment.host_link;
        self.subnets.give_back(assignment.place(), owner);
        if let Some((pool, pair)) = self.ipv6.as_mut().zip(assignment.ipv6) {
            pool.give_back(pair, owner);
        }
    }
}

impl Ledger {
    pub fn new(subnets: SubnetPool, ipv6: Option<Ipv6Pool>, ports: PortPool) -> Ledger {
        Ledger(Arc::new(Mutex::new(Pools { subnets, ipv6, ports, planned: Default::default() })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Pools> {
        // Every change is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names and indexes for links, each used once: what the kernel still has of an old link is never taken for a new
/// one's. They begin at random, since another server, or this one before a restart, has been counting too.
#[derive(Debug)]
pub struct LinkNames {
    prefix: String,
    next_name: AtomicU32,
    next_index: AtomicU32,
}

impl LinkNames {
    pub fn new(tag: &str) -> LinkNames {
        let random = RandomState::new().hash_one(std::process::id());
        LinkNames {
            prefix: prefix(tag),
            next_name: AtomicU32::new(random as u32),
            next_index: AtomicU32::new((random >> 32) as u32),
        }
    }

    /// At most 15 bytes, as many as the kernel takes.
    pub fn next_name(&self) -> String {
        format!("{}{:08x}", self.prefix, self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    /// Above those that the kernel gives out by itself, which begin at 1.
    pub fn next_index(&self) -> u32 {
        const BASE: u32 = 1 << 30;
        BASE | (self.next_index.fetch_add(1, Ordering::Relaxed) & (BASE - 1))
    }
}

/// The beginning of the names of a server's links. No tag's prefix is the beginning of another's.
pub fn prefix(tag: &str) -> String {
    format!("g{tag}-")
}

/// Whether that is the host's end of a container's link, of a server of whatever tag.
pub fn is_container_link(name: &str) -> bool {
    let Some((tag, digits)) = name.strip_prefix('g').and_then(|name| name.split_once('-')) else {
        return false;
    };
    tag.len() <= 2 && digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_containers_are_known_by_their_names() {
        for tag in ["", "a", "z9"] {
            assert!(is_container_link(&LinkNames::new(tag).next_name()), "{tag}");
        }
        for other in ["eth0", "g-1234567", "gabc-12345678", "g-1234567x", "ga12345678", "all"] {
            assert!(!is_container_link(other), "{other}");
        }
    }

    #[test]
    fn link_names_fit_the_kernel_carry_the_tag_and_differ() {
        let names = LinkNames::new("ab");
        let (first, second) = (names.next_name(), names.next_name());
        assert!(first.starts_with("gab-") && first.len() <= 15, "{first}");
        assert_ne!(first, second);
        assert!(!first.starts_with(&prefix("a")) && !first.starts_with(&prefix("")));
    }

    #[test]
    fn link_indexes_are_positive_for_the_kernel() {
        let names = LinkNames::new("");
        assert!((0..1000).all(|_| (1 << 30..1 << 31).contains(&names.next_index())));
    }
}
