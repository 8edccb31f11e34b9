//! What containers may reach: the rules of a request, checked, as the firewall takes them.

use std::{net::IpAddr, ops::RangeInclusive};

/// One rule as a firewall has it: everything in it must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub to: Addresses,
    pub what: What,
    /// Whether each connection that this lets through is logged.
    pub log: bool,
}

/// Where a rule's packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// Anywhere, by IPv4 and IPv6.
    All,
    /// Both ends are of one family.
    Range(RangeInclusive<IpAddr>),
}

/// What a rule's packets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    All,
    Tcp(RangeInclusive<u16>),
    Udp(RangeInclusive<u16>),
    /// None: every type, or every code of the type. IPv4 only.
    Icmp(Option<IcmpKind>),
    /// The same of ICMPv6. IPv6 only.
    IcmpV6(Option<IcmpKind>),
}

/// A kind of ICMP messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpKind {
    pub message_type: u8,
    pub code: Option<u8>,
}
