//! Addresses and host ports: pools of numbers, nothing else.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use protocol::{Error, NetIn, Result};

use crate::sync::lock;

/// Numbers below a size, each given out once at a time.
pub(crate) struct Pool {
    first: u32,
    size: u32,
    taken: Mutex<BTreeSet<u32>>,
}

/// A number that goes back to its pool when dropped.
pub(crate) struct Lease {
    pub number: u32,
    pool: Arc<Pool>,
}

impl Pool {
    pub fn new(first: u32, size: u32) -> Arc<Pool> {
        Arc::new(Pool { first, size, taken: Mutex::default() })
    }

    /// The lowest free number.
    pub fn take(self: &Arc<Self>) -> Option<Lease> {
        let mut taken = lock(&self.taken);
        let number = (self.first..self.first + self.size).find(|number| !taken.contains(number))?;
        taken.insert(number);
        Some(Lease { number, pool: self.clone() })
    }

    /// This number, also from outside of the pool, if it is free.
    pub fn take_this(self: &Arc<Self>, number: u32) -> Option<Lease> {
        lock(&self.taken).insert(number).then(|| Lease { number, pool: self.clone() })
    }

    /// How many of the pool are given out.
    pub fn in_use(&self) -> usize {
        lock(&self.taken).range(self.first..self.first + self.size).count()
    }

    pub fn size(&self) -> u32 {
        self.size
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.pool.taken).remove(&self.number);
    }
}

/// A container's two addresses.
pub(crate) struct Addresses {
    pub host: Ipv4Addr,
    pub container: Ipv4Addr,
    /// Held for its drop; none for a subnet that the client chose.
    _subnet: Option<Lease>,
}

impl Addresses {
    /// The next free /30 of the pool at `base`.
    pub fn from_pool(pool: &Arc<Pool>, base: Ipv4Addr) -> Result<Addresses> {
        let Some(subnet) = pool.take() else {
            let message = format!("network: all {} subnets of the pool are in use", pool.size());
            return Err(Error::Failed { message });
        };
        let network = u32::from(base) + subnet.number * 4;
        let (host, container) = (Ipv4Addr::from(network + 1), Ipv4Addr::from(network + 2));
        Ok(Addresses { host, container, _subnet: Some(subnet) })
    }

    /// What a spec's `network` names: `ADDRESS`, in a /30, or `ADDRESS/PREFIX`, where the subnet's own address
    /// stands for "the first that containers can have".
    pub fn from_spec(network: &str) -> Result<Addresses> {
        let wrong = |reason: &str| Error::invalid("network", format!("{network:?} {reason}"));
        let (address, prefix) = network.split_once('/').unwrap_or((network, "30"));
        let address: Ipv4Addr = address.parse().map_err(|_| wrong("is not an IPv4 address or subnet"))?;
        let prefix: u32 = prefix.parse().map_err(|_| wrong("has a prefix that is not a number"))?;
        if !(1..=30).contains(&prefix) {
            return Err(wrong("has a prefix that is not between 1 and 30"));
        }
        let mask = u32::MAX << (32 - prefix);
        let subnet = u32::from(address) & mask;
        let container = match u32::from(address) {
            own if own == subnet && network.contains('/') => subnet + 2,
            own if own == subnet => return Err(wrong("is the address of its subnet")),
            own if own == subnet + 1 => return Err(wrong("is the address of its subnet's gateway")),
            own if own == subnet | !mask => return Err(wrong("is the broadcast address of its subnet")),
            own => own,
        };
        Ok(Addresses {
            host: Ipv4Addr::from(subnet + 1),
            container: Ipv4Addr::from(container),
            _subnet: None,
        })
    }
}

/// A port of the host that leads to one of a container's.
pub(crate) struct Mapping {
    pub container_port: u16,
    host_port: Lease,
}

impl Mapping {
    /// Takes what `wanted` asks for: host port 0 is one from the pool, container port 0 the same as the host's.
    pub fn new(ports: &Arc<Pool>, wanted: NetIn) -> Result<Mapping> {
        let host_port = match wanted.host_port {
            0 => ports.take().ok_or_else(|| Error::Failed {
                message: format!("net_in: all {} ports of the pool are in use", ports.size()),
            })?,
            port => ports.take_this(port.into()).ok_or_else(|| {
                Error::invalid("host_port", format!("{port} is already mapped to a container"))
            })?,
        };
        let mut mapping = Mapping { container_port: wanted.container_port, host_port };
        if mapping.container_port == 0 {
            mapping.container_port = mapping.host_port();
        }
        Ok(mapping)
    }

    pub fn host_port(&self) -> u16 {
        self.host_port.number as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_port_leaves_the_pool_and_comes_back() {
        let ports = Pool::new(61001, 2);
        let map = |host_port, container_port| {
            let mapping = Mapping::new(&ports, NetIn { host_port, container_port })?;
            Ok::<_, Error>((mapping.host_port(), mapping.container_port, mapping))
        };
        let first = map(61001, 80).unwrap();
        assert_eq!((first.0, first.1), (61001, 80));
        let second = map(0, 0).unwrap();
        assert_eq!((second.0, second.1), (61002, 61002));
        assert!(map(0, 0).is_err());
        assert!(map(61002, 1).is_err());
        let outside = map(80, 1).unwrap();
        assert_eq!(ports.in_use(), 2);
        drop((first, outside));
        assert_eq!(map(0, 0).unwrap().0, 61001);
    }

    #[test]
    fn a_chosen_network_cannot_be_one_of_the_special_addresses() {
        let container = |network: &str| Addresses::from_spec(network).map(|a| a.container.to_string());
        assert_eq!(container("10.1.2.0/24"), Ok("10.1.2.2".into()));
        assert_eq!(container("10.1.2.9/24"), Ok("10.1.2.9".into()));
        assert_eq!(container("10.1.2.6"), Ok("10.1.2.6".into()));
        for wrong in ["10.1.2.1/24", "10.1.2.255/24", "10.1.2.0", "x", "10.1.2.3/31", "10.1.2.3/x"] {
            assert!(container(wrong).is_err(), "{wrong}");
        }
    }
}
