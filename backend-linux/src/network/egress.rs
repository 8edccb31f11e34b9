//! The way out of the host: what containers' links and clients from elsewhere need to know of it.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        link::LinkAttribute,
        route::{RouteAddress, RouteAttribute},
    },
};

use super::Error;

/// Anything that only a default route leads to. Nothing is sent there.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// The link of the default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    /// The host's address on it.
    pub address: Ipv4Addr,
    pub mtu: u32,
}

/// None: the host has no way out.
pub async fn discover() -> Result<Option<Egress>, Error> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|source| Error::System { what: "open rtnetlink", source })?;
    let connection = tokio::spawn(connection);
    let egress = ask(&handle).await.map_err(|source| Error::Egress { source });
    connection.abort();
    egress
}

async fn ask(handle: &Handle) -> Result<Option<Egress>, rtnetlink::Error> {
    let request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ELSEWHERE, 32).build();
    let route = match handle.route().get(request).execute().try_next().await {
        Ok(Some(route)) => route,
        // "Network is unreachable", or what else a host without a default route says.
        Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut link, mut address) = (None, None);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(index),
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => address = Some(source),
            _ => {}
        }
    }
    let (Some(link), Some(address)) = (link, address) else { return Ok(None) };
    let mtu = handle.link().get().match_index(link).execute().try_next().await?.and_then(|link| {
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        })
    });
    Ok(mtu.map(|mtu| Egress { address, mtu }))
}
