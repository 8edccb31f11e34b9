//! Limits to files, and back: pure.

use protocol::Limits;

use super::IoLimits;

/// The kernel's bounds for `cpu.shares`.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// What a group has that nobody set: `cpu.shares` and `cpu.weight`.
const DEFAULT_SHARES: u64 = 1024;
const DEFAULT_WEIGHT: u64 = 100;
/// `PID_MAX_LIMIT`: the kernel refuses a larger `pids.max`, and there are never more processes.
const PIDS_MAX: u64 = 4_194_304;

/// One value for one file of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub controller: &'static str,
    pub file: &'static str,
    pub value: String,
    /// Whether a kernel without that file is all right: swap accounting can be switched off.
    pub optional: bool,
}

impl Setting {
    pub(super) fn new(controller: &'static str, file: &'static str, value: impl ToString) -> Self {
        Setting { controller, file, value: value.to_string(), optional: false }
    }

    fn optional(self) -> Self {
        Setting { optional: true, ..self }
    }
}

/// How the limits of all containers are meant: the operator's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitPolicy {
    /// Memory in swap does not count.
    pub swap_is_free: bool,
    /// How many microseconds of CPU time in each tenth of a second a share is at most; 0: no ceiling.
    pub cpu_quota_per_share_us: u64,
    /// What each container may do with the disk.
    pub io: IoLimits,
}

/// The period of a ceiling on CPU time, and the least that the kernel takes for one.
const QUOTA_PERIOD_US: u64 = 100_000;
const QUOTA_MIN_US: u64 = 1_000;

impl LimitPolicy {
    /// The ceiling in each period; none without shares to compute it from.
    fn quota_us(&self, limits: &Limits) -> Option<u64> {
        let shares = shares(limits).filter(|_| self.cpu_quota_per_share_us > 0)?;
        // The kernel takes no more than 2^44 microseconds.
        Some(shares.saturating_mul(self.cpu_quota_per_share_us).clamp(QUOTA_MIN_US, 1 << 44))
    }
}

/// What to write on v1, in this order: memory with swap may never be below memory alone.
pub(super) fn v1(limits: &Limits, policy: &LimitPolicy) -> Vec<Setting> {
    let mut settings = Vec::new();
    let memory = limits.memory.limit_in_bytes;
    if memory > 0 {
        settings.push(Setting::new("memory", "memory.limit_in_bytes", memory));
        if !policy.swap_is_free {
            settings.push(Setting::new("memory", "memory.memsw.limit_in_bytes", memory).optional());
        }
    }
    if let Some(shares) = shares(limits) {
        settings.push(Setting::new("cpu", "cpu.shares", shares));
    }
    if let Some(quota) = policy.quota_us(limits) {
        settings.push(Setting::new("cpu", "cpu.cfs_period_us", QUOTA_PERIOD_US));
        settings.push(Setting::new("cpu", "cpu.cfs_quota_us", quota));
    }
    settings.extend(pids(limits));
    settings
}

/// What to write on v2, in this order: no swap before there is a limit that swap would soften.
pub(super) fn v2(limits: &Limits, policy: &LimitPolicy) -> Vec<Setting> {
    let mut settings = Vec::new();
    let memory = limits.memory.limit_in_bytes;
    if memory > 0 {
        if !policy.swap_is_free {
            settings.push(Setting::new("memory", "memory.swap.max", 0).optional());
        }
        settings.push(Setting::new("memory", "memory.max", memory));
    }
    if let Some(shares) = shares(limits) {
        settings.push(Setting::new("cpu", "cpu.weight", weight_from_shares(shares)));
    }
    if let Some(quota) = policy.quota_us(limits) {
        settings.push(Setting::new("cpu", "cpu.max", format!("{quota} {QUOTA_PERIOD_US}")));
    }
    settings.extend(pids(limits));
    settings
}

fn pids(limits: &Limits) -> Option<Setting> {
    match limits.pid.max {
        0 => None,
        max if max > PIDS_MAX => Some(Setting::new("pids", "pids.max", "max")),
        max => Some(Setting::new("pids", "pids.max", max)),
    }
}

