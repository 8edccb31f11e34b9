use std::{io, path::PathBuf, time::Duration};

/// Why a control group could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup")]
    NoHierarchy,
    #[error(
        "no cgroup can be made: {} cannot be written to; give the server a part of it (under systemd: `Delegate=yes`; in \
         a container: cgroups mounted writable)", listed(.mounts)
    )]
    ReadOnly { mounts: Vec<PathBuf> },
    #[error(
        "cannot enable controllers in {}: processes live in that group itself that cannot be moved; start the server \
         with them in a group below it (under systemd: `Delegate=yes` and `DelegateSubgroup=server`)",
        .group.display()
    )]
    ProcessesInTheWay { group: PathBuf },
    #[error("{option} cannot be had here: {reason}; start the server without it")]
    IoLimit { option: &'static str, reason: String },
    #[error("cannot create the cgroup {}", .group.display())]
    Create { group: PathBuf, source: io::Error },
    #[error("cannot read {}", .file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("cannot make sense of {}: {text:?}", .file.display())]
    Parse { file: PathBuf, text: String },
    #[error("cannot write {value:?} to {}", .file.display())]
    Write { file: PathBuf, value: String, source: io::Error },
    #[error("cannot restrict the devices of the cgroup {}", .group.display())]
    DeviceProgram { group: PathBuf, source: io::Error },
    #[error("cannot kill process {pid} of cgroup {}", .group.display())]
    Kill { group: PathBuf, pid: u32, source: io::Error },
    #[error("cannot remove the cgroup {}", .group.display())]
    Leave { group: PathBuf, source: io::Error },
    #[error(
        "cannot remove {} after {patience:?}: {processes} processes and {} more groups are left",
        .group.display(), .others.len()
    )]
    Remove { group: PathBuf, others: Vec<PathBuf>, processes: usize, patience: Duration, source: io::Error },
}

fn listed(mounts: &[PathBuf]) -> String {
    mounts.iter().map(|mount| mount.display().to_string()).collect::<Vec<_>>().join(", ")
}
