//! Rules that have neither their addresses nor their ports in common, in one set of both.

use std::ops::RangeInclusive;

use super::{
    expr::{TCP, UDP},
    groups::{Group, Kind, Ranges},
};

/// How many go into one set: looking for those that overlap takes the square of it.
const SPOTS_MAX: usize = 512;

/// One range of addresses and one of ports, of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    pub protocol: u8,
    pub to: RangeInclusive<u128>,
    pub ports: RangeInclusive<u128>,
}

impl Spot {
    /// None: it is more than one spot, or has no ports at all.
    fn of(group: &Group, address_max: u128) -> Option<Spot> {
        let protocol = match group.kind {
            Kind::Tcp => TCP,
            Kind::Udp => UDP,
            Kind::All | Kind::Icmp(_) => return None,
        };
        let one = |ranges: &Ranges, max| match ranges.as_deref() {
            None => Some(0..=max),
            Some([range]) => Some(range.clone()),
            Some(_) => None,
        };
        Some(Spot { protocol, to: one(&group.to, address_max)?, ports: one(&group.ports, u16::MAX.into())? })
    }

    /// Whether a packet could match both.
    pub fn overlaps(&self, other: &Spot) -> bool {
        let both = |one: &RangeInclusive<u128>, other: &RangeInclusive<u128>| {
            one.start() <= other.end() && other.start() <= one.end()
        };
        self.protocol == other.protocol && both(&self.to, &other.to) && both(&self.ports, &other.ports)
    }
}

/// Takes the spots out of `groups`, in sets in which none overlaps another: the kernel's sets cannot have those. A spot
/// that would be alone in its set stays a group.
pub fn take(groups: &mut Vec<Group>, address_max: u128) -> Vec<Vec<Spot>> {
    let mut found: Vec<(Spot, Group)> = Vec::new();
    groups.retain(|group| match Spot::of(group, address_max) {
        Some(spot) => {
            found.push((spot, group.clone()));
            false
        }
        None => true,
    });
    found.sort_by_key(|(spot, _)| (*spot.to.start(), *spot.ports.start()));
    let mut sets: Vec<Vec<(Spot, Group)>> = Vec::new();
    for (spot, group) in found {
        let has_room = |set: &&mut Vec<(Spot, Group)>| {
            set.len() < SPOTS_MAX && !set.iter().any(|(other, _)| other.overlaps(&spot))
        };
        match sets.last_mut().filter(has_room) {
            Some(set) => set.push((spot, group)),
            None => sets.push(vec![(spot, group)]),
        }
    }
    let (alone, together): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| set.len() == 1);
    groups.extend(alone.into_iter().flatten().map(|(_, group)| group));
    together.into_iter().map(|set| set.into_iter().map(|(spot, _)| spot).collect()).collect()
}
