//! Which addresses are taken, and by whom: in subnets of the pool, one container in each, and in others that were
//! named, which several containers may share.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
};

use ipnetwork::Ipv4Network;

use super::{
    BadSetting, Error, LruIds,
    subnet::{Named, PREFIX, Subnet},
};

/// Addresses of a subnet of the pool.
const ADDRESSES: u32 = 4;

/// A container's address, and the subnet that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub subnet: Subnet,
    pub address: Ipv4Addr,
}

/// The subnets that containers have.
#[derive(Debug)]
pub struct SubnetPool {
    pool: Ipv4Network,
    free: LruIds,
    /// By their first addresses; no two of them overlap.
    in_use: BTreeMap<u32, InUse>,
}

/// A subnet for as long as somebody has an address of it.
#[derive(Debug)]
struct InUse {
    subnet: Subnet,
    /// By their places in the subnet.
    free: LruIds,
    holders: HashMap<Ipv4Addr, Holder>,
    /// Numbers of the pool that were not given out because it has their addresses.
    passed_over: Vec<u32>,
}

#[derive(Debug)]
struct Holder {
    owner: String,
    /// Given back, but the kernel still has a link with its address.
    quarantined: bool,
}

impl SubnetPool {
    /// `host`: the host's own networks, which no container can have a part of.
    pub fn new(pool: Ipv4Network, host: &[Ipv4Network]) -> Result<SubnetPool, BadSetting> {
        let bad = |reason| BadSetting { setting: "network-pool", reason };
        if pool.prefix() > PREFIX || pool.prefix() == 0 {
            return Err(bad(format!("{pool} is not between a /1 and a /{PREFIX}")));
        }
        let pool = Ipv4Network::new(pool.network(), pool.prefix()).map_err(|error| bad(error.to_string()))?;
        if let Some(host) = host.iter().find(|host| host.overlaps(pool)) {
            return Err(bad(format!("{pool} overlaps {host}, a network that the host itself is in")));
        }
        let capacity = 1u32 << (PREFIX - pool.prefix());
        Ok(SubnetPool { pool, free: LruIds::new(capacity), in_use: BTreeMap::new() })
    }

    /// How many subnets the pool has.
    pub fn capacity(&self) -> u32 {
        self.free.size()
    }

    /// How many subnets containers have, of the pool or not.
    pub fn in_use(&self) -> usize {
        let used = |found: &&InUse| found.holders.values().any(|holder| !holder.quarantined);
        self.in_use.values().filter(used).count()
    }

    /// How many addresses were given back while their links were still there.
    pub fn quarantined(&self) -> usize {
        let holders = self.in_use.values().flat_map(|found| found.holders.values());
        holders.filter(|holder| holder.quarantined).count()
    }

    /// Takes the pool's next free subnet.
    pub fn take_next(&mut self, owner: &str) -> Result<Place, Error> {
        loop {
            let Some(id) = self.free.take_next() else {
                return Err(Error::SubnetsExhausted { pool: self.pool, capacity: self.capacity() });
            };
            let base = u32::from(self.pool.network()) + id * ADDRESSES;
            let subnet = Subnet::containing(base.into(), PREFIX);
            // That of a container from before, when the pool was another.
            if let Some(found) = overlapping(&mut self.in_use, subnet) {
                found.passed_over.push(id);
                continue;
            }
            let place = Place { subnet, address: subnet.container_address() };
            self.insert(place, owner);
            return Ok(place);
        }
    }

    /// Takes what a spec names, unless it is a part of one of the `host`'s own networks.
    pub fn take_named(&mut self, named: Named, host: &[Ipv4Network], owner: &str) -> Result<Place, Error> {
        let Named { subnet, address } = named;
        let network = Ipv4Network::from(subnet);
        let invalid = |reason| Err(Error::Invalid { field: "network", reason });
        if network.overlaps(self.pool) {
            let pool = self.pool;
            return invalid(format!("{subnet} overlaps the pool {pool}, from which nothing is had by name"));
        }
        if let Some(host) = host.iter().find(|host| host.overlaps(network)) {
            return invalid(format!("{subnet} overlaps {host}, a network that the host itself is in"));
        }
        let address = match (overlapping(&mut self.in_use, subnet), address) {
            (Some(found), _) if found.subnet != subnet => {
                return Err(Error::SubnetOverlaps { subnet, other: found.subnet });
            }
            (Some(found), Some(address)) => match found.holders.get(&address) {
                Some(holder) if holder.quarantined => return Err(Error::Leaving { subnet, address }),
                Some(_) => return Err(Error::AddressInUse { subnet, address }),
                None => address,
            },
            (Some(found), None) => match found.free.take_next() {
                Some(place) => {
                    // Taken again with its holder, in a moment.
                    found.free.give_back(place);
                    subnet.address_at(place)
                }
                None => match found.holders.iter().find(|(_, holder)| holder.quarantined) {
                    Some((address, _)) => return Err(Error::Leaving { subnet, address: *address }),
                    None => return Err(Error::SubnetFull { subnet }),
                },
            },
            (None, address) => address.unwrap_or(subnet.container_address()),
        };
        let place = Place { subnet, address };
        self.insert(place, owner);
        Ok(place)
    }

