//! Ids of users and groups: by which of the host's each container's are known there.
//!
//! Unprivileged containers share one mapping, or each has a range to itself. What a range is for: a process that got
//! out of its container could then do nothing to another's files and processes either.

mod map;
mod pool;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

pub use map::{IdMaps, IdRange, id_map_lines, ids_inside};
pub use pool::OwnIds;

use pool::RangePool;

/// The host's highest id: the number above it means none.
const HIGHEST: u32 = u32::MAX - 1;

/// Where ranges come from by default: between the ids that systemd gives to its containers and those that it calls
/// foreign, above what `/etc/subuid` has and below the numbers that some programs take for negative ones.
const RANGES_START: u32 = 1_879_048_192;
const RANGES_LENGTH: u32 = 268_304_384;

/// Settings of the containers' ids.
#[derive(Debug, Clone, Default)]
pub struct IdConfig {
    /// How many ids each unprivileged container has to itself; none: all share one mapping.
    pub per_container: Option<u32>,
    /// The user ids of the host that containers may have.
    pub users: HostIds,
    /// The group ids of the host that containers may have.
    pub groups: HostIds,
}

/// Ids of the host.
#[derive(Debug, Clone, Default)]
pub struct HostIds {
    /// The first; none: 1, or where containers have ranges of their own 1879048192.
    pub start: Option<u32>,
    /// How many; 0: as many as there are, or where containers have ranges of their own 268304384.
    pub length: u32,
}

/// Why a container has no ids, or the server none for containers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A setting of the server makes no sense.
    #[error("{setting}: {reason}")]
    Setting {
        /// By its name on the command line.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Every range is in use.
    #[error(
        "no free range of ids: all {size} are in use; a larger --uid-map-length and --gid-map-length make more"
    )]
    Exhausted {
        /// How many there are.
        size: u32,
    },
    /// Another container has some of these.
    #[error("the {count} ids from {first_user} on belong to another container, too")]
    InUse {
        /// The first user id.
        first_user: u32,
        /// How many.
        count: u32,
    },
}

/// The ids that containers may have.
pub enum Ids {
    /// One mapping for all.
    Shared(IdMaps),
    /// A range for each. Locked for moments only.
    Ranges(Arc<Mutex<RangePool>>),
}

/// Keeps a container's range from others until it is given back or dropped, in memory only: records are what outlives a
/// server.
pub struct IdLease {
    maps: Option<IdMaps>,
    own: Option<OwnIds>,
    /// Where `own` came from.
    pool: Option<Arc<Mutex<RangePool>>>,
    held: AtomicBool,
}

impl Ids {
    /// Checks the settings.
    pub fn new(config: &IdConfig) -> Result<Ids, Error> {
        let users = bounds(config, &config.users, ["uid-map-start", "uid-map-length"])?;
        let groups = bounds(config, &config.groups, ["gid-map-start", "gid-map-length"])?;
        let Some(count) = config.per_container else {
            // Root is the highest id there is, as it has always been in Garden; the others follow.
            let map = |(start, length)| {
                let root = IdRange { inside: 0, outside: HIGHEST, count: 1 };
                vec![root, IdRange { inside: 1, outside: start, count: length }]
            };
            return Ok(Ids::Shared(IdMaps { users: map(users), groups: map(groups) }));
        };
        let size = users.1.min(groups.1).checked_div(count).unwrap_or(0);
        if size == 0 {
            let reason = format!(
                "{count} ids cannot be had from {} users and {} groups: choose from 1 to that many (65536 is usual)",
                users.1, groups.1
            );
            return Err(Error::Setting { setting: "ids-per-container", reason });
        }
        let first = OwnIds { first_user: users.0, first_group: groups.0, count };
        Ok(Ids::Ranges(Arc::new(Mutex::new(RangePool::new(first, size)))))
    }

    /// How many containers can have ids; none: any number.
    pub fn capacity(&self) -> Option<u32> {
        match self {
            Ids::Shared(_) => None,
            Ids::Ranges(pool) => Some(lock(pool).size()),
        }
    }

    /// Ids for a new container.
    pub fn take(&self, privileged: bool) -> Result<IdLease, Error> {
        Ok(match self {
            _ if privileged => IdLease::new(None, None, None),
            Ids::Shared(maps) => IdLease::new(Some(maps.clone()), None, None),
            Ids::Ranges(pool) => {
                let own = lock(pool).take()?;
                IdLease::new(Some(own.maps()), Some(own), Some(Arc::clone(pool)))
            }
        })
    }

    /// What a record says that a container has; none: no range of its own.
    pub fn adopt(&self, own: Option<OwnIds>) -> Result<IdLease, Error> {
        let pool = match (self, own) {
            (Ids::Ranges(pool), Some(own)) => {
                lock(pool).adopt(own)?;
                Some(Arc::clone(pool))
            }
            (Ids::Shared(_), _) | (_, None) => None,
        };
        Ok(IdLease::new(own.map(|own| own.maps()), own, pool))
    }
}

impl IdLease {
    fn new(maps: Option<IdMaps>, own: Option<OwnIds>, pool: Option<Arc<Mutex<RangePool>>>) -> IdLease {
        IdLease { maps, own, pool, held: AtomicBool::new(true) }
    }

