//! What a container has of the network, of whichever kind it is.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    Assignment,
    cni::Dns,
    lease,
    plugged::{Plugged, PluggedLease},
};

/// What a container has of the network; kept in its record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Attachment {
    /// A link of our own.
    Own(Assignment),
    /// What plug-ins have made.
    Plugged(Plugged),
}

impl Attachment {
    /// The container's addresses; none before there are any.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Attachment::Own(assignment) => assignment.addresses(),
            Attachment::Plugged(plugged) => plugged.addresses(),
        }
    }

    /// The container's gateway.
    pub fn host_ip(&self) -> Option<IpAddr> {
        match self {
            Attachment::Own(assignment) => Some(assignment.host_ip.into()),
            Attachment::Plugged(plugged) => plugged.gateway(),
        }
    }

    /// What plug-ins say of names.
    pub fn dns(&self) -> Dns {
        match self {
            Attachment::Own(_) => Dns::default(),
            Attachment::Plugged(plugged) => plugged.dns(),
        }
    }

    /// The name of its link, where that is one of our own.
    pub fn link(&self) -> Option<&str> {
        match self {
            Attachment::Own(assignment) => Some(&assignment.host_link),
            Attachment::Plugged(_) => None,
        }
    }

    /// Whether plug-ins make it.
    pub fn is_plugged(&self) -> bool {
        matches!(self, Attachment::Plugged(_))
    }
}

/// Keeps what a container has of the network from others.
#[derive(Debug)]
pub enum Lease {
    /// Of our own network.
    Own(lease::Lease),
    /// Of plug-ins'.
    Plugged(PluggedLease),
}

impl Lease {
    /// What to keep in the container's record, as it was planned.
    pub fn attachment(&self) -> Attachment {
        match self {
            Lease::Own(lease) => Attachment::Own(lease.assignment().clone()),
            Lease::Plugged(lease) => Attachment::Plugged(lease.plugged.clone()),
        }
    }
}
