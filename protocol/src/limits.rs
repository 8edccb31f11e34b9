//! Resource limits. Zero is "no limit" throughout; on the wire it is left out.

use serde::{Deserialize, Serialize};
use serde_repr::{Deserialize_repr, Serialize_repr};

use crate::container::is_default;

/// All limits of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Network bandwidth.
    #[serde(rename = "bandwidth_limits")]
    pub bandwidth: BandwidthLimits,
    /// CPU time.
    #[serde(rename = "cpu_limits")]
    pub cpu: CpuLimits,
    /// Disk space and files.
    #[serde(rename = "disk_limits")]
    pub disk: DiskLimits,
    /// Memory, swap included.
    #[serde(rename = "memory_limits")]
    pub memory: MemoryLimits,
    /// Processes and threads.
    #[serde(rename = "pid_limits")]
    pub pid: PidLimits,
}

/// Network bandwidth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BandwidthLimits {
    /// Bytes in a second.
    #[serde(rename = "rate", skip_serializing_if = "is_default")]
    pub rate_bytes_per_second: u64,
    /// Bytes at once.
    #[serde(rename = "burst", skip_serializing_if = "is_default")]
    pub burst_bytes: u64,
}

/// CPU time, relative to the other containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuLimits {
    /// The newer name of the shares.
    #[serde(skip_serializing_if = "is_default")]
    pub weight: u64,
    /// Shares, as in cgroup v1: 1024 is one ordinary container's.
    #[serde(skip_serializing_if = "is_default")]
    pub limit_in_shares: u64,
}

/// Disk space and number of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskLimits {
    /// Files, warned about.
    #[serde(skip_serializing_if = "is_default")]
    pub inode_soft: u64,
    /// Files, at most.
    #[serde(skip_serializing_if = "is_default")]
    pub inode_hard: u64,
    /// Bytes, warned about.
    #[serde(skip_serializing_if = "is_default")]
    pub byte_soft: u64,
    /// Bytes, at most.
    #[serde(skip_serializing_if = "is_default")]
    pub byte_hard: u64,
    /// What counts.
    #[serde(skip_serializing_if = "is_default")]
    pub scope: DiskLimitScope,
}

/// What a disk limit counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize_repr, Deserialize_repr)]
#[repr(u8)]
pub enum DiskLimitScope {
    /// The image and the write layer.
    #[default]
    Total = 0,
    /// The write layer only.
    Exclusive = 1,
}

/// Memory, swap included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryLimits {
    /// At most this many bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub limit_in_bytes: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidLimits {
    /// At most this many.
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
}
