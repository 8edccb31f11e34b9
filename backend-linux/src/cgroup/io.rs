//! What each container may do with the disk that write layers are on: the operator's choice, the same for all.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Cgroups, Error, Place, Result, settings::Setting};

/// Limits of a container, and of each process that has limits of its own, in the use of the disk; 0: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// Its part of the disk while others want it too: 10 to 1000.
    pub weight: u64,
    /// Bytes that it reads in a second at most.
    pub read_bytes_per_second: u64,
    /// Bytes that it writes in a second at most.
    pub write_bytes_per_second: u64,
    /// How often it reads in a second at most.
    pub reads_per_second: u64,
    /// How often it writes in a second at most.
    pub writes_per_second: u64,
}

/// Files of a group for a weight, by what the kernel may have: of the scheduler of all disks, else of BFQ alone.
const V1_WEIGHTS: [&str; 2] = ["blkio.weight", "blkio.bfq.weight"];
const V2_WEIGHTS: [&str; 2] = ["io.weight", "io.bfq.weight"];

impl IoLimits {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.weight > 0 || self.rates().iter().any(|rate| rate.value > 0)
    }

    fn rates(&self) -> [Rate; 4] {
        let rate = |option, v1_file, v2_key, value| Rate { option, v1_file, v2_key, value };
        [
            rate(
                "--container-io-max-read-bps",
                "blkio.throttle.read_bps_device",
                "rbps",
                self.read_bytes_per_second,
            ),
            rate(
                "--container-io-max-write-bps",
                "blkio.throttle.write_bps_device",
                "wbps",
                self.write_bytes_per_second,
            ),
            rate(
                "--container-io-max-read-iops",
                "blkio.throttle.read_iops_device",
                "riops",
                self.reads_per_second,
            ),
            rate(
                "--container-io-max-write-iops",
                "blkio.throttle.write_iops_device",
                "wiops",
                self.writes_per_second,
            ),
        ]
    }

    /// What to write for each container whose write layer is on the disk that `store` is on.
    pub(super) fn settings(&self, cgroups: &Cgroups, store: &Path) -> Result<Vec<Setting>> {
        let mut settings = Vec::new();
        let place = cgroups.place("blkio").or_else(|| cgroups.place("io"));
        if self.weight > 0 {
            settings.push(weight(self.weight, place)?);
        }
        for rate in self.rates().into_iter().filter(|rate| rate.value > 0) {
            let Some(disk) = disk_of(store) else {
                let reason = format!("{} is on no disk of its own", store.display());
                return Err(Error::IoLimit { option: rate.option, reason });
            };
            let setting = match place {
                Some(Place::V1(_)) => Setting::new("blkio", rate.v1_file, format!("{disk} {}", rate.value)),
                _ => Setting::new("io", "io.max", format!("{disk} {}={}", rate.v2_key, rate.value)),
            };
            settings.push(there(place, rate.option, setting)?);
        }
        Ok(settings)
    }
}

/// One of the limits.
struct Rate {
    option: &'static str,
    v1_file: &'static str,
    v2_key: &'static str,
    value: u64,
}

fn weight(weight: u64, place: Option<Place<'_>>) -> Result<Setting> {
    let option = "--default-container-blockio-weight";
    let [all, bfq] = match place {
        Some(Place::V1(_)) => V1_WEIGHTS.map(|file| Setting::new("blkio", file, weight)),
        _ => V2_WEIGHTS.map(|file| match file {
            "io.weight" => Setting::new("io", file, v2_weight(weight)),
            file => Setting::new("io", file, weight),
        }),
    };
    there(place, option, all).or_else(|_| there(place, option, bfq))
}

/// 10 to 1000 as 1 to 10000, by the line through both ends, as other runtimes do.
fn v2_weight(weight: u64) -> u64 {
    1 + weight.saturating_sub(10) * 9_999 / 990
}

/// The setting, if groups have its file here.
fn there(place: Option<Place<'_>>, option: &'static str, setting: Setting) -> Result<Setting> {
    let Some(Place::V1(base) | Place::V2(base)) = place else {
        let reason = "there is no controller for it: neither blkio (version 1) nor io (version 2)".to_owned();
        return Err(Error::IoLimit { option, reason });
    };
    match base.join(setting.file).exists() {
        true => Ok(setting),
        false => Err(Error::IoLimit { option, reason: format!("this kernel has no {}", setting.file) }),
    }
}

/// The whole disk that a directory is on, or will be, as `MAJOR:MINOR`; none for file systems that are on no disk, or
/// several.
fn disk_of(directory: &Path) -> Option<String> {
    let device = directory.ancestors().find_map(|there| fs::metadata(there).ok())?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let part: PathBuf = fs::canonicalize(Path::new("/sys/dev/block").join(number)).ok()?;
    let disk = if part.join("partition").exists() { part.parent()? } else { &part };
    Some(fs::read_to_string(disk.join("dev")).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_weights_of_both_versions_are_the_same() {
        assert_eq!([10, 500, 1000].map(v2_weight), [1, 4950, 10_000]);
    }

    #[test]
    fn what_is_on_no_disk_has_none() {
        assert_eq!(disk_of(Path::new("/proc")), None);
        assert_eq!(disk_of(Path::new("/proc/nowhere")), None);
    }
}
