//! IPv6 subnets of four addresses, as a /30 has: the host's is the second one, the container's the third.

use std::{collections::HashMap, net::Ipv6Addr};

use ipnetwork::Ipv6Network;
use serde::{Deserialize, Serialize};

use super::{BadSetting, Error, LruIds};

/// Prefix length of a container's subnet.
pub const IPV6_PREFIX: u8 = 126;
/// The shortest prefix of a pool.
const POOL_PREFIX_MIN: u8 = 16;
/// How many subnets are counted at most: no host bears more containers.
const CAPACITY_MAX: u32 = 1 << 31;
const ADDRESSES: u128 = 4;

/// The two ends' IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Pair {
    /// The host's, the container's gateway.
    pub host_ip: Ipv6Addr,
    /// The container's.
    pub container_ip: Ipv6Addr,
}

/// Which subnets are taken, and by whom.
#[derive(Debug)]
pub struct Ipv6Pool {
    pool: Ipv6Network,
    free: LruIds,
    owners: HashMap<u32, String>,
}

impl Ipv6Pool {
    /// `host`: the host's own networks, which no container can have a part of.
    pub fn new(pool: Ipv6Network, host: &[Ipv6Network]) -> Result<Ipv6Pool, BadSetting> {
        let bad = |reason| BadSetting { setting: "network-pool-ipv6", reason };
        if !(POOL_PREFIX_MIN..=IPV6_PREFIX).contains(&pool.prefix()) {
            return Err(bad(format!("{pool} is not between a /{POOL_PREFIX_MIN} and a /{IPV6_PREFIX}")));
        }
        // 2000::/3 are addresses of the Internet, fc00::/7 of private networks.
        let first = pool.ip().segments()[0];
        if first >> 13 != 1 && first >> 9 != 0xfc00 >> 9 {
            return Err(bad(format!("{pool} is not of 2000::/3 or fc00::/7: no addresses for containers")));
        }
        let pool = Ipv6Network::new(pool.network(), pool.prefix()).map_err(|error| bad(error.to_string()))?;
        if let Some(host) = host.iter().find(|host| host.overlaps(pool)) {
            return Err(bad(format!("{pool} overlaps {host}, a network that the host itself is in")));
        }
        let capacity = 1_u32.checked_shl((IPV6_PREFIX - pool.prefix()).into()).unwrap_or(CAPACITY_MAX);
        Ok(Ipv6Pool { pool, free: LruIds::new(capacity), owners: HashMap::new() })
    }

    /// How many subnets the pool has, as far as they are counted.
    pub fn capacity(&self) -> u32 {
        self.free.size()
    }

    /// Takes the next free subnet.
    pub fn take_next(&mut self, owner: &str) -> Result<Ipv6Pair, Error> {
        let (pool, capacity) = (self.pool, self.capacity());
        let id = self.free.take_next().ok_or(Error::Ipv6Exhausted { pool, capacity })?;
        self.owners.insert(id, owner.to_owned());
        let base = u128::from(pool.network()) + u128::from(id) * ADDRESSES;
        Ok(Ipv6Pair { host_ip: Ipv6Addr::from(base + 1), container_ip: Ipv6Addr::from(base + 2) })
    }

    /// Takes what a record says; the one who has it may take it again. What is not of the pool, as it is now, cannot be
    /// given to another.
    pub fn take_exactly(&mut self, pair: Ipv6Pair, owner: &str) -> Result<(), Error> {
        let Some(id) = self.id(pair) else { return Ok(()) };
        match self.owners.get(&id) {
            Some(other) if other == owner => return Ok(()),
            Some(_) => return Err(Error::Ipv6InUse { address: pair.container_ip }),
            None => {}
        }
        self.free.take(id);
        self.owners.insert(id, owner.to_owned());
        Ok(())
    }

    /// Frees a subnet if `owner` has it.
    pub fn give_back(&mut self, pair: Ipv6Pair, owner: &str) {
        let Some(id) = self.id(pair) else { return };
        if self.owners.get(&id).is_some_and(|other| other == owner) {
            self.owners.remove(&id);
            self.free.give_back(id);
        }
    }

