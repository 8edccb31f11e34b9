//! What containers may reach: the rules of a request, checked, as the firewall takes them.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnetwork::IpNetwork;
use protocol::{NetOutProtocol, NetOutRule, PortRange};

/// How much of a container's handle its log lines begin with. The field's users look for it.
const LOG_PREFIX_CHARACTERS: usize = 28;

/// What Cloud Foundry makes of the -1 that stands for every type, or every code, in its security groups. No message has
/// it.
const ICMP_ALL: u8 = 255;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IcmpKind {
    pub message_type: u8,
    pub code: Option<u8>,
}

/// An IPv4 network that was written as a part of IPv6 (`::ffff:192.0.2.0/120`), as packets have it.
pub fn unmapped(network: IpNetwork) -> IpNetwork {
    const MAPPED_PREFIX: u8 = 96;
    let (address, prefix) = (network.ip(), network.prefix());
    let IpAddr::V6(mapped) = address else { return network };
    let ipv4 = mapped.to_ipv4_mapped().zip(prefix.checked_sub(MAPPED_PREFIX));
    ipv4.and_then(|(address, prefix)| IpNetwork::new(address.into(), prefix).ok()).unwrap_or(network)
}

/// What the log lines of a container's rules begin with.
pub fn log_prefix(handle: &str) -> String {
    let prefix: String = handle.chars().take(LOG_PREFIX_CHARACTERS).collect();
    prefix + " "
}

/// One rule for each network and each range of ports, in their order. What makes no sense, which requests are checked
/// for, matches nothing and is left out.
pub fn expand(rules: &[NetOutRule]) -> Vec<Rule> {
    rules.iter().filter(|rule| rule.check().is_ok()).flat_map(expand_one).collect()
}

fn expand_one(rule: &NetOutRule) -> Vec<Rule> {
    let networks: Vec<Addresses> = match rule.networks.is_empty() {
        true => vec![Addresses::All],
        false => {
            let ends = rule.networks.iter().filter_map(|range| range.ends());
            ends.map(|(start, end)| Addresses::Range(start..=end)).collect()
        }
    };
    let kinds = kinds(rule);
    let pairs = networks.iter().flat_map(|to| kinds.iter().map(move |what| (to, what)));
    pairs.map(|(to, what)| Rule { to: to.clone(), what: what.clone(), log: rule.log }).collect()
}

fn kinds(rule: &NetOutRule) -> Vec<What> {
    let icmp = rule.icmps.and_then(|icmp| {
        let given = |value: u8| Some(value).filter(|value| *value != ICMP_ALL);
        Some(IcmpKind { message_type: given(icmp.kind)?, code: icmp.code.and_then(given) })
    });
    let of_port: fn(RangeInclusive<u16>) -> What = match rule.protocol {
        NetOutProtocol::All => return vec![What::All],
        NetOutProtocol::Icmp => return vec![What::Icmp(icmp)],
        NetOutProtocol::IcmpV6 => return vec![What::IcmpV6(icmp)],
        NetOutProtocol::Tcp => What::Tcp,
        NetOutProtocol::Udp => What::Udp,
    };
    match rule.ports.is_empty() {
        true => vec![of_port(0..=u16::MAX)],
        false => rule.ports.iter().map(|&PortRange { start, end }| of_port(start..=end)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use protocol::{IcmpControl, IpRange};

    use super::*;

    #[test]
    fn a_log_prefix_is_the_first_28_characters_of_the_handle() {
        assert_eq!(log_prefix("short"), "short ");
        assert_eq!(log_prefix(&"ä".repeat(40)), "ä".repeat(28) + " ");
    }

    #[test]
    fn an_ipv4_network_written_as_ipv6_is_one_of_ipv4() {
        let plain = |text: &str| unmapped(text.parse().unwrap()).to_string();
        assert_eq!(plain("::ffff:198.51.100.0/120"), "198.51.100.0/24");
        for same in ["198.51.100.0/24", "2001:db8::/32", "::/0", "::ffff:0.0.0.0/80"] {
            assert_eq!(unmapped(same.parse().unwrap()), same.parse().unwrap());
        }
    }

    #[test]
    fn each_network_goes_with_each_port_range() {
        let range = |address: &str| IpRange { start: Some(address.parse().unwrap()), end: None };
        let rule = NetOutRule {
            protocol: NetOutProtocol::Udp,
            networks: vec![range("192.0.2.1"), range("2001:db8::1")],
            ports: vec![PortRange { start: 53, end: 53 }, PortRange { start: 60, end: 70 }],
            log: true,
            ..NetOutRule::default()
        };
        let to = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            Addresses::Range(address..=address)
        };
        let expected = [
            ("192.0.2.1", 53..=53),
            ("192.0.2.1", 60..=70),
            ("2001:db8::1", 53..=53),
            ("2001:db8::1", 60..=70),
        ]
        .map(|(address, ports)| Rule { to: to(address), what: What::Udp(ports), log: true });
        assert_eq!(expand(&[rule]), expected);
    }

    #[test]
    fn icmp_has_a_type_and_perhaps_a_code() {
        let rule = |icmps| NetOutRule { protocol: NetOutProtocol::Icmp, icmps, ..NetOutRule::default() };
        let what = |icmps| expand(&[rule(icmps)]).remove(0).what;
        assert_eq!(what(None), What::Icmp(None));
        let kind = IcmpKind { message_type: 3, code: Some(1) };
        assert_eq!(what(Some(IcmpControl { kind: 3, code: Some(1) })), What::Icmp(Some(kind)));
        let kind = IcmpKind { message_type: 3, code: None };
        assert_eq!(what(Some(IcmpControl { kind: 3, code: Some(255) })), What::Icmp(Some(kind)));
        assert_eq!(what(Some(IcmpControl { kind: 255, code: Some(255) })), What::Icmp(None));
    }

    proptest! {
        /// A packet matches one of the expanded rules if and only if it matches the rule's networks and its ports.
        #[test]
        fn expanding_changes_nothing_of_what_a_rule_lets_through(
            networks in vec((0u8..20, 0u8..20), 0..4),
            ports in vec((0u16..20, 1u16..20), 0..4),
            address in 0u8..20,
            port in 1u16..20,
        ) {
            let ip = |last| IpAddr::from([192, 0, 2, last]);
            let networks: Vec<_> = networks.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let ports: Vec<_> = ports.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let rule = NetOutRule {
                protocol: NetOutProtocol::Tcp,
                networks: networks.iter().map(|&(a, b)| IpRange { start: Some(ip(a)), end: Some(ip(b)) }).collect(),
                ports: ports.iter().map(|&(start, end)| PortRange { start, end }).collect(),
                ..NetOutRule::default()
            };
            let matches = |rule: &Rule| {
                let to = match &rule.to {
                    Addresses::All => true,
                    Addresses::Range(range) => range.contains(&ip(address)),
                };
                to && matches!(&rule.what, What::Tcp(ports) if ports.contains(&port))
            };
            let expected = (networks.is_empty() || networks.iter().any(|&(a, b)| (a..=b).contains(&address)))
                && (ports.is_empty() || ports.iter().any(|&(a, b)| (a..=b).contains(&port)));
            prop_assert_eq!(expand(&[rule]).iter().any(matches), expected);
        }
    }
}
