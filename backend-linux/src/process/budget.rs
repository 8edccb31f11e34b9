//! How much memory the output of all processes may take together.
//!
//! Every ring may hold the same share: its whole capacity while there is enough for all, else the largest half,
//! quarter, and so on, with which they fit. A ring whose process has ended needs no more than it holds. The shares
//! stand in the rings themselves, and the supervisors keep to them, also while no server runs.
//!
//! Once rings really hold more than half of it, output goes that nobody waits for: of processes that have ended, and
//! that a client has read to its end. Else it is kept for another minute. Rings that hold nothing, however many, take
//! nothing.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::supervisor::{MIN_RING_BYTES, RING_CAPACITY_BYTES, RingReader};

/// More rings than this are too many, whatever they hold: each takes descriptors, too.
const MANY_RINGS: usize = 2000;

/// What a server's rings share.
pub struct OutputBudget {
    total_bytes: u64,
    members: Mutex<Members>,
    scarce: watch::Sender<bool>,
}

#[derive(Default)]
struct Members {
    next_key: u64,
    by_key: BTreeMap<u64, Member>,
    /// What each may hold, as they were last told.
    share_bytes: u64,
}

struct Member {
    ring: Arc<RingReader>,
    room: Arc<OwnedFd>,
    /// The most that it will ever hold.
    need_bytes: u64,
}

/// A ring's part in the budget, for as long as this lives.
pub struct Share {
    budget: Arc<OutputBudget>,
    key: u64,
}

impl OutputBudget {
    /// A budget of that many bytes, besides a page for each ring's counters. It is exceeded where there are so many
    /// rings that each has its minimum, and by what readers who make progress have still to read of a ring whose share
    /// became smaller.
    pub fn new(total_bytes: u64) -> Arc<OutputBudget> {
        Arc::new(OutputBudget { total_bytes, members: Mutex::default(), scarce: watch::Sender::new(false) })
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // The map is whole whatever happened to a thread that had it.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a ring its share. `room` is what wakes its writer.
    pub fn join(self: &Arc<Self>, ring: Arc<RingReader>, room: Arc<OwnedFd>) -> Share {
        let mut members = self.members();
        members.next_key += 1;
        let key = members.next_key;
        let need_bytes = if ring.is_closed() { ring.held_bytes() } else { RING_CAPACITY_BYTES };
        members.by_key.insert(key, Member { ring, room, need_bytes });
        // What it was told by an earlier server may differ from what everybody is told now.
        if members.share(self.total_bytes) == members.share_bytes
            && let Some(member) = members.by_key.get(&key)
        {
            member.tell(members.share_bytes);
        }
        self.settle(&mut members);
        Share { budget: Arc::clone(self), key }
    }

    /// Tells every ring its share, if that has changed.
    fn settle(&self, members: &mut Members) {
        let share = members.share(self.total_bytes);
        if share != members.share_bytes {
            members.share_bytes = share;
            members.by_key.values().for_each(|member| member.tell(share));
        }
        // Looked at when rings come and go: until the next one comes, nobody needs more than there is.
        let scarce = members.held_bytes() > self.total_bytes / 2 || members.by_key.len() > MANY_RINGS;
        self.scarce.send_if_modified(|now| std::mem::replace(now, scarce) != scarce);
    }

    /// Whether what nobody waits for should go, now and later.
    pub fn scarcity(&self) -> watch::Receiver<bool> {
        self.scarce.subscribe()
    }

    /// How many bytes all rings hold.
    pub fn held_bytes(&self) -> u64 {
        self.members().held_bytes()
    }
}

impl Share {
    /// Says that the ring's process has ended: what the ring does not hold, others may.
    pub fn ended(&self) {
        let mut members = self.budget.members();
        if let Some(member) = members.by_key.get_mut(&self.key) {
            member.need_bytes = member.ring.held_bytes();
        }
        self.budget.settle(&mut members);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut members = self.budget.members();
        members.by_key.remove(&self.key);
        self.budget.settle(&mut members);
    }
}

impl Members {
    fn held_bytes(&self) -> u64 {
        self.by_key.values().map(|member| member.ring.held_bytes()).sum()
    }

