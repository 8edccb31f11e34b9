//! What is given out and taken back: subnets of both families, and host ports. Memory only; the records are the truth on disk.
//!
//! Each thing has an owner, the name of the container's host-side link, which no two containers share. What somebody
//! gives back that is another's stays the other's, so that every release may be repeated.

mod ipv6;
mod ports;
pub(super) mod subnet;
mod subnets;

pub use ipv6::{IPV6_PREFIX, Ipv6Pair, Ipv6Pool};
pub use ports::PortPool;
pub use subnet::Subnet;
pub use subnets::{Place, SubnetPool};

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::lru::LruIds;

/// Why a pool did not give out what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the request, by its name on the wire.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// Somebody has this address.
    #[error("network: address {address} of subnet {subnet} is in use")]
    AddressInUse {
        /// The subnet.
        subnet: Subnet,
        /// The address.
        address: Ipv4Addr,
    },
    /// Somebody had this address a moment ago: it is free when the kernel has taken his link apart.
    #[error("network: address {address} of subnet {subnet} is still in use by a container that is gone")]
    Leaving {
        /// The subnet.
        subnet: Subnet,
        /// The address.
        address: Ipv4Addr,
    },
    /// Every address of a shared subnet is in use.
    #[error("network: all {} addresses of subnet {subnet} are in use", subnet.size())]
    SubnetFull {
        /// The subnet.
        subnet: Subnet,
    },
    /// Containers have addresses of another subnet that is not the same, and not apart from it either.
    #[error("network: subnet {subnet} overlaps {other}, which containers have")]
    SubnetOverlaps {
        /// The one that was asked for.
        subnet: Subnet,
        /// The one that containers have.
        other: Subnet,
    },
    /// Somebody has this port.
    #[error("host_port: port {port} is in use")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The host itself has this port.
    #[error("host_port: port {port} is in use on the host")]
    PortInUseOnHost {
        /// The port.
        port: u16,
    },
    /// Somebody has this address.
    #[error("IPv6 address {address} is in use")]
    Ipv6InUse {
        /// The address.
        address: Ipv6Addr,
    },
    /// Every subnet of the IPv6 pool is in use.
    #[error("no free IPv6 subnet: all {capacity} of the pool {pool} are in use")]
    Ipv6Exhausted {
        /// The pool.
        pool: ipnetwork::Ipv6Network,
        /// How many it has.
        capacity: u32,
    },
    /// Every subnet of the pool is in use.
    #[error("no free subnet: all {capacity} of the pool {pool} are in use")]
    SubnetsExhausted {
        /// The pool.
        pool: ipnetwork::Ipv4Network,
        /// How many it has.
        capacity: u32,
    },
    /// Every port of the pool is in use.
    #[error(
        "no free host port: all {size} of the pool, from {first} on, are in use by containers or the host"
    )]
    PortsExhausted {
        /// The first port of the pool.
        first: u16,
        /// How many it has.
        size: u16,
    },
}

/// A setting of the server makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct BadSetting {
    /// The setting, by its name on the command line.
    pub setting: &'static str,
    /// What is wrong with it.
    pub reason: String,
}
