//! Ranges of ids, one for each container. Memory only; the records are the truth on disk.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Error, IdMaps, IdRange};
use crate::lru::LruIds;

/// Ids of the host that one container has to itself; kept in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnIds {
    /// The host's id of the container's user 0.
    pub first_user: u32,
    /// The host's id of the container's group 0.
    pub first_group: u32,
    /// How many of each, one after the other.
    pub count: u32,
}

impl OwnIds {
    pub fn maps(&self) -> IdMaps {
        let map = |outside| vec![IdRange { inside: 0, outside, count: self.count }];
        IdMaps { users: map(self.first_user), groups: map(self.first_group) }
    }

    fn overlap(&self, other: &OwnIds) -> bool {
        let overlap = |one: u32, two: u32| {
            u64::from(one) < u64::from(two) + u64::from(other.count)
                && u64::from(two) < u64::from(one) + u64::from(self.count)
        };
        overlap(self.first_user, other.first_user) || overlap(self.first_group, other.first_group)
    }
}

/// Which ranges are taken.
#[derive(Debug)]
pub struct RangePool {
    first: OwnIds,
    free: LruIds,
    taken: Vec<OwnIds>,
}

impl RangePool {
    /// `size` ranges, of which `first` is the first; the others follow it without a gap. All of them are ids.
    pub fn new(first: OwnIds, size: u32) -> RangePool {
        RangePool { first, free: LruIds::new(size), taken: Vec::new() }
    }

    pub fn size(&self) -> u32 {
        self.free.size()
    }

    /// Takes the range that was free longest.
    pub fn take(&mut self) -> Result<OwnIds, Error> {
        let number = self.free.take_next().ok_or(Error::Exhausted { size: self.size() })?;
        let ids = self.range(number);
        self.taken.push(ids);
        Ok(ids)
    }

    /// Marks the range of a record as taken. With other settings it may lie across several of this pool, or outside.
    pub fn adopt(&mut self, ids: OwnIds) -> Result<(), Error> {
        if self.taken.iter().any(|other| other.overlap(&ids)) {
            return Err(Error::InUse { first_user: ids.first_user, count: ids.count });
        }
        for number in self.touched(&ids) {
            // False where the range of another record lies in it, too.
            self.free.take(number);
        }
        self.taken.push(ids);
        Ok(())
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, ids: OwnIds) {
        let Some(place) = self.taken.iter().position(|other| *other == ids) else { return };
        self.taken.swap_remove(place);
        for number in self.touched(&ids) {
            let range = self.range(number);
            if !self.taken.iter().any(|other| other.overlap(&range)) {
                self.free.give_back(number);
            }
        }
    }

    fn range(&self, number: u32) -> OwnIds {
        let OwnIds { first_user, first_group, count } = self.first;
        OwnIds { first_user: first_user + number * count, first_group: first_group + number * count, count }
    }

    /// The numbers of the pool's ranges that have an id in common with `ids`.
    fn touched(&self, ids: &OwnIds) -> BTreeSet<u32> {
        let count = u64::from(self.first.count);
        let numbers = |first: u32, own: u32| {
            let end = (u64::from(own) + u64::from(ids.count)).saturating_sub(u64::from(first));
            let begin = u64::from(own).saturating_sub(u64::from(first));
            let end = end.div_ceil(count).min(u64::from(self.size()));
            (begin / count..end).map(|number| number as u32)
        };
        let users = numbers(self.first.first_user, ids.first_user);
        users.chain(numbers(self.first.first_group, ids.first_group)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn ids(first_user: u32, first_group: u32, count: u32) -> OwnIds {
        OwnIds { first_user, first_group, count }
    }

    #[test]
    fn ranges_follow_each_other_until_there_are_none() {
        let mut pool = RangePool::new(ids(1000, 5000, 10), 2);
        assert_eq!(pool.take(), Ok(ids(1000, 5000, 10)));
        assert_eq!(pool.take(), Ok(ids(1010, 5010, 10)));
        assert_eq!(pool.take(), Err(Error::Exhausted { size: 2 }));
        pool.give_back(ids(1000, 5000, 10));
        // Only once.
        pool.give_back(ids(1000, 5000, 10));
        assert_eq!(pool.take(), Ok(ids(1000, 5000, 10)));
        assert!(pool.take().is_err());
    }

    #[test]
    fn a_range_of_other_settings_blocks_all_that_it_touches() {
        let mut pool = RangePool::new(ids(1000, 5000, 10), 3);
        pool.adopt(ids(1005, 9000, 10)).unwrap();
        assert_eq!(pool.adopt(ids(7000, 9009, 1)), Err(Error::InUse { first_user: 7000, count: 1 }));
        assert_eq!(pool.take(), Ok(ids(1020, 5020, 10)));
        assert!(pool.take().is_err());
        pool.give_back(ids(1005, 9000, 10));
        assert_eq!([pool.take(), pool.take()], [Ok(ids(1000, 5000, 10)), Ok(ids(1010, 5010, 10))]);
    }

    proptest! {
        #[test]
        fn no_two_have_an_id_in_common_and_none_is_lost(
            steps in vec((0u8..3, 0u32..90, 0u32..90, 1u32..25), 0..100)
        ) {
            let fresh = || RangePool::new(ids(20, 30, 10), 4);
            let (mut pool, mut taken) = (fresh(), Vec::<OwnIds>::new());
            for (step, user, group, count) in steps {
                let wanted = ids(user, group, count);
                let free = |range: &OwnIds| !taken.iter().any(|other| other.overlap(range));
                match step {
                    0 => match pool.take() {
                        Ok(own) => {
                            prop_assert!(free(&own));
                            taken.push(own);
                        }
                        Err(_) => prop_assert!((0..4).all(|number| !free(&pool.range(number)))),
                    },
                    1 => {
                        prop_assert_eq!(pool.adopt(wanted).is_ok(), free(&wanted));
                        if free(&wanted) { taken.push(wanted) }
                    }
                    _ if taken.is_empty() => {}
                    _ => pool.give_back(taken.swap_remove(user as usize % taken.len())),
                }
            }
            taken.drain(..).for_each(|own| pool.give_back(own));
            prop_assert_eq!((0..4).filter(|_| pool.take().is_ok()).count(), 4);
        }
    }
}