    /// What each may hold of `total` bytes.
    fn share(&self, total: u64) -> u64 {
        let fits = |share: u64| {
            let needs = self.by_key.values().map(|member| member.need_bytes.min(share));
            needs.sum::<u64>() <= total
        };
        let mut share = RING_CAPACITY_BYTES;
        while share > MIN_RING_BYTES && !fits(share) {
            share /= 2;
        }
        share
    }
}

impl Member {
    fn tell(&self, share: u64) {
        self.ring.set_limit_bytes(share);
        // A writer that has more to do than to remember it.
        if self.ring.held_bytes() > share || self.ring.is_full() {
            // It can only be full of the same word already.
            let _ = rustix::io::write(&*self.room, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::supervisor::RingWriter;

    const MIB: u64 = 1024 * 1024;

    fn join(budget: &Arc<OutputBudget>) -> (RingWriter, Share) {
        let writer = RingWriter::new("test").unwrap();
        let reader = RingReader::new(writer.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let room = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let share = budget.join(Arc::new(reader), Arc::new(room));
        (writer, share)
    }

    #[test]
    fn rings_share_what_there_is_and_never_more() {
        let budget = OutputBudget::new(64 * MIB);
        let mut rings = Vec::new();
        for count in 1..=100 {
            rings.push(join(&budget));
            let room: u64 = rings.iter_mut().map(|(writer, _)| writer.room_bytes(false)).sum();
            assert!(room <= 64 * MIB, "{room} bytes for {count}");
            assert!(room == count * RING_CAPACITY_BYTES || room > 32 * MIB, "{room} bytes for {count}");
            assert!(!*budget.scarcity().borrow(), "{count} rings that hold nothing");
        }
        rings.truncate(4);
        assert!(rings.iter_mut().all(|(writer, _)| writer.room_bytes(false) == RING_CAPACITY_BYTES));
    }

    #[test]
    fn what_has_ended_counts_for_what_it_holds() {
        let budget = OutputBudget::new(32 * MIB);
        let mut rings: Vec<_> = (0..100).map(|_| join(&budget)).collect();
        for (writer, share) in &mut rings[2..] {
            writer.append(b"some output").unwrap();
            writer.close();
            share.ended();
        }
        assert_eq!(rings[0].0.room_bytes(false), RING_CAPACITY_BYTES / 2);
        assert!(!*budget.scarcity().borrow());
        assert_eq!(budget.held_bytes(), 98 * 11);
    }

    #[test]
    fn room_is_scarce_while_rings_hold_more_than_half_of_it() {
        let budget = OutputBudget::new(8 * MIB);
        let (mut writer, share) = join(&budget);
        assert!(writer.room_bytes(false) > 4 * MIB);
        writer.append(&vec![0; 4 * MIB as usize]).unwrap();
        share.ended();
        assert!(!*budget.scarcity().borrow());
        writer.append(b"more than half").unwrap();
        let _another = join(&budget);
        assert!(*budget.scarcity().borrow());
        drop(share);
        assert!(!*budget.scarcity().borrow());
    }

    #[test]
    fn a_ring_of_an_earlier_server_is_told_the_new_share() {
        let (mut writer, share) = join(&OutputBudget::new(MIB));
        assert_eq!(writer.room_bytes(false), MIB);
        drop(share);
        let reader = || Arc::new(RingReader::new(writer.as_fd().try_clone_to_owned().unwrap()).unwrap());
        let room = || Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let budget = OutputBudget::new(64 * MIB);
        let _shares = [budget.join(reader(), room()), budget.join(reader(), room())];
        assert_eq!(writer.room_bytes(false), RING_CAPACITY_BYTES);
    }
}
