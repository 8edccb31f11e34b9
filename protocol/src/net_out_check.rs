//! Which outbound rules make sense: the same on every backend.

use std::net::IpAddr;

use crate::{Error, IpRange, NetOutProtocol, NetOutRule, PortRange, Result};

impl NetOutRule {
    /// How many pairs of a network and a port range one rule may name.
    pub const COMBINATIONS_MAX: usize = 4096;
    /// How many pairs all rules of one container may name together.
    pub const COMBINATIONS_MAX_OF_CONTAINER: usize = 65536;

    /// Refuses a rule that contradicts itself or can match nothing, by an error that names the field.
    pub fn check(&self) -> Result<()> {
        self.check_networks()?;
        self.check_ports()?;
        self.check_icmps()?;
        let combinations = self.combinations();
        if combinations > Self::COMBINATIONS_MAX {
            let reason = format!(
                "{} of them with {} ports are {combinations} pairs: a rule may have {} at most, divide it",
                self.networks.len(),
                self.ports.len(),
                Self::COMBINATIONS_MAX
            );
            return Err(Error::invalid("networks", reason));
        }
        Ok(())
    }

    /// Checks every rule of a container: `held` by it already, and those of a request to `add`. An error says which
    /// of the request's it is about, the first being rule 1.
    pub fn check_all(held: &[NetOutRule], add: &[NetOutRule]) -> Result<()> {
        for (index, rule) in add.iter().enumerate() {
            rule.check().map_err(|error| match error {
                Error::Invalid { field, reason } if add.len() > 1 => Error::Invalid {
                    field,
                    reason: format!("in rule {} of {}: {reason}", index + 1, add.len()),
                },
                error => error,
            })?;
        }
        let combinations: usize = held.iter().chain(add).map(NetOutRule::combinations).sum();
        if combinations > Self::COMBINATIONS_MAX_OF_CONTAINER {
            let reason = format!(
                "the container's rules would have {combinations} pairs of a network and a port range: at most {} \
                 are possible, join some",
                Self::COMBINATIONS_MAX_OF_CONTAINER
            );
            return Err(Error::invalid("networks", reason));
        }
        Ok(())
    }

    /// How many pairs of a network and a port range the rule stands for.
    fn combinations(&self) -> usize {
        self.networks.len().max(1).saturating_mul(self.ports.len().max(1))
    }

