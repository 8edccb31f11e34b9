//! Containers' addresses: subnets of four from the pool, or subnets by name, which several containers may share.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use protocol::{Error, Result};

use crate::{
    network::{Lease, Pool},
    sync::lock,
};

/// Addresses of a subnet of the pool.
const POOLED_ADDRESSES: u32 = 4;

/// Where the addresses come from.
pub(crate) struct Subnets {
    base: u32,
    pub pool: Arc<Pool>,
    named: Arc<Mutex<Named>>,
}

/// Subnets that somebody has an address of, and who has which.
type Named = BTreeMap<Subnet, BTreeSet<u32>>;

/// A container's two addresses.
pub(crate) struct Addresses {
    pub host: Ipv4Addr,
    pub container: Ipv4Addr,
    /// Held for their drop.
    _held: Held,
}

enum Held {
    OfPool { _subnet: Lease },
    Named { _address: NamedAddress },
}

/// An address that goes back to its subnet when dropped.
struct NamedAddress {
    subnet: Subnet,
    address: u32,
    named: Arc<Mutex<Named>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Subnet {
    base: u32,
    last: u32,
}

impl Subnet {
    fn overlaps(self, other: Subnet) -> bool {
        self.base <= other.last && other.base <= self.last
    }

    fn gateway(self) -> u32 {
        self.base + 1
    }
}

impl Subnets {
    /// `subnets` of the pool, from `base` on.
    pub fn new(base: Ipv4Addr, subnets: u32) -> Subnets {
        Subnets { base: base.into(), pool: Pool::new(0, subnets), named: Arc::default() }
    }

    /// What a spec's `network` names: nothing, `ADDRESS`, in a subnet of four, or `ADDRESS/PREFIX`, where the subnet's
    /// own address stands for "the next free one".
    pub fn take(&self, network: &str) -> Result<Addresses> {
        if network.is_empty() { self.next() } else { self.named(network) }
    }

    fn next(&self) -> Result<Addresses> {
        let Some(lease) = self.pool.take() else {
            let message = format!("network: all {} subnets of the pool are in use", self.pool.size());
            return Err(Error::Failed { message });
        };
        let base = self.base + lease.number * POOLED_ADDRESSES;
        let (host, container) = ((base + 1).into(), (base + 2).into());
        Ok(Addresses { host, container, _held: Held::OfPool { _subnet: lease } })
    }

    fn named(&self, network: &str) -> Result<Addresses> {
        let wrong = |reason: &str| Error::invalid("network", format!("{network:?} {reason}"));
        let (subnet, wanted) = parse(network)?;
        let pool = Subnet { base: self.base, last: self.base + self.pool.size() * POOLED_ADDRESSES - 1 };
        if subnet.overlaps(pool) {
            return Err(wrong("overlaps the pool"));
        }
        let mut named = lock(&self.named);
        if named.keys().any(|other| *other != subnet && other.overlaps(subnet)) {
            return Err(wrong("overlaps the subnet of another container"));
        }
        let taken = named.get(&subnet);
        let is_free = |address: &u32| taken.is_none_or(|taken| !taken.contains(address));
        let address = match wanted {
            Some(address) if is_free(&address) => address,
            Some(_) => return Err(wrong("is in use")),
            None => {
                (subnet.base + 2..subnet.last).find(is_free).ok_or_else(|| wrong("has no free address"))?
            }
        };
        named.entry(subnet).or_default().insert(address);
        let held = NamedAddress { subnet, address, named: Arc::clone(&self.named) };
        Ok(Addresses {
            host: subnet.gateway().into(),
            container: address.into(),
            _held: Held::Named { _address: held },
        })
    }
}

impl Drop for NamedAddress {
    fn drop(&mut self) {
        let mut named = lock(&self.named);
        if let Some(taken) = named.get_mut(&self.subnet) {
            taken.remove(&self.address);
            if taken.is_empty() {
                named.remove(&self.subnet);
            }
        }
    }
}

/// The subnet, and the address if one is named.
fn parse(network: &str) -> Result<(Subnet, Option<u32>)> {
    let wrong = |reason: &str| Error::invalid("network", format!("{network:?} {reason}"));
    let (address, prefix) = network.split_once('/').unwrap_or((network, "30"));
    let address: Ipv4Addr = address.parse().map_err(|_| wrong("is not an IPv4 address or subnet"))?;
    let prefix: u32 = prefix.parse().map_err(|_| wrong("has a prefix that is not a number"))?;
    if !(8..=30).contains(&prefix) {
        return Err(wrong("has a prefix that is not between 8 and 30"));
    }
    let mask = u32::MAX << (32 - prefix);
    let own = u32::from(address);
    let subnet = Subnet { base: own & mask, last: own | !mask };
    match own {
        own if own == subnet.base && network.contains('/') => Ok((subnet, None)),
        own if own == subnet.base => Err(wrong("is the address of its subnet")),
        own if own == subnet.gateway() => Err(wrong("is the address of its subnet's gateway")),
        own if own == subnet.last => Err(wrong("is the broadcast address of its subnet")),
        own => Ok((subnet, Some(own))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_network_cannot_be_one_of_the_special_addresses() {
        let subnets = Subnets::new(Ipv4Addr::new(10, 254, 0, 0), 256);
        let container = |network: &str| subnets.take(network).map(|taken| taken.container.to_string());
        assert_eq!(container("10.1.2.0/24"), Ok("10.1.2.2".into()));
        assert_eq!(container("10.1.2.9/24"), Ok("10.1.2.9".into()));
        assert_eq!(container("10.1.2.6"), Ok("10.1.2.6".into()));
        for wrong in
            ["10.1.2.1/24", "10.1.2.255/24", "10.1.2.0", "x", "10.1.2.3/31", "10.1.2.3/x", "10.254.3.0/30"]
        {
            assert!(container(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_subnet_is_shared_until_it_is_full_and_free_when_nobody_has_it() {
        let subnets = Subnets::new(Ipv4Addr::new(10, 254, 0, 0), 256);
        let all: Vec<Addresses> = (0..5).map(|_| subnets.take("10.1.2.0/29").unwrap()).collect();
        assert_eq!(all[4].container, Ipv4Addr::new(10, 1, 2, 6));
        for taken in ["10.1.2.0/29", "10.1.2.3/29", "10.1.2.0/28", "10.1.2.6"] {
            assert!(subnets.take(taken).is_err(), "{taken}");
        }
        drop(all);
        assert!(subnets.take("10.1.2.0/28").is_ok());
    }
}
