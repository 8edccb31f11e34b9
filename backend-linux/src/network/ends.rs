//! Addresses and routes of the two ends of a container's link.
//!
//! The host routes each container's address to its link, also those of a shared subnet: what one container sends
//! another goes through the host, by its rules. There is no bridge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    lease::{Assignment, Ipv6Pair},
    link::{bring_up, hardware_address, peer_index, settings},
    netlink::{Error, Message, Socket, flags},
};

const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The loopback's index, in every network namespace.
const LOOPBACK: u32 = 1;
/// Prefix length of a container's IPv6 subnet.
const IPV6_PREFIX: u8 = super::pool::IPV6_PREFIX;

/// The loopback of a container whose other links plug-ins make.
pub fn bring_up_loopback(container: &mut Socket) -> Result<(), Error> {
    container.transact(vec![bring_up("bring up container's loopback", LOOPBACK).acknowledged()])
}

/// The host's end: up, with its address, and the route to the container that comes with a peer's address.
pub fn configure_host_end(
    host: &mut Socket,
    assignment: &Assignment,
    index: u32,
    ipv6: bool,
) -> Result<(), Error> {
    const WHAT: &str = "add address to host's end of veth";
    let (own, container) = (assignment.host_ip, assignment.container_ip);
    let mut batch = vec![
        settings("set up host's end of veth", index, ipv6, true),
        bring_up("bring up host's end of veth", index),
        Address { own: own.into(), peer: container.into(), prefix: 32, route: true }.add(WHAT, index),
    ];
    if let Some(Ipv6Pair { host_ip, container_ip }) = assignment.ipv6 {
        let address = Address { own: host_ip.into(), peer: container_ip.into(), prefix: 128, route: true };
        batch.push(address.add("add IPv6 address to host's end of veth", index));
        batch.push(add_neighbour("tell host's end of veth its peer", index, container_ip, peer_index(index)));
    }
    transact(host, batch)
}

/// The container's side, through a socket of its namespace: loopback, addresses, default routes. `index` is still that
/// of the host's end.
pub fn configure_container_end(
    container: &mut Socket,
    assignment: &Assignment,
    index: u32,
    ipv6: bool,
) -> Result<(), Error> {
    const WHAT: &str = "add address to container's end of veth";
    const DEFAULT: &str = "add container's default route";
    let (host_index, index) = (index, peer_index(index));
    let (own, gateway) = (assignment.container_ip, assignment.host_ip);
    let shared = assignment.subnet.is_shared();
    let prefix = assignment.subnet.prefix();
    let mut batch = vec![
        bring_up("bring up container's loopback", LOOPBACK),
        settings("set up container's end of veth", index, ipv6, false),
        bring_up("bring up container's end of veth", index),
        Address { own: own.into(), peer: own.into(), prefix, route: !shared }.add(WHAT, index),
    ];
    if shared {
        // The others of the subnet are not on this link: they, too, are reached by the gateway.
        batch.push(add_route("add container's route to its gateway", index, Route::Link(gateway)));
    }
    batch.push(add_route(DEFAULT, index, Route::DefaultBy(gateway.into())));
    if let Some(Ipv6Pair { host_ip, container_ip: own }) = assignment.ipv6 {
        let address = Address { own: own.into(), peer: own.into(), prefix: IPV6_PREFIX, route: true };
        batch.push(address.add("add IPv6 address to container's end of veth", index));
        batch.push(add_neighbour("tell container's end of veth its peer", index, host_ip, host_index));
        batch.push(add_route("add container's IPv6 default route", index, Route::DefaultBy(host_ip.into())));
    }
    transact(container, batch)
}

fn transact(socket: &mut Socket, mut batch: Vec<Message>) -> Result<(), Error> {
    let Some(last) = batch.pop() else { return Ok(()) };
    batch.push(last.acknowledged());
    socket.transact(batch)
}

struct Address {
    own: IpAddr,
    /// Who is at the other end; the same as `own` where that is not said.
    peer: IpAddr,
    prefix: u8,
    /// Whether all of the prefix is on this link.
    route: bool,
}

impl Address {
    fn add(&self, what: &'static str, index: u32) -> Message {
        const ADDRESS: u16 = 1;
        const LOCAL: u16 = 2;
        const FLAGS: u16 = 8;
        const NO_DUPLICATE_DETECTION: u32 = 0x02;
        const NO_PREFIX_ROUTE: u32 = 0x200;
        let (family, no_detection) = match self.own {
            IpAddr::V4(_) => (AF_INET, 0),
            // There is nobody else on the link, and the address is to be used at once.
            IpAddr::V6(_) => (AF_INET6, NO_DUPLICATE_DETECTION),
        };
        let flags = if self.route { no_detection } else { no_detection | NO_PREFIX_ROUTE };
        let [a, b, c, d] = index.to_ne_bytes();
        let header = [family, self.prefix, 0, 0, a, b, c, d];
        let message = Message::new(what, NEW_ADDRESS, flags::CREATE | flags::EXCLUSIVE, &header)
            .bytes(LOCAL, &octets(self.own))
            .bytes(ADDRESS, &octets(self.peer));
        if flags == 0 { message } else { message.u32(FLAGS, flags) }
    }
}

enum Route {
    /// This one neighbour is on the link.
    Link(Ipv4Addr),
    /// Everything else goes by a gateway.
    DefaultBy(IpAddr),
}

fn add_route(what: &'static str, index: u32, route: Route) -> Message {
    const DESTINATION: u16 = 1;
    const LINK: u16 = 4;
    const GATEWAY: u16 = 5;
    const MAIN_TABLE: u8 = 254;
    const BOOT: u8 = 3;
    const SCOPE_UNIVERSE: u8 = 0;
    const SCOPE_LINK: u8 = 253;
    const UNICAST: u8 = 1;
    let (family, prefix, scope, attribute, address) = match route {
        Route::Link(neighbour) => (AF_INET, 32, SCOPE_LINK, DESTINATION, neighbour.into()),
        Route::DefaultBy(gateway @ IpAddr::V4(_)) => (AF_INET, 0, SCOPE_UNIVERSE, GATEWAY, gateway),
        Route::DefaultBy(gateway @ IpAddr::V6(_)) => (AF_INET6, 0, SCOPE_UNIVERSE, GATEWAY, gateway),
    };
    let header = [family, prefix, 0, 0, MAIN_TABLE, BOOT, scope, UNICAST, 0, 0, 0, 0];
    Message::new(what, NEW_ROUTE, flags::CREATE | flags::EXCLUSIVE, &header)
        .bytes(attribute, &octets(address))
        .u32(LINK, index)
}

/// Says for good who has an address: without link-local addresses, neither end can ask.
fn add_neighbour(what: &'static str, index: u32, neighbour: Ipv6Addr, neighbour_index: u32) -> Message {
    const DESTINATION: u16 = 1;
    const HARDWARE_ADDRESS: u16 = 2;
    const PERMANENT: u16 = 0x80;
    let [a, b, c, d] = index.to_ne_bytes();
    let [low, high] = PERMANENT.to_ne_bytes();
    let header = [AF_INET6, 0, 0, 0, a, b, c, d, low, high, 0, 0];
    Message::new(what, NEW_NEIGHBOUR, flags::CREATE, &header)
        .bytes(DESTINATION, &neighbour.octets())
        .bytes(HARDWARE_ADDRESS, &hardware_address(neighbour_index))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
