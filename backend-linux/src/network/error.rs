//! What can go wrong with a container's network.

use std::io;

use super::{
    cni::{ConfigError, PluginError},
    firewall, netlink, pool,
};

/// Why the network did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be had; the client's affair.
    #[error(transparent)]
    Pool(#[from] pool::Error),
    /// A setting makes no sense.
    #[error(transparent)]
    Setting(#[from] pool::BadSetting),
    /// The kernel refused a step that makes or removes a container's link.
    #[error("network link {link}")]
    Link {
        /// The host's end, as in the container's record.
        link: String,
        /// The step, and the kernel's reason.
        source: netlink::Error,
    },
    /// There was no change of the firewall.
    #[error("firewall, {what}")]
    Firewall {
        /// For which container, or what of the server's own.
        what: String,
        /// The step, and the reason.
        source: firewall::Error,
    },
    /// The kernel could not be asked for links and routes.
    #[error("{what}")]
    Netlink {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: netlink::Error,
    },
    /// The way out of the host could not be found.
    #[error("find the host's way out")]
    Egress {
        /// The kernel's reason.
        source: rtnetlink::Error,
    },
    /// A step of a create came after the container's release, which it must not outlive.
    #[error("network link {link} was released meanwhile")]
    Released {
        /// The host's end, as in the container's record.
        link: String,
    },
    /// The kernel cannot limit bandwidth.
    #[error("limits.bandwidth_limits: this kernel has no token buckets (sch_tbf)")]
    NoTokenBucket,
    /// Something outside of netlink failed.
    #[error("{what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The thread that talks to the kernel ended without an answer; the server is about to end, or has a bug.
    #[error("the network's worker ended before its work was done")]
    WorkerLost,
    /// The file that names the plug-ins makes no sense.
    #[error(transparent)]
    Cni(#[from] ConfigError),
    /// A plug-in did not do its part.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// Plug-ins could not take a container off the network.
    #[error("{}", list(.causes))]
    Plugins {
        /// One for each that could not.
        causes: Vec<PluginError>,
    },
    /// The plug-ins have all done their parts.
    #[error("the CNI plug-ins of network {network:?} gave the container no address")]
    NoAddress {
        /// The network's name.
        network: String,
    },
    /// The container is gone, or going.
    #[error("the network namespace of the container that CNI plug-ins know as {id} is gone")]
    NoNamespace {
        /// The container, as in its record.
        id: String,
    },
    /// A container of an earlier server's cannot go on.
    #[error(
        "its network was made the other way: this server was started with --cni-config and that one without, or that one with it"
    )]
    OtherKind,
}

fn list(causes: &[PluginError]) -> String {
    let texts = causes.iter().map(|cause| protocol::Error::failed(cause).to_string());
    texts.collect::<Vec<_>>().join("; ")
}