    /// Takes what a record says; the one who has it may take it again.
    pub fn take_exactly(&mut self, place: Place, owner: &str) -> Result<(), Error> {
        let Place { subnet, address } = place;
        if subnet.place_of(address).is_none() {
            let reason = format!("{address} is not an address for containers of {subnet}");
            return Err(Error::Invalid { field: "network", reason });
        }
        if let Some(found) = overlapping(&mut self.in_use, subnet) {
            if found.subnet != subnet {
                return Err(Error::SubnetOverlaps { subnet, other: found.subnet });
            }
            match found.holders.get(&address) {
                Some(holder) if holder.owner == owner && !holder.quarantined => return Ok(()),
                Some(_) => return Err(Error::AddressInUse { subnet, address }),
                None => {}
            }
        } else if let Some(id) = self.id(subnet) {
            self.free.take(id);
        }
        self.insert(place, owner);
        Ok(())
    }

    /// Whether `owner` has that place and did not give it back.
    pub fn is_held(&self, place: Place, owner: &str) -> bool {
        self.holder(place).is_some_and(|holder| holder.owner == owner && !holder.quarantined)
    }

    /// Takes a place out of use but does not free it yet. True also for one that nobody has, as after a restart;
    /// false: it is another's.
    pub fn quarantine(&mut self, place: Place, owner: &str) -> bool {
        if self.take_exactly(place, owner).is_err() {
            return self.holder(place).is_some_and(|holder| holder.owner == owner);
        }
        let found = self.in_use.get_mut(&place.subnet.base());
        if let Some(holder) = found.and_then(|found| found.holders.get_mut(&place.address)) {
            holder.quarantined = true;
        }
        true
    }

    /// Frees a place if `owner` has it, and with its last address the subnet.
    pub fn give_back(&mut self, place: Place, owner: &str) {
        if self.holder(place).is_none_or(|holder| holder.owner != owner) {
            return;
        }
        let Place { subnet, address } = place;
        let Some(found) = self.in_use.get_mut(&subnet.base()) else { return };
        found.holders.remove(&address);
        if let Some(id) = subnet.place_of(address) {
            found.free.give_back(id);
        }
        if !found.holders.is_empty() {
            return;
        }
        let passed_over = std::mem::take(&mut found.passed_over);
        self.in_use.remove(&subnet.base());
        passed_over.into_iter().chain(self.id(subnet)).for_each(|id| self.free.give_back(id));
    }

    fn holder(&self, place: Place) -> Option<&Holder> {
        let found = self.in_use.get(&place.subnet.base()).filter(|found| found.subnet == place.subnet)?;
        found.holders.get(&place.address)
    }

    /// Nobody has the place, nor a subnet that overlaps its without being equal.
    fn insert(&mut self, place: Place, owner: &str) {
        let Place { subnet, address } = place;
        let found = self.in_use.entry(subnet.base()).or_insert_with(|| InUse {
            subnet,
            free: LruIds::new(subnet.size()),
            holders: HashMap::new(),
            passed_over: Vec::new(),
        });
        if let Some(id) = subnet.place_of(address) {
            found.free.take(id);
        }
        found.holders.insert(address, Holder { owner: owner.to_owned(), quarantined: false });
    }

    /// The number of `subnet` in the pool; none: it is not of the pool.
    fn id(&self, subnet: Subnet) -> Option<u32> {
        let id = subnet.base().checked_sub(u32::from(self.pool.network()))? / ADDRESSES;
        (!subnet.is_shared() && id < self.free.size()).then_some(id)
    }
}

/// One of these that has an address in common with `subnet`.
fn overlapping(in_use: &mut BTreeMap<u32, InUse>, subnet: Subnet) -> Option<&mut InUse> {
    // They do not overlap each other: of those that begin before its end, the last one ends last.
    let (_, found) = in_use.range_mut(..=subnet.last()).next_back()?;
    (found.subnet.last() >= subnet.base()).then_some(found)
}

#[cfg(test)]
mod tests;
