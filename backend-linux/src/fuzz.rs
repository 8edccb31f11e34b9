//! Fuzz targets: what kernel, images, supervisors and the disk give us to read, and what must hold whatever it is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use crate::{cgroup, container::Record, network, rootfs, supervisor};

/// A target's name, its function, and where it has seeds besides its own: see `tests/fuzz/seeds.rs`.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// The targets.
pub const TARGETS: &[Target] = &[
    ("packet", supervisor::fuzz::packet, &[]),
    ("ring", supervisor::fuzz::ring, &[]),
    ("tar", rootfs::untar::fuzz::read, &["fuzz/unpack/"]),
    ("unpack", rootfs::untar::fuzz::unpack, &[]),
    ("gunzip", rootfs::fuzz::gunzip, &[]),
    ("busybox", rootfs::fuzz::busybox, &[]),
    ("image-uri", rootfs::fuzz::uri, &[]),
    ("cgroup", cgroup::fuzz::texts, &[]),
    ("netlink", network::fuzz::datagram, &[]),
    ("subnet", network::fuzz::subnet, &[]),
    ("record", record, &[]),
];

/// A container's record on disk.
fn record(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let json = serde_json::to_string(&record).expect("what was read can be written");
    let again: Record = serde_json::from_str(&json).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("JSON"), json);
    assert_eq!(
        (again.handle, again.state, again.created_at),
        (record.handle, record.state, record.created_at)
    );
}

#[cfg(test)]
#[path = "../../tests/fuzz/brief.rs"]
mod brief;

#[test]
fn no_seed_and_no_mutation_breaks_a_promise() {
    brief::run(TARGETS, 1_000);
}
