//! Options about limits of containers.

use clap::Args;

/// What of the host all containers may use, and how their own limits are meant.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Per cent of one CPU that each CPU share entitles a container to [default: from the host's CPUs and memory].
    #[arg(long, value_name = "PERCENT", value_parser = percent, env = "GARDEN_CPU_ENTITLEMENT_PER_SHARE",
          global = true, help_heading = "Limits")]
    pub(crate) cpu_entitlement_per_share: Option<f64>,
    /// Microseconds of CPU time in each tenth of a second that a CPU share is at most; 0: no ceiling.
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 0,
        env = "GARDEN_CPU_QUOTA_PER_SHARE",
        global = true,
        help_heading = "Limits"
    )]
    pub(crate) cpu_quota_per_share: u64,
    /// A container's memory limit does not count what is in swap.
    #[arg(long, env = "GARDEN_DISABLE_SWAP_LIMIT", global = true, help_heading = "Limits")]
    pub(crate) disable_swap_limit: bool,
    /// A container's part of the disk while others want it too, 10 to 1000; 0: the kernel's default.
    #[arg(long, value_name = "WEIGHT", default_value_t = 0, value_parser = weight,
          env = "GARDEN_DEFAULT_CONTAINER_BLOCKIO_WEIGHT", global = true, help_heading = "Limits")]
    pub(crate) default_container_blockio_weight: u64,
    /// Bytes that a container reads from the disk of --store in a second at most; 0: as many as it can.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        env = "GARDEN_CONTAINER_IO_MAX_READ_BPS",
        global = true,
        help_heading = "Limits"
    )]
    pub(crate) container_io_max_read_bps: u64,
    /// Bytes that a container writes to the disk of --store in a second at most; 0: as many as it can.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        env = "GARDEN_CONTAINER_IO_MAX_WRITE_BPS",
        global = true,
        help_heading = "Limits"
    )]
    pub(crate) container_io_max_write_bps: u64,
    /// How often a container reads from the disk of --store in a second at most; 0: as often as it can.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "GARDEN_CONTAINER_IO_MAX_READ_IOPS",
        global = true,
        help_heading = "Limits"
    )]
    pub(crate) container_io_max_read_iops: u64,
    /// How often a container writes to the disk of --store in a second at most; 0: as often as it can.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "GARDEN_CONTAINER_IO_MAX_WRITE_IOPS",
        global = true,
        help_heading = "Limits"
    )]
    pub(crate) container_io_max_write_iops: u64,
}

fn weight(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(weight @ (0 | 10..=1000)) => Ok(weight),
        _ => Err("it is a number from 10 to 1000, or 0".to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if percent.is_finite() && percent >= 0.0 => Ok(percent),
        _ => Err("it is a number from 0 on, such as 0.05".to_owned()),
    }
}
