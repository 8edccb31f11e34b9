//! Port mappings and outbound rules.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_repr::{Deserialize_repr, Serialize_repr};

use crate::container::is_default;

/// A port mapping to make when a container is created, or one that was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetIn {
    /// Port on the host; 0: one from the server's pool.
    pub host_port: u16,
    /// Port in the container; 0: the same as the host's.
    pub container_port: u16,
}

/// The body of `POST /containers/:handle/net/in`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetInRequest {
    /// Repeats the path's handle; not looked at.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub handle: String,
    /// Port on the host; 0: one from the server's pool.
    #[serde(skip_serializing_if = "is_default")]
    pub host_port: u16,
    /// Port in the container; 0: the same as the host's.
    #[serde(skip_serializing_if = "is_default")]
    pub container_port: u16,
}

/// The answer to `POST /containers/:handle/net/in`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetInResponse {
    /// Port on the host.
    #[serde(skip_serializing_if = "is_default")]
    pub host_port: u16,
    /// Port in the container.
    #[serde(skip_serializing_if = "is_default")]
    pub container_port: u16,
}

/// A way out of the container: protocol x networks x ports x ICMP. [`NetOutRule::check`] says which make sense.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetOutRule {
    /// Which protocol.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: NetOutProtocol,
    /// To which addresses; empty: to all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpRange>,
    /// To which ports; empty: to all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Which ICMP messages; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<IcmpControl>,
    /// Whether each new connection is logged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
}

/// The protocol of an outbound rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize_repr, Deserialize_repr)]
#[repr(u8)]
pub enum NetOutProtocol {
    /// Every one.
    #[default]
    All = 0,
    /// TCP.
    Tcp = 1,
    /// UDP.
    Udp = 2,
    /// ICMP.
    Icmp = 3,
    /// ICMPv6.
    IcmpV6 = 4,
}

/// Addresses from `start` to `end`, both included; one alone stands for both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpRange {
    /// The first.
    #[serde(with = "go_ip", skip_serializing_if = "Option::is_none")]
    pub start: Option<IpAddr>,
    /// The last.
    #[serde(with = "go_ip", skip_serializing_if = "Option::is_none")]
    pub end: Option<IpAddr>,
}

/// Ports from `start` to `end`, both included and both needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortRange {
    /// The first.
    #[serde(skip_serializing_if = "is_default")]
    pub start: u16,
    /// The last.
    #[serde(skip_serializing_if = "is_default")]
    pub end: u16,
}

/// Which ICMP messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IcmpControl {
    /// The ICMP type.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: u8,
    /// The ICMP code; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// Addresses as Go's `net.IP` has them: a string, empty for none; an IPv4 address mapped into IPv6 is IPv4.
mod go_ip {
    use std::net::IpAddr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(ip: &Option<IpAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match ip {
            Some(ip) => serializer.collect_str(&ip.to_canonical()),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        let ip: IpAddr = text.parse().map_err(|_| D::Error::custom(format!("invalid IP address: {text}")))?;
        Ok(Some(ip.to_canonical()))
    }
}
