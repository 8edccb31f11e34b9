//! What can go wrong with a container's network.

use std::io;

use super::{firewall, netlink, pool};

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
}
