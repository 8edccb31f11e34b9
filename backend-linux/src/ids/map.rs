//! Which id outside an id inside is.

use serde::{Deserialize, Serialize};

/// `count` ids from `inside` on are the ids from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// How the ids of one container map to the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Those of users.
    pub users: Vec<IdRange>,
    /// Those of groups.
    pub groups: Vec<IdRange>,
}

impl IdMaps {
    /// The host's id of a user inside; none if it has none.
    pub fn user(&self, inside: u32) -> Option<u32> {
        outside(&self.users, inside)
    }

    /// The host's id of a group inside; none if it has none.
    pub fn group(&self, inside: u32) -> Option<u32> {
        outside(&self.groups, inside)
    }
}

fn outside(map: &[IdRange], inside: u32) -> Option<u32> {
    let range = map.iter().find(|range| inside >= range.inside && inside - range.inside < range.count)?;
    range.outside.checked_add(inside - range.inside)
}

/// As the kernel wants it in `/proc/PID/uid_map` and `gid_map`.
pub fn id_map_lines(map: &[IdRange]) -> String {
    map.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

/// The ids inside, for people.
pub fn ids_inside(map: &[IdRange]) -> String {
    let ranges = map.iter().map(|range| match range.count {
        0 | 1 => range.inside.to_string(),
        count => format!("{} to {}", range.inside, range.inside.saturating_add(count - 1)),
    });
    ranges.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_its_range_or_nowhere() {
        let map =
            [IdRange { inside: 0, outside: 90, count: 1 }, IdRange { inside: 5, outside: 1005, count: 10 }];
        let seen: Vec<_> = [0, 1, 4, 5, 14, 15, u32::MAX].map(|id| outside(&map, id)).to_vec();
        assert_eq!(seen, [Some(90), None, None, Some(1005), Some(1014), None, None]);
        assert_eq!(id_map_lines(&map), "0 90 1\n5 1005 10\n");
        assert_eq!(ids_inside(&map), "0, 5 to 14");
    }
}
