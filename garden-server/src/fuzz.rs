//! Fuzz targets: what arrives on a connection, and what must hold whatever it is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use crate::payload;

/// A target's name, its function, and where it has seeds besides its own: see `tests/fuzz/seeds.rs`.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// The targets.
pub const TARGETS: &[Target] = &[("payload", payload::fuzz::stream, &["wire/golden/stream-"])];

#[cfg(test)]
#[path = "../../tests/fuzz/brief.rs"]
mod brief;

#[test]
fn no_seed_and_no_mutation_breaks_a_promise() {
    brief::run(TARGETS, 2_000);
}
