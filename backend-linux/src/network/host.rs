//! The networks that the host itself is in: no container's subnet may overlap them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{
    link,
    netlink::{Error, Message, Socket, attributes, flags},
};

const GET_ADDRESS: u16 = 22;
const HEADER_LEN: usize = 8;
/// Of the other end where the two ends of a link have an address each; else the same as `LOCAL`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

/// The host's networks, of both families.
#[derive(Debug, Default)]
pub struct HostNetworks {
    pub ipv4: Vec<Ipv4Network>,
    pub ipv6: Vec<Ipv6Network>,
}

impl HostNetworks {
    /// Asks the kernel. The links whose names begin with `prefix` are the server's own, and do not count.
    pub fn read(host: &mut Socket, prefix: &str) -> Result<HostNetworks, Error> {
        let ours: Vec<u32> = link::list(host, prefix)?.into_iter().map(|link| link.index).collect();
        let request = Message::new("list the host's addresses", GET_ADDRESS, flags::DUMP, &[0; HEADER_LEN]);
        let found = host.dump(request, |payload| {
            let (index, networks) = networks(payload)?;
            (!ours.contains(&index)).then_some(networks)
        })?;
        let mut all = HostNetworks::default();
        for network in found.into_iter().flatten() {
            match network {
                IpNetwork::V4(network) => all.ipv4.push(network),
                IpNetwork::V6(network) => all.ipv6.push(network),
            }
        }
        Ok(all)
    }
}

/// Of one address as the kernel lists it: the link's index, the network, and where that is another's, the address.
fn networks(payload: &[u8]) -> Option<(u32, Vec<IpNetwork>)> {
    let [_, prefix, _, _, index @ ..] = *payload.first_chunk::<HEADER_LEN>()?;
    let found = attributes(&payload[HEADER_LEN..]);
    let networks = found.filter_map(|(kind, value)| match kind {
        ADDRESS => network(value, prefix),
        LOCAL => network(value, 8 * u8::try_from(value.len()).ok()?),
        _ => None,
    });
    Some((u32::from_ne_bytes(index), networks.collect()))
}

fn network(address: &[u8], prefix: u8) -> Option<IpNetwork> {
    match address.len() {
        4 => Ipv4Network::new(Ipv4Addr::from(*address.first_chunk()?), prefix).ok().map(IpNetwork::V4),
        16 => Ipv6Network::new(Ipv6Addr::from(*address.first_chunk()?), prefix).ok().map(IpNetwork::V6),
        _ => None,
    }
}
