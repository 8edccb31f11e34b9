//! A subnet, and how a spec names one.

use std::{fmt, net::Ipv4Addr};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use super::Error;

/// Prefix length of the subnets of the pool, and of those named without one.
pub const PREFIX: u8 = 30;
/// The shortest prefix that can be named.
const PREFIX_MIN: u8 = 8;
/// Addresses that no container can have: the subnet's own, its gateway and its broadcast address.
const RESERVED: u32 = 3;

/// A subnet of containers: the host has its first usable address, on each of their links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Network", into = "Ipv4Network")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// The one of this prefix length that an address lies in; at most 30.
    pub(super) fn containing(address: Ipv4Addr, prefix: u8) -> Subnet {
        Subnet { base: u32::from(address) & u32::MAX << (32 - prefix), prefix }
    }

    /// The containers' gateway.
    pub fn host_address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The first address that a container can have.
    pub fn container_address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2)
    }

    /// With its prefix.
    pub fn network(self) -> Ipv4Network {
        self.into()
    }

    /// Whether it has room for several containers, which then reach each other.
    pub fn is_shared(self) -> bool {
        self.prefix < PREFIX
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub(super) fn base(self) -> u32 {
        self.base
    }

    pub(super) fn last(self) -> u32 {
        self.base | !(u32::MAX << (32 - self.prefix))
    }

    /// How many containers it has room for.
    pub(super) fn size(self) -> u32 {
        self.last() - self.base + 1 - RESERVED
    }

    /// The place of an address among those that containers can have; none: it is not one of them.
    pub(super) fn place_of(self, address: Ipv4Addr) -> Option<u32> {
        let place = u32::from(address).checked_sub(self.base + 2)?;
        (place < self.size()).then_some(place)
    }

    /// The address at a place.
    pub(super) fn address_at(self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2 + place)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl TryFrom<Ipv4Network> for Subnet {
    type Error = String;

    fn try_from(network: Ipv4Network) -> Result<Subnet, String> {
        if !(PREFIX_MIN..=PREFIX).contains(&network.prefix()) || network.ip() != network.network() {
            return Err(format!("{network} is not a subnet between a /{PREFIX_MIN} and a /{PREFIX}"));
        }
        Ok(Subnet::containing(network.ip(), network.prefix()))
    }
}

impl From<Subnet> for Ipv4Network {
    fn from(subnet: Subnet) -> Ipv4Network {
        let base = Ipv4Addr::from(subnet.base);
        // Cannot fail: every prefix is below 33.
        Ipv4Network::new(base, subnet.prefix).unwrap_or_else(|_| Ipv4Network::from(base))
    }
}

/// What the `network` of a spec names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    pub subnet: Subnet,
    /// None: any that is free.
    pub address: Option<Ipv4Addr>,
}

/// Reads a subnet, as in `10.1.2.0/24`, or a container's address in one, as in `10.1.2.7/24`; an address without a
/// prefix is in a /30.
pub(in crate::network) fn parse(requested: &str) -> Result<Named, Error> {
    let invalid = |reason: String| Err(Error::Invalid { field: "network", reason });
    let (address, prefix) = match requested.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (requested, None),
    };
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        return invalid(format!("{requested:?} is not an IPv4 subnet or address, such as 10.1.2.0/24"));
    };
    // Digits only: a plus sign would be a number, too.
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let length = prefix.map_or(Some(PREFIX), |text| Some(text).filter(digits)?.parse().ok());
    let Some(length) = length.filter(|length| (PREFIX_MIN..=PREFIX).contains(length)) else {
        return invalid(format!("{requested}: a subnet is between a /{PREFIX_MIN} and a /{PREFIX}"));
    };
    if address.is_loopback() || address.octets()[0] == 0 || address.octets()[0] >= 224 {
        return invalid(format!("{address} is not an address that a container can have"));
    }
    let subnet = Subnet::containing(address, length);
    match u32::from(address) {
        own if own == subnet.base && prefix.is_some() => Ok(Named { subnet, address: None }),
        own if own == subnet.base => invalid(format!(
            "{address} is the address of the subnet {subnet}, which is named with its prefix"
        )),
        own if own == subnet.base + 1 => invalid(format!("{address} is the gateway of its subnet {subnet}")),
        own if own == subnet.last() => {
            invalid(format!("{address} is the broadcast address of its subnet {subnet}"))
        }
        _ => Ok(Named { subnet, address: Some(address) }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(text: &str) -> (String, Option<String>) {
        let named = parse(text).unwrap();
        (named.subnet.to_string(), named.address.map(|address| address.to_string()))
    }

    #[test]
    fn a_subnet_is_named_by_itself_or_by_the_containers_address() {
        assert_eq!(named("10.1.2.0/24"), ("10.1.2.0/24".into(), None));
        assert_eq!(named("10.1.2.8/30"), ("10.1.2.8/30".into(), None));
        assert_eq!(named("10.1.2.7/24"), ("10.1.2.0/24".into(), Some("10.1.2.7".into())));
        assert_eq!(named("10.1.2.10"), ("10.1.2.8/30".into(), Some("10.1.2.10".into())));
        assert_eq!(named("11.0.0.0/8"), ("11.0.0.0/8".into(), None));
    }

    #[test]
    fn what_no_container_can_have_is_refused_by_the_fields_name() {
        for name in [
            "10.254.0.9",
            "10.254.0.11/30",
            "10.254.0.8",
            "10.1.2.1/24",
            "10.1.2.255/24",
            "10.0.0.0/7",
            "10.0.0.0/31",
            "10.0.0.2/32",
            "10.0.0.0/+24",
            "10.0.0.0/",
            "127.0.0.2",
            "224.0.0.2",
            "0.0.0.2",
            "x",
            "::1",
        ] {
            let error = parse(name).unwrap_err();
            assert!(matches!(error, Error::Invalid { field: "network", .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_subnet_is_recorded_as_text() {
        let subnet = parse("10.254.0.8/30").unwrap().subnet;
        let text = serde_json::to_string(&subnet).unwrap();
        assert_eq!(text, r#""10.254.0.8/30""#);
        assert_eq!(serde_json::from_str::<Subnet>(&text).unwrap(), subnet);
        for wrong in ["10.254.0.9/30", "10.0.0.0/31", "0.0.0.0/0"] {
            assert!(serde_json::from_str::<Subnet>(&format!("{wrong:?}")).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_container_has_the_subnets_the_gateways_or_the_broadcast_address(
            address in any::<u32>(),
            prefix in PREFIX_MIN..=PREFIX,
        ) {
            let subnet = Subnet::containing(address.into(), prefix);
            let network = Ipv4Network::from(subnet);
            prop_assert_eq!(Subnet::try_from(network).unwrap(), subnet);
            prop_assert_eq!(subnet.host_address(), network.nth(1).unwrap());
            for reserved in [network.network(), subnet.host_address(), network.broadcast()] {
                prop_assert_eq!(subnet.place_of(reserved), None);
            }
            prop_assert_eq!(subnet.size(), network.size() - 3);
            prop_assert_eq!(subnet.address_at(0), subnet.container_address());
            let last = subnet.address_at(subnet.size() - 1);
            prop_assert_eq!(u32::from(last) + 1, u32::from(network.broadcast()));
            prop_assert_eq!(subnet.place_of(last), Some(subnet.size() - 1));
        }
    }
}
