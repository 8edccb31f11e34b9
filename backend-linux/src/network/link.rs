//! The veth pair between the host and a container, and everything about links that is not memory.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{
    lease::Assignment,
    netlink::{Answer, Error, Message, Socket, attributes, flags},
};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;

const LINK_HEADER_LEN: usize = 16;
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const AF_SPEC: u16 = 26;
const GROUP: u16 = 27;
const NETNS_FD: u16 = 28;
const EXTENT_MASK: u16 = 29;
const TRANSMIT_QUEUES: u16 = 31;
const RECEIVE_QUEUES: u16 = 32;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UP: u32 = 1;
/// Name of a container's end.
const CONTAINER_LINK: &str = "eth0";
/// Group of the host's ends of all servers' links ("gard"), by which firewalls know each other's containers.
pub const CONTAINERS_GROUP: u32 = 0x6761_7264;
/// Links about to be deleted get this group ("gone"), so that one request deletes them all: deleting waits for RCU,
/// once for a group.
const GONE_GROUP: u32 = 0x676f_6e65;

/// Makes the pair, the peer at once in `netns`. `index` is that of the host's end; the kernel takes indexes from
/// outside, which saves asking for them. One queue each: more double the cost, and a container's link has one user.
pub fn create_pair(
    host: &mut Socket,
    assignment: &Assignment,
    index: u32,
    netns: BorrowedFd<'_>,
) -> Result<(), Error> {
    let end = |m: Message, name: &str, address: [u8; 6]| {
        m.text(NAME, name)
            .bytes(ADDRESS, &address)
            .u32(MTU, assignment.mtu)
            .u32(TRANSMIT_QUEUES, 1)
            .u32(RECEIVE_QUEUES, 1)
    };
    let create =
        Message::new("create veth pair", NEW_LINK, flags::CREATE | flags::EXCLUSIVE, &link_header(index, 0));
    let pair = end(create, &assignment.host_link, hardware_address(index))
        .u32(GROUP, CONTAINERS_GROUP)
        .nested(LINK_INFO, |info| {
            info.text(INFO_KIND, "veth").nested(INFO_DATA, |data| {
                data.nested(VETH_PEER, |peer| {
                    let (index, peer) = (peer_index(index), peer.raw(&link_header(peer_index(index), 0)));
                    end(peer, CONTAINER_LINK, hardware_address(index)).u32(NETNS_FD, netns.as_raw_fd() as u32)
                })
            })
        });
    host.transact(vec![pair.acknowledged()])
}

/// The index of the container's end: no host's end has it, so that a socket of the wrong namespace finds no link.
pub fn peer_index(index: u32) -> u32 {
    const BASE: u32 = 1 << 29;
    BASE | (index & (BASE - 1))
}

/// The Ethernet address of the end with that index, one that no manufacturer gives. Ours to choose, so that each end can
/// be told the other's, and so that nobody on the host chooses another (as systemd does for those that were made up).
pub fn hardware_address(index: u32) -> [u8; 6] {
    let [a, b, c, d] = index.to_be_bytes();
    [0x02, b'g', a, b, c, d]
}

/// A link of ours as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
}

/// The host's ends of all veth pairs whose names are `prefix` and eight hexadecimal digits.
pub fn list(host: &mut Socket, prefix: &str) -> Result<Vec<Link>, Error> {
    const SKIP_STATISTICS: u32 = 8;
    let request = Message::new("list links", GET_LINK, flags::DUMP, &link_header(0, 0))
        .u32(EXTENT_MASK, SKIP_STATISTICS);
    host.dump(request, |payload| {
        let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
        let fields = payload.get(LINK_HEADER_LEN..)?;
        let name = text(find(fields, NAME)?);
        let kind = text(find(find(fields, LINK_INFO)?, INFO_KIND)?);
        let digits = name.strip_prefix(prefix)?;
        let ours = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (ours && kind == "veth").then_some(Link { index, name })
    })
}

/// The name of the link whose end this announces.
pub fn deleted(event: &Answer<'_>) -> Option<String> {
    const AF_UNSPEC: u8 = 0;
    // A bridge announces so that a link left it, in its own family.
    if event.kind != DELETE_LINK || event.payload.first() != Some(&AF_UNSPEC) {
        return None;
    }
    find(event.payload.get(LINK_HEADER_LEN..)?, NAME).map(text)
}

fn find(fields: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(fields).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// Deletes these and, with them, their peers. Takes tens of milliseconds, for one or for many.
pub fn delete(host: &mut Socket, links: &[Link]) -> Result<(), Error> {
    use rustix::io::Errno;
    for link in links {
        // By name: an index may be another's by now, our names are not used twice.
        let mark = Message::new("mark link for deletion", SET_LINK, 0, &link_header(0, 0));
        match host.transact(vec![mark.text(NAME, &link.name).u32(GROUP, GONE_GROUP).acknowledged()]) {
            Err(error) if error.errno() == Some(Errno::NODEV) => {}
            result => result?,
        }
    }
    if links.is_empty() {
        return Ok(());
    }
    let delete = Message::new("delete links", DELETE_LINK, 0, &link_header(0, 0)).u32(GROUP, GONE_GROUP);
    match host.transact(vec![delete.acknowledged()]) {
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
        result => result,
    }
}

/// Brings a link up.
pub fn bring_up(what: &'static str, index: u32) -> Message {
    Message::new(what, SET_LINK, 0, &link_header(index, UP))
}

/// What an end does with packets. A message of its own: in one that also brings the link up, the kernel does that
/// first, and makes up an address.
pub fn settings(what: &'static str, index: u32, ipv6: bool, host_end: bool) -> Message {
    const INET_CONF: u16 = 1;
    const ROUTE_LOCALNET: u16 = 26;
    const ADDRESS_MODE: u16 = 8;
    const NO_ADDRESS: u8 = 1;
    Message::new(what, SET_LINK, 0, &link_header(index, 0)).nested(AF_SPEC, |spec| {
        // The host reaches mapped ports by its loopback: such packets leave by this link with a loopback source.
        let spec = match host_end {
            true => spec.nested(AF_INET.into(), |m| m.nested(INET_CONF, |m| m.u32(ROUTE_LOCALNET, 1))),
            false => spec,
        };
        // No address that the kernel makes up: by a link-local one, the host and others would be within reach.
        match ipv6 {
            true => spec.nested(AF_INET6.into(), |m| m.bytes(ADDRESS_MODE, &[NO_ADDRESS])),
            false => spec,
        }
    })
}

/// `struct ifinfomsg`; `set` are the flags to set, the others stay.
fn link_header(index: u32, set: u32) -> [u8; LINK_HEADER_LEN] {
    let mut header = [0; LINK_HEADER_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&set.to_ne_bytes());
    header[12..16].copy_from_slice(&set.to_ne_bytes());
    header
}
