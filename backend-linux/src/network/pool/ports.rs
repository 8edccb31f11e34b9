//! Ports on the host: a range to give out from, and any other that is asked for by number.

use std::collections::HashMap;

use protocol::NetIn;

use super::{BadSetting, Error, LruIds};

/// Which host ports are taken, and by whom.
#[derive(Debug)]
pub struct PortPool {
    first: u16,
    free: LruIds,
    owners: HashMap<u16, String>,
}

impl PortPool {
    /// The `size` ports from `first` on.
    pub fn new(first: u16, size: u16) -> Result<PortPool, BadSetting> {
        if first == 0 || u32::from(first) + u32::from(size) > 1 << 16 {
            let reason = format!("{size} ports from {first} on do not lie between 1 and 65535");
            return Err(BadSetting { setting: "port-pool-start", reason });
        }
        Ok(PortPool { first, free: LruIds::new(u32::from(size)), owners: HashMap::new() })
    }

    pub fn capacity(&self) -> u32 {
        self.free.size()
    }

    /// Ports of the pool that containers have.
    pub fn in_use(&self) -> usize {
        self.free.taken()
    }

    pub fn owner(&self, port: u16) -> Option<&str> {
        self.owners.get(&port).map(String::as_str)
    }

    /// Takes a host port for each mapping, all or none, and fills in those that were left open: with what is free on
    /// the host, too, as `is_free` says.
    pub fn take(
        &mut self,
        wanted: &[NetIn],
        owner: &str,
        is_free: impl Fn(u16) -> bool,
    ) -> Result<Vec<NetIn>, Error> {
        let mut taken = Vec::with_capacity(wanted.len());
        // Those asked for by number first, lest one of the pool's choice be among them.
        let (open, fixed): (Vec<usize>, Vec<usize>) =
            (0..wanted.len()).partition(|&index| wanted[index].host_port == 0);
        for index in fixed.into_iter().chain(open) {
            match self.take_one(wanted[index], owner, &is_free) {
                Ok(mapping) => taken.push((index, mapping)),
                Err(error) => {
                    let mappings: Vec<_> = taken.into_iter().map(|(_, mapping)| mapping).collect();
                    self.give_back(&mappings, owner);
                    return Err(error);
                }
            }
        }
        taken.sort_by_key(|(index, _)| *index);
        Ok(taken.into_iter().map(|(_, mapping)| mapping).collect())
    }

    fn take_one(
        &mut self,
        wanted: NetIn,
        owner: &str,
        is_free: impl Fn(u16) -> bool,
    ) -> Result<NetIn, Error> {
        let host_port = if wanted.host_port == 0 {
            let exhausted = Error::PortsExhausted { first: self.first, size: self.free.size() as u16 };
            self.take_next(is_free).ok_or(exhausted)?
        } else {
            let port = wanted.host_port;
            if self.owners.contains_key(&port) {
                return Err(Error::PortInUse { port });
            }
            if !is_free(port) {
                return Err(Error::PortInUseOnHost { port });
            }
            if let Some(id) = self.id(port) {
                self.free.take(id);
            }
            port
        };
        self.owners.insert(host_port, owner.to_owned());
        let container_port = if wanted.container_port == 0 { host_port } else { wanted.container_port };
        Ok(NetIn { host_port, container_port })
    }

    /// Passes over those that the host has.
    fn take_next(&mut self, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let mut passed_over = Vec::new();
        let found = loop {
            let Some(id) = self.free.take_next() else { break None };
            match self.first + id as u16 {
                port if is_free(port) => break Some(port),
                _ => passed_over.push(id),
            }
        };
        passed_over.into_iter().for_each(|id| self.free.give_back(id));
        found
    }

    /// Marks recorded mappings as taken; the one who has a port may take it again.
    pub fn adopt(&mut self, mappings: &[NetIn], owner: &str) -> Result<(), Error> {
        let mut missing = Vec::new();
        for mapping in mappings {
            match self.owner(mapping.host_port) {
                Some(other) if other == owner => {}
                Some(_) => return Err(Error::PortInUse { port: mapping.host_port }),
                None => missing.push(*mapping),
            }
        }
        // Where the host has one of them by now, it is the container's all the same.
        self.take(&missing, owner, |_| true).map(drop)
    }

    /// Frees those of the mappings' host ports that `owner` has.
    pub fn give_back(&mut self, mappings: &[NetIn], owner: &str) {
        for port in mappings.iter().map(|mapping| mapping.host_port) {
            if self.owner(port) == Some(owner) {
                self.remove(port);
            }
        }
    }

    /// Frees every port that `owner` has.
    pub fn give_back_all(&mut self, owner: &str) {
        let ports: Vec<u16> =
            self.owners.iter().filter(|(_, other)| *other == owner).map(|(port, _)| *port).collect();
        for port in ports {
            self.remove(port);
        }
    }

    fn remove(&mut self, port: u16) {
        if self.owners.remove(&port).is_some()
            && let Some(id) = self.id(port)
        {
            self.free.give_back(id);
        }
    }

