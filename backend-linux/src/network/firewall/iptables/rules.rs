//! Outbound rules as lines of a container's chain.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use super::text::Family;
use crate::network::outbound::{Addresses, IcmpKind, Rule, What};

/// As much as the kernel takes, less the space that follows.
const LOG_PREFIX_MAX_BYTES: usize = 28;

/// What a rule is in the chain of a container, in the lines' order; nothing where no packet of the family can match.
/// What matches passes.
pub fn lines(family: Family, rule: &Rule, log_prefix: &str) -> Vec<String> {
    let Some(what) = what(family, &rule.what) else { return Vec::new() };
    let networks = match &rule.to {
        Addresses::All => vec![String::new()],
        Addresses::Range(range) if !family.has(*range.start()) => Vec::new(),
        Addresses::Range(range) => {
            networks(range).into_iter().map(|network| format!("--ctorigdst {network}")).collect()
        }
    };
    let mut lines = Vec::new();
    for to in networks {
        let connection = [to.as_str(), &what.ports].into_iter().filter(|part| !part.is_empty());
        let connection = connection.collect::<Vec<_>>().join(" ");
        let connection =
            if connection.is_empty() { String::new() } else { format!("-m conntrack {connection} ") };
        let matches = format!("{}{connection}", what.protocol);
        if rule.log {
            lines.push(format!("{matches}-j LOG --log-prefix \"{} \"", quoted(log_prefix)));
        }
        lines.push(format!("{matches}-j RETURN"));
    }
    lines
}

/// Conditions, each with a space behind it.
struct Matches {
    protocol: String,
    /// Of the connection's first packet as its sender made it.
    ports: String,
}

fn what(family: Family, what: &What) -> Option<Matches> {
    let ports = |range: &RangeInclusive<u16>| match range {
        range if range == &(0..=u16::MAX) => String::new(),
        range if range.start() == range.end() => format!("--ctorigdstport {}", range.start()),
        range => format!("--ctorigdstport {}:{}", range.start(), range.end()),
    };
    let matches = |protocol: String, ports: String| Some(Matches { protocol, ports });
    match (what, family) {
        (What::All, _) => matches(String::new(), String::new()),
        (What::Tcp(range), _) => matches("-p tcp ".to_owned(), ports(range)),
        (What::Udp(range), _) => matches("-p udp ".to_owned(), ports(range)),
        (What::Icmp(kind), Family::V4) => matches(icmp(*kind), String::new()),
        (What::IcmpV6(kind), Family::V6) => matches(icmp_v6(*kind), String::new()),
        (What::Icmp(_), Family::V6) | (What::IcmpV6(_), Family::V4) => None,
    }
}

fn icmp(kind: Option<IcmpKind>) -> String {
    match kind {
        None => "-p icmp ".to_owned(),
        // The match for types takes this one for all of them: so its bytes are looked at, behind the IP header.
        Some(IcmpKind { message_type: u8::MAX, code: None }) => {
            "-p icmp -m u32 --u32 \"0>>22&0x3C@0>>24=0xff\" ".to_owned()
        }
        Some(IcmpKind { message_type: u8::MAX, code: Some(code) }) => {
            format!("-p icmp -m u32 --u32 \"0>>22&0x3C@0>>16=0xff{code:02x}\" ")
        }
        Some(IcmpKind { message_type, code: None }) => {
            format!("-p icmp -m icmp --icmp-type {message_type} ")
        }
        Some(IcmpKind { message_type, code: Some(code) }) => {
            format!("-p icmp -m icmp --icmp-type {message_type}/{code} ")
        }
    }
}

fn icmp_v6(kind: Option<IcmpKind>) -> String {
    match kind {
        None => "-p ipv6-icmp ".to_owned(),
        Some(IcmpKind { message_type, code: None }) => {
            format!("-p ipv6-icmp -m icmp6 --icmpv6-type {message_type} ")
        }
        Some(IcmpKind { message_type, code: Some(code) }) => {
            format!("-p ipv6-icmp -m icmp6 --icmpv6-type {message_type}/{code} ")
        }
    }
}

/// Without anything that would end the quotes or the line, and without the space at its end.
fn quoted(prefix: &str) -> String {
    let mut quoted = String::new();
    for c in prefix.strip_suffix(' ').unwrap_or(prefix).chars() {
        let c = if c.is_control() || c == '"' || c == '\\' { '_' } else { c };
        if quoted.len() + c.len_utf8() > LOG_PREFIX_MAX_BYTES {
            break;
        }
        quoted.push(c);
    }
    quoted
}