    fn check_networks(&self) -> Result<()> {
        for range in &self.networks {
            let wrong = |reason: String| Err(Error::invalid("networks", reason));
            let Some((start, end)) = range.ends() else {
                return wrong("has neither a start nor an end: leave networks out to mean all".to_owned());
            };
            if start.is_ipv4() != end.is_ipv4() {
                return wrong(format!("{start} to {end}: both have to be IPv4 or both IPv6"));
            }
            if start > end {
                return wrong(format!("the start {start} is after the end {end}"));
            }
            let other_family = match self.protocol {
                NetOutProtocol::Icmp => start.is_ipv6().then_some("ICMP is of IPv4: use protocol 4, ICMPv6"),
                NetOutProtocol::IcmpV6 => {
                    start.is_ipv4().then_some("ICMPv6 is of IPv6: use protocol 3, ICMP")
                }
                NetOutProtocol::All | NetOutProtocol::Tcp | NetOutProtocol::Udp => None,
            };
            if let Some(advice) = other_family {
                return wrong(format!("{start}: {advice}"));
            }
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<()> {
        let wrong = |reason: String| Err(Error::invalid("ports", reason));
        let has_ports = matches!(self.protocol, NetOutProtocol::Tcp | NetOutProtocol::Udp);
        if !self.ports.is_empty() && !has_ports {
            return wrong("only protocols 1 (TCP) and 2 (UDP) have them".to_owned());
        }
        for &PortRange { start, end } in &self.ports {
            if end == 0 {
                return wrong(format!(
                    "{start} to 0: there is no port 0, and for one port start and end are equal"
                ));
            }
            if start > end {
                return wrong(format!("the start {start} is after the end {end}"));
            }
        }
        Ok(())
    }

    fn check_icmps(&self) -> Result<()> {
        let is_icmp = matches!(self.protocol, NetOutProtocol::Icmp | NetOutProtocol::IcmpV6);
        if self.icmps.is_some() && !is_icmp {
            return Err(Error::invalid("icmps", "only protocols 3 (ICMP) and 4 (ICMPv6) have them"));
        }
        Ok(())
    }
}

impl IpRange {
    /// Both ends, of which one alone stands for both; none if there is neither.
    pub fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        let start = self.start.or(self.end)?;
        Some((start, self.end.unwrap_or(start)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::IcmpControl;

    fn range(start: &str, end: &str) -> IpRange {
        let ip = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        IpRange { start: ip(start), end: ip(end) }
    }

    fn rule(protocol: NetOutProtocol) -> NetOutRule {
        NetOutRule { protocol, ..NetOutRule::default() }
    }

    fn to(protocol: NetOutProtocol, start: &str, end: &str) -> NetOutRule {
        NetOutRule { networks: vec![range(start, end)], ..rule(protocol) }
    }

    fn ports(protocol: NetOutProtocol, start: u16, end: u16) -> NetOutRule {
        NetOutRule { ports: vec![PortRange { start, end }], ..rule(protocol) }
    }

    fn icmps(protocol: NetOutProtocol) -> NetOutRule {
        NetOutRule { icmps: Some(IcmpControl { kind: 8, code: None }), ..rule(protocol) }
    }

    #[test]
    fn rules_that_make_sense_pass() {
        use NetOutProtocol::{All, Icmp, IcmpV6, Tcp, Udp};
        for good in [
            NetOutRule::default(),
            to(All, "0.0.0.0", "255.255.255.255"),
            to(All, "10.0.0.1", ""),
            to(Udp, "", "fd00::1"),
            to(Icmp, "10.0.0.1", "10.0.0.9"),
            to(IcmpV6, "fd00::1", "fd00::9"),
            ports(Tcp, 80, 80),
            ports(Udp, 0, 65535),
            icmps(Icmp),
            icmps(IcmpV6),
        ] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn one_that_contradicts_itself_is_refused_by_its_field() {
        use NetOutProtocol::{All, Icmp, IcmpV6, Tcp, Udp};
        for (bad, field, words) in [
            (to(All, "", ""), "networks", "neither a start nor an end"),
            (to(Tcp, "10.0.0.2", "10.0.0.1"), "networks", "start 10.0.0.2 is after the end 10.0.0.1"),
            (to(Tcp, "10.0.0.1", "fd00::1"), "networks", "10.0.0.1 to fd00::1"),
            (to(Icmp, "fd00::1", "fd00::1"), "networks", "fd00::1: ICMP is of IPv4"),
            (to(IcmpV6, "10.0.0.1", "10.0.0.1"), "networks", "10.0.0.1: ICMPv6 is of IPv6"),
            (ports(All, 80, 80), "ports", "only protocols 1 (TCP) and 2 (UDP)"),
            (ports(Icmp, 80, 80), "ports", "only protocols 1"),
            (ports(IcmpV6, 80, 80), "ports", "only protocols 1"),
            (ports(Tcp, 0, 0), "ports", "no port 0"),
            (ports(Tcp, 80, 0), "ports", "80 to 0"),
            (ports(Udp, 81, 80), "ports", "start 81 is after the end 80"),
            (icmps(All), "icmps", "only protocols 3"),
            (icmps(Tcp), "icmps", "only protocols 3"),
            (icmps(Udp), "icmps", "only protocols 3"),
        ] {
            let Err(Error::Invalid { field: named, reason }) = bad.check() else { panic!("{bad:?}") };
            assert_eq!(named, field, "{bad:?}: {reason}");
            assert!(reason.contains(words), "{bad:?}: {reason}");
        }
    }

    #[test]
    fn of_several_the_error_says_which() {
        let rules = [NetOutRule::default(), icmps(NetOutProtocol::Tcp)];
        let error = NetOutRule::check_all(&[], &rules).unwrap_err().to_string();
        assert!(error.starts_with("icmps: in rule 2 of 2: "), "{error}");
        let error = NetOutRule::check_all(&rules, &rules[1..]).unwrap_err().to_string();
        assert!(error.starts_with("icmps: only"), "{error}");
    }

    #[test]
    fn what_a_container_can_have_is_bounded() {
        let large = |networks, port_ranges| NetOutRule {
            networks: vec![range("10.0.0.1", ""); networks],
            ports: vec![PortRange { start: 1, end: 2 }; port_ranges],
            ..rule(NetOutProtocol::Tcp)
        };
        assert_eq!(large(64, 64).check(), Ok(()));
        let error = large(64, 65).check().unwrap_err().to_string();
        assert!(error.starts_with("networks: 64 of them with 65 ports are 4160 pairs"), "{error}");

        let held = vec![large(64, 64); 15];
        assert_eq!(NetOutRule::check_all(&held, &[large(64, 64)]), Ok(()));
        let error = NetOutRule::check_all(&held, &[large(64, 64), NetOutRule::default()]).unwrap_err();
        assert!(error.to_string().contains("would have 65537 pairs"), "{error}");
    }

    fn any_ip() -> impl Strategy<Value = Option<IpAddr>> {
        prop_oneof![
            Just(None),
            any::<[u8; 4]>().prop_map(|bytes| Some(bytes.into())),
            any::<[u8; 16]>().prop_map(|bytes| Some(bytes.into())),
        ]
    }

    proptest! {
        #[test]
        fn a_range_that_passes_is_in_order_and_of_one_family(start in any_ip(), end in any_ip()) {
            let range = IpRange { start, end };
            let passes = NetOutRule { networks: vec![range], ..NetOutRule::default() }.check().is_ok();
            let in_order = range.ends().is_some_and(|(start, end)| {
                start.is_ipv4() == end.is_ipv4() && start <= end
            });
            prop_assert_eq!(passes, in_order);
        }
    }
}
