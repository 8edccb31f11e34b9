//! How much CPU time a container is entitled to: its shares' part of the host's.

use std::time::Duration;

/// Per cent of one CPU for each share, where shares are given out as memory is: one for each MiB of the host's.
pub fn default_per_share(cpus: usize, memory_bytes: u64) -> f64 {
    let mebibytes = (memory_bytes >> 20).max(1);
    100.0 * cpus as f64 / mebibytes as f64
}

/// What `shares` have been entitled to in `age`, in nanoseconds.
pub fn entitlement_ns(shares: u64, per_share_percent: f64, age: Duration) -> u64 {
    // What is more than the type holds becomes the most that it holds.
    (shares as f64 * per_share_percent / 100.0 * age.as_nanos() as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_of_a_host_are_entitled_to_all_its_cpus() {
        let per_share = default_per_share(4, 8 << 30);
        let second = Duration::from_secs(1);
        assert_eq!(entitlement_ns(8192, per_share, second), 4_000_000_000);
        assert_eq!(entitlement_ns(2048, per_share, second), 1_000_000_000);
        assert_eq!(entitlement_ns(0, per_share, second), 0);
    }

    #[test]
    fn nothing_overflows() {
        assert_eq!(entitlement_ns(u64::MAX, default_per_share(64, 0), Duration::MAX), u64::MAX);
        assert_eq!(entitlement_ns(u64::MAX, 0.0, Duration::MAX), 0);
    }
}
