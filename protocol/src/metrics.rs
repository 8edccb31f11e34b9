//! Resource usage of containers.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, Result, backend::collect_entries, json};

/// The answer to `GET /containers/:handle/metrics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Memory.
    #[serde(rename = "MemoryStat")]
    pub memory: MemoryStat,
    /// CPU time.
    #[serde(rename = "CPUStat")]
    pub cpu: CpuStat,
    /// Disk.
    #[serde(rename = "DiskStat")]
    pub disk: DiskStat,
    /// Network; none where it is switched off.
    #[serde(rename = "NetworkStat")]
    pub network: Option<NetworkStat>,
    /// Processes and threads.
    #[serde(rename = "PidStat")]
    pub pid: PidStat,
    /// Time since the container was made.
    #[serde(rename = "Age", with = "json::duration_ns")]
    pub age: Duration,
    /// CPU time in ns that it was entitled to by now.
    #[serde(rename = "CPUEntitlement")]
    pub cpu_entitlement_ns: u64,
}

/// Memory in bytes, by the names of the kernel's `memory.stat`; what a kernel does not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct MemoryStat {
    pub active_anon: u64,
    pub active_file: u64,
    pub cache: u64,
    pub hierarchical_memory_limit: u64,
    pub inactive_anon: u64,
    pub inactive_file: u64,
    pub mapped_file: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub pgpgin: u64,
    pub pgpgout: u64,
    pub rss: u64,
    pub total_active_anon: u64,
    pub total_active_file: u64,
    pub total_cache: u64,
    pub total_inactive_anon: u64,
    pub total_inactive_file: u64,
    pub total_mapped_file: u64,
    pub total_pgfault: u64,
    pub total_pgmajfault: u64,
    pub total_pgpgin: u64,
    pub total_pgpgout: u64,
    pub total_rss: u64,
    pub total_unevictable: u64,
    pub unevictable: u64,
    pub swap: u64,
    pub hierarchical_memsw_limit: u64,
    pub total_swap: u64,
    /// What the limit counts, without inactive file pages.
    #[serde(rename = "TotalUsageTowardLimit")]
    pub total_usage_toward_limit: u64,
    pub anon: u64,
    pub file: u64,
    pub swapcached: u64,
}

/// CPU time in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct CpuStat {
    #[serde(rename = "Usage")]
    pub usage_ns: u64,
    #[serde(rename = "User")]
    pub user_ns: u64,
    #[serde(rename = "System")]
    pub system_ns: u64,
}

/// Disk in bytes and files; exclusive: the container's write layer alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct DiskStat {
    pub total_bytes_used: u64,
    pub total_inodes_used: u64,
    pub exclusive_bytes_used: u64,
    pub exclusive_inodes_used: u64,
}

/// Network in bytes, as the container sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct NetworkStat {
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// Processes and threads; max 0: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct PidStat {
    pub current: u64,
    pub max: u64,
}

/// One entry of a bulk answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MetricsEntry {
    /// The usage, all zero if there was an error.
    pub metrics: Metrics,
    /// Why there are no metrics.
    pub err: Option<ErrorBody>,
}

impl From<Result<Metrics>> for MetricsEntry {
    fn from(result: Result<Metrics>) -> Self {
        match result {
            Ok(metrics) => MetricsEntry { metrics, err: None },
            Err(error) => MetricsEntry { metrics: Metrics::default(), err: Some(error.to_body()) },
        }
    }
}

/// The answer to `GET /containers/bulk_metrics`, by handle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BulkMetrics(pub BTreeMap<String, MetricsEntry>);

impl FromIterator<(String, Result<Metrics>)> for BulkMetrics {
    fn from_iter<I: IntoIterator<Item = (String, Result<Metrics>)>>(entries: I) -> Self {
        BulkMetrics(collect_entries(entries))
    }
}