/// The shares asked for, within the kernel's bounds; the newer name wins.
fn shares(limits: &Limits) -> Option<u64> {
    let asked = if limits.cpu.weight > 0 { limits.cpu.weight } else { limits.cpu.limit_in_shares };
    (asked > 0).then(|| asked.clamp(*SHARES.start(), *SHARES.end()))
}

/// `cpu.shares` (2 to 262144) to `cpu.weight` (1 to 10000) by the line through both ends, as other runtimes do, so
/// that containers of different runtimes on one host keep their proportions. 1024 becomes 39, not the default 100.
pub(super) fn weight_from_shares(shares: u64) -> u64 {
    1 + (shares.clamp(*SHARES.start(), *SHARES.end()) - 2) * 9_999 / 262_142
}

/// The least shares that become this weight.
fn shares_from_weight(weight: u64) -> u64 {
    2 + ((weight.clamp(1, 10_000) - 1) * 262_142).div_ceil(9_999)
}

/// Values read back from the kernel; none: the controller is missing, or says "no limit".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub memory_bytes: Option<u64>,
    pub shares: Option<u64>,
    pub weight: Option<u64>,
    pub pids: Option<u64>,
}

/// What to report as applied: what the kernel holds. Where that is exactly what `asked` becomes (a weight stands for
/// several shares), it is reported in the words of `asked`.
pub(super) fn applied(asked: &Limits, found: Found) -> Limits {
    let mut applied = *asked;
    applied.memory.limit_in_bytes = found.memory_bytes.unwrap_or(0);
    applied.pid.max = match found.pids {
        Some(max) => max,
        None if asked.pid.max > PIDS_MAX => asked.pid.max,
        None => 0,
    };
    let asked_shares = shares(asked);
    let as_asked = match found {
        Found { shares: Some(shares), .. } => shares == asked_shares.unwrap_or(DEFAULT_SHARES),
        Found { weight: Some(weight), .. } => {
            weight == asked_shares.map_or(DEFAULT_WEIGHT, weight_from_shares)
        }
        Found { shares: None, weight: None, .. } => false,
    };
    if !as_asked {
        let shares = found.shares.or(found.weight.map(shares_from_weight)).unwrap_or(0);
        let newer_name = asked.cpu.weight > 0;
        applied.cpu.weight = if newer_name { shares } else { 0 };
        applied.cpu.limit_in_shares = if newer_name { 0 } else { shares };
    }
    applied
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::{CpuLimits, MemoryLimits, PidLimits};

    fn limits(memory: u64, shares: u64, pids: u64) -> Limits {
        Limits {
            memory: MemoryLimits { limit_in_bytes: memory },
            cpu: CpuLimits { limit_in_shares: shares, weight: 0 },
            pid: PidLimits { max: pids },
            ..Limits::default()
        }
    }

    fn v1(limits: &Limits) -> Vec<Setting> {
        super::v1(limits, &LimitPolicy::default())
    }

    fn v2(limits: &Limits) -> Vec<Setting> {
        super::v2(limits, &LimitPolicy::default())
    }

    fn written(settings: Vec<Setting>) -> Vec<(&'static str, String)> {
        settings.into_iter().map(|setting| (setting.file, setting.value)).collect()
    }

    #[test]
    fn no_limits_write_nothing() {
        assert_eq!(v1(&Limits::default()), []);
        assert_eq!(v2(&Limits::default()), []);
    }

    #[test]
    fn v1_sets_memory_before_memory_with_swap() {
        let expected = [
            ("memory.limit_in_bytes", "1048576"),
            ("memory.memsw.limit_in_bytes", "1048576"),
            ("cpu.shares", "512"),
            ("pids.max", "64"),
        ];
        let expected: Vec<_> = expected.map(|(file, value)| (file, value.to_owned())).into();
        assert_eq!(written(v1(&limits(1 << 20, 512, 64))), expected);
    }

    #[test]
    fn v2_takes_swap_away_and_converts_shares() {
        let expected =
            [("memory.swap.max", "0"), ("memory.max", "1048576"), ("cpu.weight", "39"), ("pids.max", "64")];
        let expected: Vec<_> = expected.map(|(file, value)| (file, value.to_owned())).into();
        assert_eq!(written(v2(&limits(1 << 20, 1024, 64))), expected);
    }

    #[test]
    fn swap_can_be_free() {
        let policy = LimitPolicy { swap_is_free: true, ..LimitPolicy::default() };
        let limits = limits(1 << 20, 0, 0);
        let memory = "1048576".to_owned();
        assert_eq!(written(super::v1(&limits, &policy)), [("memory.limit_in_bytes", memory.clone())]);
        assert_eq!(written(super::v2(&limits, &policy)), [("memory.max", memory)]);
    }

    #[test]
    fn shares_can_have_a_ceiling() {
        let policy = LimitPolicy { cpu_quota_per_share_us: 10, ..LimitPolicy::default() };
        let both = |shares| {
            let limits = limits(0, shares, 0);
            let last = |settings: Vec<Setting>| settings.last().map(|setting| setting.value.clone());
            (last(super::v1(&limits, &policy)), last(super::v2(&limits, &policy)))
        };
        assert_eq!(both(1024), (Some("10240".to_owned()), Some("10240 100000".to_owned())));
        assert_eq!(both(2), (Some("1000".to_owned()), Some("1000 100000".to_owned())), "the kernel's least");
        assert_eq!(both(0), (None, None), "nothing to compute it from");
    }

    #[test]
    fn weight_is_the_newer_name_and_wins() {
        let mut limits = limits(0, 100, 0);
        limits.cpu.weight = 300;
        assert_eq!(written(v1(&limits)), [("cpu.shares", "300".to_owned())]);
    }

    #[test]
    fn a_pids_limit_that_cannot_be_reached_is_no_limit() {
        assert_eq!(written(v1(&limits(0, 0, u64::MAX))), [("pids.max", "max".to_owned())]);
        assert_eq!(applied(&limits(0, 0, u64::MAX), Found::default()).pid.max, u64::MAX);
    }

    #[test]
    fn nothing_asked_and_the_kernels_defaults_found_is_no_limit() {
        let v1 = Found { shares: Some(1024), ..Found::default() };
        let v2 = Found { weight: Some(100), ..Found::default() };
        assert_eq!(applied(&Limits::default(), v1), Limits::default());
        assert_eq!(applied(&Limits::default(), v2), Limits::default());
    }

    #[test]
    fn a_limit_that_somebody_else_set_is_reported() {
        let found = Found { memory_bytes: Some(4096), shares: Some(7), pids: Some(3), ..Found::default() };
        assert_eq!(applied(&limits(1, 1024, 9), found), limits(4096, 7, 3));
    }

    #[test]
    fn a_missing_controller_is_reported_as_no_limit() {
        assert_eq!(applied(&limits(4096, 512, 64), Found::default()), Limits::default());
    }

    proptest! {
        #[test]
        fn every_weight_is_valid_and_monotonic(a: u64, b: u64) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!((1..=10_000).contains(&weight_from_shares(low)));
            prop_assert!(weight_from_shares(low) <= weight_from_shares(high));
        }

        #[test]
        fn every_weight_has_shares_that_become_it(weight in 1_u64..=10_000) {
            prop_assert_eq!(weight_from_shares(shares_from_weight(weight)), weight);
        }

        #[test]
        fn a_cpu_limit_found_as_written_is_reported_as_asked(asked_shares: u64, asked_weight: u64) {
            let mut asked = limits(0, asked_shares, 0);
            asked.cpu.weight = asked_weight;
            let clamped = shares(&asked);
            let on_v1 = Found { shares: clamped.or(Some(1024)), ..Found::default() };
            let on_v2 = Found { weight: clamped.map(weight_from_shares).or(Some(100)), ..Found::default() };
            prop_assert_eq!(applied(&asked, on_v1), asked);
            prop_assert_eq!(applied(&asked, on_v2), asked);
        }
    }
}
