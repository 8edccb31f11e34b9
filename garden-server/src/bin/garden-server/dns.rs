//! Options about names.

use std::net::IpAddr;

use clap::Args;

/// Which name servers and hosts containers know.
#[derive(Debug, Args)]
pub(crate) struct Dns {
    /// A name server for containers instead of the host's (repeatable).
    #[arg(
        long,
        value_name = "IP",
        value_delimiter = ',',
        env = "GARDEN_DNS_SERVER",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) dns_server: Vec<IpAddr>,
    /// A name server for containers besides the host's, or those of --dns-server, and after them (repeatable).
    #[arg(
        long,
        value_name = "IP",
        value_delimiter = ',',
        env = "GARDEN_ADDITIONAL_DNS_SERVER",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) additional_dns_server: Vec<IpAddr>,
    /// A line of the containers' /etc/hosts, as in "10.0.0.7 db.internal db" (repeatable).
    #[arg(
        long,
        value_name = "ENTRY",
        value_delimiter = ',',
        env = "GARDEN_ADDITIONAL_HOST_ENTRY",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) additional_host_entry: Vec<String>,
}