    /// How the container's ids map to the host's; none: they are the host's.
    pub fn maps(&self) -> Option<&IdMaps> {
        self.maps.as_ref()
    }

    /// The host's ids of the container's root, user and group.
    pub fn root(&self) -> (u32, u32) {
        let Some(maps) = &self.maps else { return (0, 0) };
        // Every mapping has a 0.
        (maps.user(0).unwrap_or(HIGHEST), maps.group(0).unwrap_or(HIGHEST))
    }

    /// What to keep in the container's record.
    pub fn own_ids(&self) -> Option<OwnIds> {
        self.own
    }

    /// Gives it back: nothing of the container is left.
    pub fn give_back(&self) {
        if let (Some(own), Some(pool), true) = (self.own, &self.pool, self.held.swap(false, Ordering::SeqCst))
        {
            lock(pool).give_back(own);
        }
    }

    /// Never gives it back: something of the container could not be removed.
    pub fn keep(self) {
        self.held.store(false, Ordering::SeqCst);
    }
}

impl Drop for IdLease {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn lock(pool: &Mutex<RangePool>) -> MutexGuard<'_, RangePool> {
    // Every change is complete before anything that could panic.
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first id, and how many there are.
fn bounds(config: &IdConfig, ids: &HostIds, names: [&'static str; 2]) -> Result<(u32, u32), Error> {
    let ranges = config.per_container.is_some();
    // The shared mapping has the highest id for root.
    let end = if ranges { HIGHEST } else { HIGHEST - 1 };
    let start = ids.start.unwrap_or(if ranges { RANGES_START } else { 1 });
    let error = |setting, reason| Err(Error::Setting { setting, reason });
    if start == 0 || start > end {
        return error(
            names[0],
            format!("is {start}: it must be from 1 to {end}, and is never the host's root"),
        );
    }
    let all = end - start + 1;
    let by_default = if ranges { all.min(RANGES_LENGTH) } else { all };
    match ids.length {
        0 => Ok((start, by_default)),
        length if length > all => {
            error(names[1], format!("is {length}: from {start} on there are {all} ids"))
        }
        length => Ok((start, length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(config: &IdConfig) -> String {
        match Ids::new(config).unwrap() {
            Ids::Shared(maps) => id_map_lines(&maps.users) + &id_map_lines(&maps.groups),
            Ids::Ranges(_) => panic!("ranges"),
        }
    }

    #[test]
    fn without_ranges_the_mapping_is_the_default_one_or_as_shaped() {
        let line = "0 4294967294 1\n1 1 4294967293\n";
        assert_eq!(shared(&IdConfig::default()), format!("{line}{line}"));
        let users = HostIds { start: Some(100_000), length: 65_536 };
        let groups = HostIds { start: Some(7), length: 0 };
        let config = IdConfig { users, groups, per_container: None };
        let wanted = "0 4294967294 1\n1 100000 65536\n0 4294967294 1\n1 7 4294967287\n";
        assert_eq!(shared(&config), wanted);
    }

    #[test]
    fn by_default_there_are_ranges_for_thousands_of_containers() {
        let ids = Ids::new(&IdConfig { per_container: Some(65_536), ..IdConfig::default() }).unwrap();
        assert_eq!(ids.capacity(), Some(4094));
        let lease = ids.take(false).unwrap();
        let maps = lease.maps().unwrap().clone();
        assert_eq!(maps, lease.own_ids().unwrap().maps());
        assert_eq!((maps.user(0), maps.group(65_535)), (Some(1_879_048_192), Some(1_879_113_727)));
        assert_eq!(maps.user(65_536), None);
    }

    #[test]
    fn a_lease_gives_its_range_back_once_it_is_dropped_and_not_before() {
        let groups = HostIds { start: Some(1), length: 10 };
        let ids = Ids::new(&IdConfig { per_container: Some(10), groups, ..IdConfig::default() }).unwrap();
        let first = ids.take(false).unwrap();
        assert_eq!(ids.take(false).err(), Some(Error::Exhausted { size: 1 }));
        assert!(ids.take(true).unwrap().maps().is_none(), "a privileged one needs none");
        let own = first.own_ids();
        first.give_back();
        let second = ids.take(false).unwrap();
        // It is another's now.
        drop(first);
        assert!(ids.take(false).is_err());
        drop(second);
        ids.adopt(own).unwrap().keep();
        assert!(ids.take(false).is_err(), "what could not be removed keeps its ids");
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let ids = |start, length| HostIds { start, length };
        for (per_container, users, setting) in [
            (None, ids(Some(0), 0), "uid-map-start"),
            (None, ids(Some(u32::MAX - 1), 0), "uid-map-start"),
            (None, ids(Some(2), u32::MAX - 2), "uid-map-length"),
            (Some(10), ids(Some(u32::MAX), 0), "uid-map-start"),
            (Some(10), ids(None, 9), "ids-per-container"),
            (Some(0), ids(None, 0), "ids-per-container"),
        ] {
            let config = IdConfig { per_container, users, groups: HostIds::default() };
            let error = Ids::new(&config).err().unwrap().to_string();
            assert!(error.starts_with(setting), "{error}");
        }
    }
}
