//! How long tests wait for what is certain to come.

use std::{env, time::Duration};

/// By how much waiting takes longer where everything does, as in an emulated machine.
const FACTOR: &str = "GARDEN_TEST_PATIENCE";

/// So many seconds, or the multiple of them that the environment asks for.
pub fn patience(seconds: u64) -> Duration {
    let factor = env::var(FACTOR).map_or(1, |factor| factor.parse().expect("GARDEN_TEST_PATIENCE: a number"));
    Duration::from_secs(seconds * factor)
}
