//! Numbers given out in the order in which they were given back, those that never were first: what others may still
//! remember of a number (a connection, a cache, a link that goes down) has the longest time to pass.

use std::collections::{HashSet, VecDeque};

/// The numbers from 0 to `size`, free or taken. Memory grows with those ever taken, not with `size`.
#[derive(Debug)]
pub struct LruIds {
    size: u32,
    /// No number below was left out.
    next_untouched: u32,
    /// Taken at least once.
    touched: HashSet<u32>,
    /// Touched and free, the longest free first.
    returned: VecDeque<u32>,
}

impl LruIds {
    pub fn new(size: u32) -> LruIds {
        LruIds { size, next_untouched: 0, touched: HashSet::new(), returned: VecDeque::new() }
    }

    pub fn size(&self) -> u32 {
        self.size
    }

    pub fn taken(&self) -> usize {
        self.touched.len() - self.returned.len()
    }

    /// Takes the one that was free longest; none: all are taken.
    pub fn take_next(&mut self) -> Option<u32> {
        while self.next_untouched < self.size {
            let id = self.next_untouched;
            self.next_untouched += 1;
            if self.touched.insert(id) {
                return Some(id);
            }
        }
        self.returned.pop_front()
    }

    /// Takes this one; false: it is taken.
    pub fn take(&mut self, id: u32) -> bool {
        debug_assert!(id < self.size);
        if self.touched.insert(id) {
            return true;
        }
        let position = self.returned.iter().position(|&returned| returned == id);
        position.and_then(|position| self.returned.remove(position)).is_some()
    }

    /// Gives back a number that is taken.
    pub fn give_back(&mut self, id: u32) {
        debug_assert!(self.touched.contains(&id) && !self.returned.contains(&id));
        self.returned.push_back(id);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn the_one_free_longest_comes_next() {
        let mut ids = LruIds::new(3);
        assert_eq!([ids.take_next(), ids.take_next()], [Some(0), Some(1)]);
        ids.give_back(1);
        ids.give_back(0);
        assert_eq!([ids.take_next(), ids.take_next(), ids.take_next()], [Some(2), Some(1), Some(0)]);
        assert_eq!(ids.take_next(), None);
    }

    proptest! {
        #[test]
        fn no_number_is_given_out_twice_and_none_is_lost(steps in vec((0u8..3, 0u32..8), 0..200)) {
            let mut ids = LruIds::new(8);
            let mut taken = BTreeSet::new();
            for (step, id) in steps {
                match step {
                    0 => match ids.take_next() {
                        Some(next) => prop_assert!(next < 8 && taken.insert(next)),
                        None => prop_assert_eq!(taken.len(), 8),
                    },
                    1 => prop_assert_eq!(ids.take(id), taken.insert(id)),
                    _ => if taken.remove(&id) { ids.give_back(id) },
                }
                prop_assert_eq!(ids.taken(), taken.len());
            }
        }
    }
}