    fn id(&self, pair: Ipv6Pair) -> Option<u32> {
        let id = u128::from(pair.container_ip).checked_sub(u128::from(self.pool.network()))? / ADDRESSES;
        u32::try_from(id).ok().filter(|id| *id < self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn network(text: &str) -> Ipv6Network {
        text.parse().unwrap()
    }

    fn pool(text: &str) -> Ipv6Pool {
        Ipv6Pool::new(network(text), &[]).unwrap()
    }

    #[test]
    fn the_host_has_the_second_address_and_the_container_the_third() {
        let mut pool = pool("2001:db8:7::/64");
        let pair = |host: &str, container: &str| Ipv6Pair {
            host_ip: host.parse().unwrap(),
            container_ip: container.parse().unwrap(),
        };
        assert_eq!(pool.take_next("a").unwrap(), pair("2001:db8:7::1", "2001:db8:7::2"));
        assert_eq!(pool.take_next("b").unwrap(), pair("2001:db8:7::5", "2001:db8:7::6"));
    }

    #[test]
    fn a_pool_has_as_many_subnets_as_fit_and_then_says_that_it_is_empty() {
        let mut pool = pool("fd00:1::9/125");
        assert_eq!(pool.capacity(), 2);
        assert!(pool.take_next("a").is_ok() && pool.take_next("b").is_ok());
        let error = pool.take_next("c").unwrap_err().to_string();
        assert_eq!(error, "no free IPv6 subnet: all 2 of the pool fd00:1::8/125 are in use");
        for (prefix, capacity) in [(126, 1), (96, 1 << 30), (95, 1 << 31), (94, 1 << 31), (16, 1 << 31)] {
            let pool =
                Ipv6Pool::new(Ipv6Network::new("fd00::".parse().unwrap(), prefix).unwrap(), &[]).unwrap();
            assert_eq!(pool.capacity(), capacity, "/{prefix}");
        }
    }

    #[test]
    fn a_pool_that_no_container_could_use_is_refused() {
        for wrong in
            ["fd00::/127", "fd00::/15", "fe80::/64", "ff02::/64", "::/64", "::ffff:10.0.0.0/112", "1::/64"]
        {
            let error = Ipv6Pool::new(network(wrong), &[]).unwrap_err().to_string();
            assert!(error.starts_with("network-pool-ipv6: "), "{wrong}: {error}");
        }
        for host in ["fd00::2/64", "fd00::5:1/128", "fd00::/16"] {
            let error = Ipv6Pool::new(network("fd00::5:0/112"), &[network(host)]).unwrap_err().to_string();
            assert!(error.contains("the host itself is in"), "{host}: {error}");
        }
        assert!(Ipv6Pool::new(network("fd00::5:0/112"), &[network("fd00::4:1/112")]).is_ok());
    }

    #[test]
    fn recorded_addresses_are_adopted_by_their_owner_alone_also_those_of_an_earlier_pool() {
        let old = pool("fd00:1::/64").take_next("a").unwrap();
        let mut same = pool("fd00:1::/64");
        same.take_exactly(old, "a").unwrap();
        same.take_exactly(old, "a").unwrap();
        assert!(same.take_exactly(old, "b").is_err());
        assert_ne!(same.take_next("b").unwrap(), old);
        let mut another = pool("fd00:2::/126");
        another.take_exactly(old, "a").unwrap();
        another.give_back(old, "a");
        assert!(another.take_next("b").is_ok() && another.take_next("c").is_err());
    }

    proptest! {
        #[test]
        fn no_two_owners_have_the_same_addresses(steps in vec((any::<bool>(), 0u8..5, 0usize..4), 0..100)) {
            let mut pool = pool("fd00:1::/124");
            let mut held: Vec<(Ipv6Pair, String)> = Vec::new();
            for (take, owner, index) in steps {
                let owner = format!("owner{owner}");
                match (take, held.get(index).cloned()) {
                    (true, _) => match pool.take_next(&owner) {
                        Ok(pair) => {
                            prop_assert!(held.iter().all(|(other, _)| *other != pair));
                            held.push((pair, owner));
                        }
                        Err(_) => prop_assert_eq!(held.len(), 4),
                    },
                    (false, Some((pair, of))) => {
                        pool.give_back(pair, &owner);
                        if of == owner { held.remove(index); }
                    }
                    (false, None) => {}
                }
            }
        }
    }
}
