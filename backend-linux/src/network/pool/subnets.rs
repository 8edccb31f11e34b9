//! Subnets of four addresses: the host's is the first usable one, the container's the second.

use std::{collections::HashMap, fmt, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use super::{BadSetting, Error, LruIds};

const ADDRESSES: u32 = 4;
/// Prefix length of every subnet.
pub const PREFIX: u8 = 30;
const FIELD: &str = "network";

/// A /30, by its first address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Network", into = "Ipv4Network")]
pub struct Subnet {
    base: u32,
}

impl Subnet {
    fn containing(address: Ipv4Addr) -> Subnet {
        Subnet { base: u32::from(address) & !(ADDRESSES - 1) }
    }

    /// The container's gateway.
    pub fn host_address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    pub fn container_address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2)
    }

    /// Whether several containers may be in it.
    pub fn is_shared(self) -> bool {
        false
    }

    /// With its prefix.
    pub fn network(self) -> Ipv4Network {
        self.into()
    }

    fn first(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 3)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{PREFIX}", self.first())
    }
}

impl TryFrom<Ipv4Network> for Subnet {
    type Error = String;

    fn try_from(network: Ipv4Network) -> Result<Subnet, String> {
        if network.prefix() != PREFIX || network.ip() != network.network() {
            return Err(format!("{network} is not a subnet of four addresses"));
        }
        Ok(Subnet::containing(network.ip()))
    }
}

impl From<Subnet> for Ipv4Network {
    fn from(subnet: Subnet) -> Ipv4Network {
        // Cannot fail: the prefix is a constant below 33.
        Ipv4Network::new(subnet.first(), PREFIX).unwrap_or_else(|_| Ipv4Network::from(subnet.first()))
    }
}

#[derive(Debug)]
struct Holder {
    owner: String,
    /// Given back, but the kernel still has a link with its address.
    quarantined: bool,
}

/// Which subnets are taken, and by whom: those of the pool, and others that were asked for by name.
#[derive(Debug)]
pub struct SubnetPool {
    pool: Ipv4Network,
    /// The part of the host's own network that no container can have.
    host: Option<Subnet>,
    free: LruIds,
    holders: HashMap<Subnet, Holder>,
}

impl SubnetPool {
    /// `host`: the host's own address, whose subnet no container can have.
    pub fn new(pool: Ipv4Network, host: Option<Ipv4Addr>) -> Result<SubnetPool, BadSetting> {
        let bad = |reason| BadSetting { setting: "network-pool", reason };
        if pool.prefix() > PREFIX || pool.prefix() == 0 {
            return Err(bad(format!("{pool} is not between a /1 and a /{PREFIX}")));
        }
        let pool = Ipv4Network::new(pool.network(), pool.prefix()).map_err(|error| bad(error.to_string()))?;
        if let Some(host) = host.filter(|&host| pool.contains(host)) {
            return Err(bad(format!("{pool} contains the host's own address {host}")));
        }
        let capacity = 1u32 << (PREFIX - pool.prefix());
        let host = host.map(Subnet::containing);
        Ok(SubnetPool { pool, host, free: LruIds::new(capacity), holders: HashMap::new() })
    }

    /// How many subnets the pool has.
    pub fn capacity(&self) -> u32 {
        self.free.size()
    }

    /// Those that containers have, from the pool or not.
    pub fn in_use(&self) -> usize {
        self.holders.values().filter(|holder| !holder.quarantined).count()
    }

    /// Those given back whose links are still there.
    pub fn quarantined(&self) -> usize {
        self.holders.values().filter(|holder| holder.quarantined).count()
    }

    /// Takes the subnet that `requested` names, or the next free one where it is empty.
    pub fn take(&mut self, requested: &str, owner: &str) -> Result<Subnet, Error> {
        if !requested.is_empty() {
            let subnet = parse(requested)?;
            if self.host == Some(subnet) {
                return Err(Error::SubnetInUse { subnet });
            }
            return self.take_exactly(subnet, owner).map(|()| subnet);
        }
        let Some(id) = self.free.take_next() else {
            return Err(Error::SubnetsExhausted { pool: self.pool, capacity: self.capacity() });
        };
        let subnet = Subnet { base: u32::from(self.pool.network()) + id * ADDRESSES };
        self.holders.insert(subnet, Holder { owner: owner.to_owned(), quarantined: false });
        Ok(subnet)
    }