/// The networks that make up a range, as few as there can be.
fn networks(range: &RangeInclusive<IpAddr>) -> Vec<String> {
    let (start, end, bits) = match (range.start(), range.end()) {
        (IpAddr::V4(start), IpAddr::V4(end)) => (u32::from(*start).into(), u32::from(*end).into(), 32),
        (IpAddr::V6(start), IpAddr::V6(end)) => (u128::from(*start), u128::from(*end), 128),
        _ => return Vec::new(),
    };
    let mut networks = Vec::new();
    let mut next = start;
    while next <= end {
        let to_go = end - next;
        // The largest that begins here and does not go past the end: 2^host_bits addresses, or all there are.
        let aligned = next.trailing_zeros().min(bits);
        let host_bits = (0..=aligned).rev().find(|&host_bits| last_of(host_bits) <= to_go).unwrap_or(0);
        let address = match bits {
            32 => IpAddr::V4(Ipv4Addr::from(next as u32)),
            _ => IpAddr::V6(Ipv6Addr::from(next)),
        };
        networks.push(format!("{address}/{}", bits - host_bits));
        match next.checked_add(last_of(host_bits)).and_then(|last| last.checked_add(1)) {
            Some(after) => next = after,
            None => break,
        }
    }
    networks
}

/// The last of 2^host_bits addresses, counted from 0.
fn last_of(host_bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - host_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnetwork::IpNetwork;
    use proptest::prelude::*;

    fn range(start: &str, end: &str) -> RangeInclusive<IpAddr> {
        start.parse().unwrap()..=end.parse().unwrap()
    }

    fn rule(to: Addresses, what: What) -> Rule {
        Rule { to, what, log: false }
    }

    #[test]
    fn a_range_is_as_few_networks_as_can_be() {
        assert_eq!(
            networks(&range("10.0.0.1", "10.0.0.6")),
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]
        );
        assert_eq!(networks(&range("0.0.0.0", "255.255.255.255")), ["0.0.0.0/0"]);
        assert_eq!(networks(&range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), ["::/0"]);
        assert_eq!(networks(&range("255.255.255.255", "255.255.255.255")), ["255.255.255.255/32"]);
        assert_eq!(networks(&range("fd00::", "fd00::ff")), ["fd00::/120"]);
    }

    #[test]
    fn rules_look_at_the_connection_as_its_sender_made_it() {
        let one = rule(Addresses::Range(range("192.0.2.0", "192.0.2.255")), What::Tcp(80..=90));
        let line = "-p tcp -m conntrack --ctorigdst 192.0.2.0/24 --ctorigdstport 80:90 -j RETURN";
        assert_eq!(lines(Family::V4, &one, ""), [line]);
        assert!(lines(Family::V6, &one, "").is_empty());
        let all = rule(Addresses::All, What::All);
        assert_eq!(lines(Family::V4, &all, ""), ["-j RETURN"]);
        let ping = rule(Addresses::All, What::Icmp(Some(IcmpKind { message_type: 8, code: Some(0) })));
        assert_eq!(lines(Family::V4, &ping, ""), ["-p icmp -m icmp --icmp-type 8/0 -j RETURN"]);
        assert!(lines(Family::V6, &ping, "").is_empty());
    }

    #[test]
    fn a_rule_that_logs_does_so_before_it_passes() {
        let rule = Rule { log: true, ..rule(Addresses::All, What::Udp(53..=53)) };
        assert_eq!(
            lines(Family::V4, &rule, "a \"handle\"\nof more than twenty-eight "),
            [
                "-p udp -m conntrack --ctorigdstport 53 -j LOG --log-prefix \"a _handle__of more than twen \"",
                "-p udp -m conntrack --ctorigdstport 53 -j RETURN"
            ]
        );
    }

    proptest! {
        #[test]
        fn the_networks_of_a_range_are_all_of_it_once(a: u32, b: u32) {
            let (start, end) = (a.min(b), a.max(b));
            let range = IpAddr::V4(start.into())..=IpAddr::V4(end.into());
            let mut next = u64::from(start);
            for network in networks(&range) {
                let IpNetwork::V4(network) = network.parse().unwrap() else { panic!("{network}") };
                prop_assert_eq!(u64::from(u32::from(network.network())), next);
                next = u64::from(u32::from(network.broadcast())) + 1;
            }
            prop_assert_eq!(next, u64::from(end) + 1);
        }
    }
}
