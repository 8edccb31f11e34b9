//! How long tests wait for what is certain to come, and how often they try what a hundred times show better than one.

use std::{env, time::Duration};

/// By how much waiting takes longer where everything does, as in an emulated machine.
const FACTOR: &str = "GARDEN_TEST_PATIENCE";

/// So many seconds, or the multiple of them that the environment asks for.
pub fn patience(seconds: u64) -> Duration {
    Duration::from_secs(seconds * factor())
}

/// So many rounds of the same, or as many as fit into the same time where everything takes longer.
pub fn rounds(number: u64) -> u64 {
    number.div_ceil(factor())
}

fn factor() -> u64 {
    let factor = env::var(FACTOR).map_or(1, |factor| factor.parse().expect("GARDEN_TEST_PATIENCE: a number"));
    assert!(factor > 0, "GARDEN_TEST_PATIENCE: a number above 0");
    factor
}