    /// Takes `subnet`; the one who has it may take it again.
    pub fn take_exactly(&mut self, subnet: Subnet, owner: &str) -> Result<(), Error> {
        match self.holders.get(&subnet) {
            Some(_) if self.is_held(subnet, owner) => return Ok(()),
            Some(_) => return Err(Error::SubnetInUse { subnet }),
            None => {}
        }
        if let Some(id) = self.id(subnet) {
            self.free.take(id);
        }
        self.holders.insert(subnet, Holder { owner: owner.to_owned(), quarantined: false });
        Ok(())
    }

    /// Whether `owner` has `subnet` and did not give it back.
    pub fn is_held(&self, subnet: Subnet, owner: &str) -> bool {
        self.holders.get(&subnet).is_some_and(|holder| holder.owner == owner && !holder.quarantined)
    }

    /// Takes `subnet` out of use but does not free it yet. True also for one that nobody has, as after a restart;
    /// false: it is another's.
    pub fn quarantine(&mut self, subnet: Subnet, owner: &str) -> bool {
        if self.take_exactly(subnet, owner).is_err() {
            return self.holders.get(&subnet).is_some_and(|holder| holder.owner == owner);
        }
        if let Some(holder) = self.holders.get_mut(&subnet) {
            holder.quarantined = true;
        }
        true
    }

    /// Frees `subnet` if `owner` has it.
    pub fn give_back(&mut self, subnet: Subnet, owner: &str) {
        if self.holders.get(&subnet).is_none_or(|holder| holder.owner != owner) {
            return;
        }
        self.holders.remove(&subnet);
        if let Some(id) = self.id(subnet) {
            self.free.give_back(id);
        }
    }

    /// The place of `subnet` in the pool; none: it is not of the pool.
    fn id(&self, subnet: Subnet) -> Option<u32> {
        let id = subnet.base.checked_sub(u32::from(self.pool.network()))? / ADDRESSES;
        (id < self.free.size()).then_some(id)
    }
}

