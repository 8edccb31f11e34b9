//! The packet filter and address translation: one seam, two implementations.
//!
//! What does not depend on one container is set up once, by [`Firewall::install`]. What one container adds is data, a
//! [`Change`]; those that wait at the same moment are made [together](turns).

mod choose;
pub mod iptables;
pub mod nftables;
pub mod turns;

use std::fmt::Debug;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use protocol::NetIn;

pub use choose::{check, choose, every_kind, remove_others};
pub use iptables::ToolError;

use super::{lease::Assignment, netlink, outbound::Rule};

/// What the fixed chains depend on.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Where the containers' addresses come from.
    pub pool: Ipv4Network,
    /// The same of IPv6; none: containers have none.
    pub pool_ipv6: Option<Ipv6Network>,
    /// Whether containers may reach the host.
    pub allow_host_access: bool,
    /// Where containers must not go, unless a rule of theirs lets them.
    pub denied: Vec<IpNetwork>,
    /// Whether what comes from a link must have its container's address.
    pub check_sources: bool,
    /// The beginning of every host-side link's name, and of no other link's.
    pub link_prefix: String,
    /// Whether the kernel has IPv6, which is to be closed where there is no pool of it.
    pub ipv6: bool,
}

/// What a container may reach besides what all may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbound {
    /// What the log's lines of its rules begin with.
    pub log_prefix: String,
    /// In their order: the last one that matches counts.
    pub rules: Vec<Rule>,
}

/// One container's part of the firewall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub assignment: Assignment,
    /// Host ports that lead to it.
    pub ports: Vec<NetIn>,
    pub outbound: Outbound,
}

/// A change of one container's part. Made twice it has the effect of once, but for [`Change::Open`]'s rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its packets are let in, from its own link and addresses.
    Admit(Assignment),
    /// Ports are mapped to it, and rules are added after those that it has.
    Open(Member),
    /// Ports are mapped no more.
    Close { assignment: Assignment, ports: Vec<NetIn> },
    /// These are its rules, and no others.
    Replace { assignment: Assignment, outbound: Outbound },
    /// Nothing is left of it that a packet could meet. Its name is not used again.
    Expel { assignment: Assignment, ports: Vec<NetIn> },
}

impl Change {
    /// Whose part it changes.
    pub fn assignment(&self) -> &Assignment {
        match self {
            Change::Open(member) => &member.assignment,
            Change::Admit(assignment)
            | Change::Close { assignment, .. }
            | Change::Replace { assignment, .. }
            | Change::Expel { assignment, .. } => assignment,
        }
    }
}

/// Why the firewall is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a batch of nftables.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// Somebody deleted our table, or part of it.
    #[error("the table {table} is not as this server made it: restart the server, which sets it up again")]
    Gone {
        /// Its name.
        table: String,
        /// The step, and the kernel's reason.
        source: netlink::Error,
    },
    /// A container's outbound rules are more than this firewall can take.
    #[error(
        "the outbound rules would be more than {lines} lines of iptables, which knows no ranges of addresses: use \
         ranges that are networks, or nftables"
    )]
    TooManyLines {
        /// At most.
        lines: usize,
    },
    /// A program of iptables did not do its work.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Another change had just failed for a reason that has nothing to do with it.
    #[error("not tried, since the change before it failed for want of the firewall itself")]
    NotTried,
    /// Whichever would do was wanted, and none does.
    #[error("neither nftables ({nftables}) nor iptables can be used")]
    Neither {
        /// Why not.
        nftables: Box<Error>,
        /// Why not.
        #[source]
        iptables: Box<Error>,
    },
}

impl Error {
    /// Whether any other change would fail now, too, and take its time.
    fn is_of_any_change(&self) -> bool {
        let Error::Tool(error) = self else { return false };
        matches!(error, ToolError::Missing { .. } | ToolError::Locked { .. } | ToolError::Hung { .. })
    }
}

/// One server's tables or chains on this host. Calls wait for the kernel, or for a program.
pub trait Firewall: Debug + Send {
    /// Sets up the fixed chains, or replaces what an earlier server left of them. The containers' parts stay, so that
    /// no packet sees a moment without them.
    fn install(&mut self, policy: &Policy) -> Result<(), Error>;

    /// Makes all of these changes, in their order, or none.
    fn apply(&mut self, changes: &[Change]) -> Result<(), Error>;

    /// Makes these the only containers that the firewall knows: what stays is never missing.
    fn replace_all(&mut self, members: &[Member]) -> Result<(), Error>;

    /// Removes all of ours, even what an earlier crash left. Nothing happens where there is nothing.
    fn uninstall(&mut self) -> Result<(), Error>;

    /// Whether the host has anything of another server of this kind.
    fn has_siblings(&mut self) -> Result<bool, Error>;
}
