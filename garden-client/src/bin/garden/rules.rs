//! Outbound rules as people write them: `tcp,to=10.0.0.0/24,ports=443,log`.

use std::{net::IpAddr, str::FromStr};

use garden_client::protocol::{IcmpControl, IpRange, NetOutProtocol, NetOutRule, PortRange};

/// A protocol, then what narrows it down, between commas. `to` and `ports` may be there several times.
pub fn rule(text: &str) -> Result<NetOutRule, String> {
    let mut words = text.split(',');
    let mut rule =
        NetOutRule { protocol: protocol(words.next().unwrap_or_default())?, ..NetOutRule::default() };
    for word in words {
        match word.split_once('=') {
            Some(("to", text)) => rule.networks.push(network(text)?),
            Some(("ports", text)) => {
                let (start, end) = ends(text)?;
                rule.ports.push(PortRange { start, end });
            }
            Some(("type", text)) => rule.icmps = Some(icmp(text)?),
            None if word == "log" => rule.log = true,
            _ => return Err(format!("{word:?} is none of to=, ports=, type= and log")),
        }
    }
    rule.check().map_err(|error| error.to_string())?;
    Ok(rule)
}

fn protocol(text: &str) -> Result<NetOutProtocol, String> {
    Ok(match text {
        "all" => NetOutProtocol::All,
        "tcp" => NetOutProtocol::Tcp,
        "udp" => NetOutProtocol::Udp,
        "icmp" => NetOutProtocol::Icmp,
        "icmpv6" => NetOutProtocol::IcmpV6,
        _ => {
            return Err(format!("{text:?} is no protocol: a rule begins with all, tcp, udp, icmp or icmpv6"));
        }
    })
}

/// `10.0.0.7`, `10.0.0.1-10.0.0.9` or `10.0.0.0/24`.
fn network(text: &str) -> Result<IpRange, String> {
    let (start, end) = match text.split_once('/') {
        None => ends(text)?,
        Some((address, prefix)) => {
            block(number(address)?, number(prefix)?).ok_or(format!("{text:?} is no network"))?
        }
    };
    Ok(IpRange { start: Some(start), end: Some(end) })
}

/// The first and the last address of a block; none if there is no such prefix.
fn block(address: IpAddr, prefix: u32) -> Option<(IpAddr, IpAddr)> {
    match address {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(prefix).unwrap_or(0);
            let first = u32::from(address) & !rest;
            (prefix <= u32::BITS).then(|| (IpAddr::V4(first.into()), IpAddr::V4((first | rest).into())))
        }
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(prefix).unwrap_or(0);
            let first = u128::from(address) & !rest;
            (prefix <= u128::BITS).then(|| (IpAddr::V6(first.into()), IpAddr::V6((first | rest).into())))
        }
    }
}

/// `TYPE` or `TYPE/CODE`.
fn icmp(text: &str) -> Result<IcmpControl, String> {
    Ok(match text.split_once('/') {
        None => IcmpControl { kind: number(text)?, code: None },
        Some((kind, code)) => IcmpControl { kind: number(kind)?, code: Some(number(code)?) },
    })
}

/// `FIRST-LAST`, or one that stands for both.
fn ends<T: FromStr + Copy>(text: &str) -> Result<(T, T), String> {
    match text.split_once('-') {
        None => number(text).map(|one| (one, one)),
        Some((start, end)) => Ok((number(start)?, number(end)?)),
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no address, or no number of its kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_protocol_and_what_narrows_it_down() {
        assert_eq!(rule("all"), Ok(NetOutRule::default()));
        let range = |start: &str, end: &str| IpRange {
            start: Some(start.parse().unwrap()),
            end: Some(end.parse().unwrap()),
        };
        let wanted = NetOutRule {
            protocol: NetOutProtocol::Tcp,
            networks: vec![
                range("10.0.0.0", "10.0.0.255"),
                range("10.1.0.1", "10.1.0.9"),
                range("fd00::", "fd00::ffff"),
            ],
            ports: vec![PortRange { start: 443, end: 443 }, PortRange { start: 8000, end: 8080 }],
            icmps: None,
            log: true,
        };
        let text = "tcp,to=10.0.0.7/24,to=10.1.0.1-10.1.0.9,ports=443,log,to=fd00::7/112,ports=8000-8080";
        assert_eq!(rule(text), Ok(wanted));
        let ping = rule("icmp,type=8/0").unwrap();
        assert_eq!(
            (ping.protocol, ping.icmps),
            (NetOutProtocol::Icmp, Some(IcmpControl { kind: 8, code: Some(0) }))
        );
        let everything = range("0.0.0.0", "255.255.255.255");
        assert_eq!(rule("udp,to=1.2.3.4/0").unwrap().networks, [everything]);
        assert_eq!(rule("udp,to=1.2.3.4/32").unwrap().networks, [range("1.2.3.4", "1.2.3.4")]);
    }

    #[test]
    fn what_is_no_rule_is_said_to_be_none() {
        for (text, named) in [
            ("", "\"\" is no protocol"),
            ("to=10.0.0.1", "\"to=10.0.0.1\" is no protocol"),
            ("tcp,port=80", "\"port=80\" is none of"),
            ("tcp,to=10.0.0.0/33", "is no network"),
            ("tcp,to=fd00::/129", "is no network"),
            ("tcp,to=here", "\"here\" is no address"),
            ("tcp,ports=http", "\"http\" is no address, or no number"),
            ("tcp,ports=9-8", "ports: "),
            ("all,ports=80", "ports: "),
            ("tcp,type=8", "icmps: "),
            ("icmp,type=256", "\"256\""),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