/// A subnet as `10.254.0.8/30`, or the container's address in one, with or without `/30`.
pub(in crate::network) fn parse(requested: &str) -> Result<Subnet, Error> {
    let invalid = |reason: String| Error::Invalid { field: FIELD, reason };
    let (address, prefix) = requested.split_once('/').unwrap_or((requested, "30"));
    let address: Ipv4Addr = address.parse().map_err(|_| {
        invalid(format!("{requested:?} is not an IPv4 subnet or address, such as 10.254.0.8/30"))
    })?;
    if prefix != "30" {
        return Err(invalid(format!("{requested}: only subnets of four addresses (/30) can be had")));
    }
    let subnet = Subnet::containing(address);
    if address.is_loopback() || address.octets()[0] == 0 || address.octets()[0] >= 224 {
        return Err(invalid(format!("{address} is not an address that a container can have")));
    }
    if address == subnet.host_address() {
        return Err(invalid(format!("{address} is the gateway of its subnet {subnet}")));
    }
    if address == subnet.broadcast() {
        return Err(invalid(format!("{address} is the broadcast address of its subnet {subnet}")));
    }
    Ok(subnet)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn pool(text: &str) -> SubnetPool {
        SubnetPool::new(text.parse().unwrap(), None).unwrap()
    }

    fn subnet(text: &str) -> Subnet {
        parse(text).unwrap()
    }

    #[test]
    fn the_host_has_the_first_address_and_the_container_the_second() {
        let first = pool("10.254.0.0/22").take("", "a").unwrap();
        assert_eq!(first.to_string(), "10.254.0.0/30");
        assert_eq!(first.host_address(), Ipv4Addr::new(10, 254, 0, 1));
        assert_eq!(first.container_address(), Ipv4Addr::new(10, 254, 0, 2));
    }

    #[test]
    fn a_pool_has_as_many_subnets_as_fit_and_then_says_that_it_is_empty() {
        let mut pool = pool("10.254.0.9/29");
        assert_eq!(pool.capacity(), 2);
        assert_eq!(pool.take("", "a").unwrap(), subnet("10.254.0.8/30"));
        assert_eq!(pool.take("", "b").unwrap(), subnet("10.254.0.12/30"));
        let error = pool.take("", "c").unwrap_err();
        assert_eq!(error.to_string(), "no free subnet: all 2 of the pool 10.254.0.8/29 are in use");
    }

    #[test]
    fn a_pool_that_holds_no_subnet_is_refused() {
        for network in ["10.0.0.0/31", "10.0.0.0/32", "0.0.0.0/0"] {
            assert!(SubnetPool::new(network.parse().unwrap(), None).is_err(), "{network}");
        }
    }

    #[test]
    fn the_hosts_own_address_is_no_containers() {
        let host = Ipv4Addr::new(10, 254, 0, 9);
        assert!(SubnetPool::new("10.254.0.0/22".parse().unwrap(), Some(host)).is_err());
        let mut elsewhere = SubnetPool::new("10.253.0.0/22".parse().unwrap(), Some(host)).unwrap();
        assert!(elsewhere.take("10.254.0.8/30", "a").is_err());
        assert!(elsewhere.take("10.254.0.12/30", "a").is_ok());
    }

    #[test]
    fn a_subnet_is_named_by_itself_or_by_the_containers_address() {
        for name in ["10.254.0.8/30", "10.254.0.10/30", "10.254.0.10", "10.254.0.8"] {
            assert_eq!(pool("10.254.0.0/22").take(name, "a").unwrap(), subnet("10.254.0.8/30"), "{name}");
        }
        assert_eq!(pool("10.254.0.0/22").take("192.168.7.4/30", "a").unwrap(), subnet("192.168.7.4/30"));
    }

    #[test]
    fn what_no_container_can_have_is_refused_by_the_fields_name() {
        for name in [
            "10.254.0.9",
            "10.254.0.11/30",
            "10.254.0.0/24",
            "127.0.0.2",
            "224.0.0.2",
            "0.0.0.2",
            "x",
            "1.2.3.4/",
            "::1",
        ] {
            let error = pool("10.254.0.0/22").take(name, "a").unwrap_err();
            assert!(matches!(error, Error::Invalid { field: "network", .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_quarantined_subnet_is_nobodys_until_it_is_given_back() {
        let mut pool = pool("10.254.0.0/30");
        let first = pool.take("", "a").unwrap();
        assert!(!pool.quarantine(first, "b"));
        assert!(pool.quarantine(first, "a"));
        assert!(pool.quarantine(first, "a"));
        assert_eq!((pool.in_use(), pool.quarantined()), (0, 1));
        assert!(pool.take("", "b").is_err());
        assert!(pool.take_exactly(first, "a").is_err());
        pool.give_back(first, "b");
        assert!(pool.take("", "b").is_err());
        pool.give_back(first, "a");
        assert_eq!(pool.take("", "b").unwrap(), first);
        pool.give_back(first, "a");
        assert_eq!(pool.in_use(), 1);
    }

    #[test]
    fn a_subnet_is_recorded_as_text() {
        let text = serde_json::to_string(&subnet("10.254.0.8/30")).unwrap();
        assert_eq!(text, r#""10.254.0.8/30""#);
        assert_eq!(serde_json::from_str::<Subnet>(&text).unwrap(), subnet("10.254.0.8/30"));
        assert!(serde_json::from_str::<Subnet>(r#""10.254.0.9/30""#).is_err());
    }

    proptest! {
        #[test]
        fn no_two_owners_have_the_same_subnet(steps in vec((0u8..5, 0u8..10, 0u32..6), 0..200)) {
            // Four subnets of the pool, and by name two more outside of it.
            let mut pool = pool("10.254.0.0/28");
            let mut held: HashSet<(Subnet, String)> = HashSet::new();
            for (step, owner, index) in steps {
                let owner = format!("owner{owner}");
                let named = Subnet { base: u32::from(Ipv4Addr::new(10, 254, 0, 0)) + index * ADDRESSES };
                let taken = |held: &HashSet<(Subnet, String)>, subnet| held.iter().any(|(other, _)| *other == subnet);
                match step {
                    0 => match pool.take("", &owner) {
                        Ok(subnet) => {
                            prop_assert!(!taken(&held, subnet));
                            held.insert((subnet, owner));
                        }
                        Err(_) => {
                            let of_pool = held.iter().filter(|(subnet, _)| pool.id(*subnet).is_some());
                            prop_assert_eq!(of_pool.count(), 4);
                        }
                    },
                    1 => {
                        let may = !taken(&held, named) || pool.is_held(named, &owner);
                        prop_assert_eq!(pool.take(&named.to_string(), &owner).is_ok(), may);
                        if may { held.insert((named, owner)); }
                    }
                    2 => {
                        let may = !taken(&held, named) || held.contains(&(named, owner.clone()));
                        prop_assert_eq!(pool.quarantine(named, &owner), may);
                        if may { held.insert((named, owner)); }
                    }
                    _ => {
                        pool.give_back(named, &owner);
                        held.remove(&(named, owner));
                    }
                }
                prop_assert_eq!(pool.in_use() + pool.quarantined(), held.len());
            }
        }
    }
}
