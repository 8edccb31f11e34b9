//! What is given out and taken back: subnets and host ports. Memory only; the records are the truth on disk.
//!
//! Each thing has an owner, the name of the container's host-side link, which no two containers share. What somebody
//! gives back that is another's stays the other's, so that every release may be repeated.

mod ports;
pub(super) mod subnets;

pub use ports::PortPool;
pub use subnets::{PREFIX, Subnet, SubnetPool};

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
    /// Somebody has this subnet, or had it a moment ago.
    #[error("network: subnet {subnet} is in use")]
    SubnetInUse {
        /// The subnet.
        subnet: Subnet,
    },
    /// Somebody has this port.
    #[error("host_port: port {port} is in use")]
    PortInUse {
        /// The port.
        port: u16,
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
    #[error("no free host port: all {size} of the pool, from {first} on, are in use")]
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
