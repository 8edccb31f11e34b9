//! Options about TCP in containers.

use clap::{Args, builder::RangedI64ValueParser, value_parser};

/// The longest time, in seconds, that the kernel lets a socket have between probes.
const KEEPALIVE_MAX_SECONDS: i64 = 32_767;
/// As many probes as the kernel lets a socket have.
const PROBES_MAX: i64 = 127;
const RETRIES_MAX: i64 = 255;

/// How patient TCP is in each container. 0 leaves the kernel's default alone, as with gdn.
#[derive(Debug, Args)]
pub(crate) struct Tcp {
    /// Seconds until a container's idle TCP connection is probed, 1 to 32767; 0: the kernel's default.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = at_most(KEEPALIVE_MAX_SECONDS),
          env = "GARDEN_TCP_KEEPALIVE_TIME", global = true, help_heading = "Network")]
    pub(crate) tcp_keepalive_time: u16,
    /// Seconds between those probes, 1 to 32767; 0: the kernel's default.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = at_most(KEEPALIVE_MAX_SECONDS),
          env = "GARDEN_TCP_KEEPALIVE_INTERVAL", global = true, help_heading = "Network")]
    pub(crate) tcp_keepalive_interval: u16,
    /// Unanswered probes after which a connection is lost, 1 to 127; 0: the kernel's default.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = at_most(PROBES_MAX),
          env = "GARDEN_TCP_KEEPALIVE_PROBES", global = true, help_heading = "Network")]
    pub(crate) tcp_keepalive_probes: u16,
    /// Retransmissions after which a container's TCP asks for another route, 1 to 255; 0: the kernel's default.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = at_most(RETRIES_MAX),
          env = "GARDEN_TCP_RETRIES1", global = true, help_heading = "Network")]
    pub(crate) tcp_retries1: u16,
    /// Retransmissions after which a connection is lost, 1 to 255; 0: the kernel's default.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = at_most(RETRIES_MAX),
          env = "GARDEN_TCP_RETRIES2", global = true, help_heading = "Network")]
    pub(crate) tcp_retries2: u16,
}

fn at_most(max: i64) -> RangedI64ValueParser<u16> {
    value_parser!(u16).range(..=max)
}