    /// The place of `port` in the pool; none: it is not of the pool.
    fn id(&self, port: u16) -> Option<u32> {
        let id = u32::from(port.checked_sub(self.first)?);
        (id < self.free.size()).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn every(_: u16) -> bool {
        true
    }

    fn mapping(host_port: u16, container_port: u16) -> NetIn {
        NetIn { host_port, container_port }
    }

    #[test]
    fn an_open_host_port_comes_from_the_pool_and_an_open_container_port_is_the_same() {
        let mut ports = PortPool::new(61001, 10).unwrap();
        assert_eq!(
            ports.take(&[mapping(0, 0), mapping(0, 80)], "a", every).unwrap(),
            [mapping(61001, 61001), mapping(61002, 80)]
        );
        assert_eq!(ports.take(&[mapping(8080, 0)], "a", every).unwrap(), [mapping(8080, 8080)]);
        assert_eq!(ports.in_use(), 2);
    }

    #[test]
    fn a_port_asked_for_by_number_leaves_the_pool() {
        let mut ports = PortPool::new(61001, 2).unwrap();
        assert_eq!(
            ports.take(&[mapping(0, 1), mapping(61001, 2)], "a", every).unwrap(),
            [mapping(61002, 1), mapping(61001, 2)]
        );
        assert_eq!(
            ports.take(&[mapping(0, 0)], "b", every),
            Err(Error::PortsExhausted { first: 61001, size: 2 })
        );
    }

    #[test]
    fn a_refused_request_takes_nothing() {
        let mut ports = PortPool::new(61001, 5).unwrap();
        ports.take(&[mapping(80, 80)], "a", every).unwrap();
        let wanted = [mapping(0, 1), mapping(81, 1), mapping(80, 1)];
        assert_eq!(ports.take(&wanted, "b", every), Err(Error::PortInUse { port: 80 }));
        assert_eq!(
            ports.take(&[mapping(82, 0), mapping(82, 0)], "b", every),
            Err(Error::PortInUse { port: 82 })
        );
        assert_eq!((ports.in_use(), ports.owner(81), ports.owner(82)), (0, None, None));
    }

    #[test]
    fn ports_of_the_host_are_passed_over_and_refused_by_number() {
        let mut ports = PortPool::new(61001, 4).unwrap();
        let is_free = |port| port != 61001 && port != 61003 && port != 80;
        for expected in [61002, 61004] {
            assert_eq!(ports.take(&[mapping(0, 1)], "a", is_free).unwrap()[0].host_port, expected);
        }
        let exhausted = Error::PortsExhausted { first: 61001, size: 4 };
        assert_eq!(ports.take(&[mapping(0, 1)], "a", is_free), Err(exhausted));
        for port in [80, 61003] {
            assert_eq!(ports.take(&[mapping(port, 1)], "a", is_free), Err(Error::PortInUseOnHost { port }));
        }
        // What was passed over is still the pool's.
        assert_eq!(ports.take(&[mapping(0, 1), mapping(0, 1)], "a", every).unwrap().len(), 2);
        assert_eq!(ports.in_use(), 4);
    }

    #[test]
    fn only_the_owner_gives_a_port_back() {
        let mut ports = PortPool::new(61001, 1).unwrap();
        let taken = ports.take(&[mapping(0, 0)], "a", every).unwrap();
        ports.give_back(&taken, "b");
        assert_eq!(ports.owner(61001), Some("a"));
        ports.give_back(&taken, "a");
        ports.give_back(&taken, "a");
        assert_eq!((ports.owner(61001), ports.in_use()), (None, 0));
    }

    #[test]
    fn recorded_ports_are_adopted_once_and_by_one() {
        let mut ports = PortPool::new(61001, 4).unwrap();
        let recorded = [mapping(61002, 8080), mapping(80, 80)];
        ports.adopt(&recorded, "a").unwrap();
        ports.adopt(&recorded, "a").unwrap();
        assert_eq!(ports.adopt(&recorded, "b"), Err(Error::PortInUse { port: 61002 }));
        assert_eq!(ports.in_use(), 1);
        ports.give_back_all("a");
        assert_eq!((ports.in_use(), ports.owner(80)), (0, None));
    }

    #[test]
    fn a_pool_beyond_the_last_port_is_refused() {
        assert!(PortPool::new(65535, 1).is_ok());
        assert!(PortPool::new(65535, 2).is_err());
        assert!(PortPool::new(0, 2).is_err());
    }

    proptest! {
        #[test]
        fn no_two_owners_have_the_same_port(steps in vec((any::<bool>(), 0u8..4, 0u16..8), 0..200)) {
            // Ports 2, 3, 4 and 5 are the pool's.
            let mut ports = PortPool::new(2, 4).unwrap();
            let mut held: HashMap<u16, u8> = HashMap::new();
            for (take, owner, port) in steps {
                let name = format!("owner{owner}");
                if take {
                    match ports.take(&[mapping(port, 0)], &name, every) {
                        Ok(taken) => prop_assert!(held.insert(taken[0].host_port, owner).is_none()),
                        Err(_) if port == 0 => prop_assert!((2..6).all(|port| held.contains_key(&port))),
                        Err(_) => prop_assert!(held.contains_key(&port)),
                    }
                } else {
                    ports.give_back(&[mapping(port, 0)], &name);
                    if held.get(&port) == Some(&owner) { held.remove(&port); }
                }
                prop_assert_eq!(ports.in_use(), held.keys().filter(|port| (2..6).contains(*port)).count());
            }
        }
    }
}
