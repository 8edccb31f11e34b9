//! Just enough netlink: a veth pair, its addresses and routes, and elements of one nftables set.

use std::{
    error::Error,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

// Numbers from linux/netlink.h, rtnetlink.h, if_link.h, nfnetlink.h and nf_tables.h.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const NEST: u16 = 0x8000;

/// A netlink socket; each call waits for the kernel's answer to everything that was sent.
pub struct Netlink(OwnedFd);

/// Messages that go to the kernel in one call.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    expected: usize,
}

impl Netlink {
    /// For links, addresses and routes.
    pub fn route() -> Result<Self, Box<dyn Error>> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For nftables.
    pub fn firewall() -> Result<Self, Box<dyn Error>> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, Box<dyn Error>> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Netlink(fd))
    }

    /// Sends, and fails with the kernel's first complaint.
    pub fn send(&self, batch: Batch) -> Result<(), Box<dyn Error>> {
        sendto(self.0.as_raw_fd(), &batch.bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0u8; 8192];
        let mut seen = 0;
        while seen < batch.expected {
            let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            let mut rest = &answer[..length];
            while rest.len() >= 20 {
                let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let code = i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]);
                if code != 0 {
                    return Err(format!("netlink: {}", io::Error::from_raw_os_error(-code)).into());
                }
                seen += 1;
                rest = &rest[size.next_multiple_of(4).min(rest.len())..];
            }
        }
        Ok(())
    }
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, head: &[u8], attributes: &[u8]) -> &mut Self {
        let length = 16 + head.len() + attributes.len();
        self.bytes.extend((length as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | flags).to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend(head);
        self.bytes.extend(attributes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        if flags & ACK != 0 {
            self.expected += 1;
        }
        self
    }

    /// A veth pair, one end here and up, the other in the network namespace of process `pid` as `eth0`.
    pub fn veth(&mut self, name: &str, index: u32, pid: u32) -> &mut Self {
        let queues = [attribute(31, &1u32.to_ne_bytes()), attribute(32, &1u32.to_ne_bytes())].concat();
        let peer = [&link_head(0, false)[..], &text(3, "eth0"), &attribute(19, &pid.to_ne_bytes()), &queues]
            .concat();
        let kind = [text(1, "veth"), attribute(2 | NEST, &attribute(1 | NEST, &peer))].concat();
        let attributes = [text(3, name), queues, attribute(18 | NEST, &kind)].concat();
        self.message(16, ACK | CREATE, &link_head(index, true), &attributes)
    }

    /// Sets a link up.
    pub fn up(&mut self, index: u32) -> &mut Self {
        self.message(16, ACK, &link_head(index, true), &[])
    }

    /// Gives a link an address of a /30.
    pub fn address(&mut self, index: u32, address: Ipv4Addr) -> &mut Self {
        let head = [&[2, 30, 0, 0][..], &index.to_ne_bytes()].concat();
        let both = [attribute(1, &address.octets()), attribute(2, &address.octets())].concat();
        self.message(20, ACK | CREATE, &head, &both)
    }

    /// The default route.
    pub fn default_route(&mut self, gateway: Ipv4Addr) -> &mut Self {
        // AF_INET, table main, protocol boot, scope universe, unicast.
        let head = [2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        self.message(24, ACK | CREATE, &head, &attribute(5, &gateway.octets()))
    }

    /// Adds (or removes) an address to a set of an `ip` table.
    pub fn element(&mut self, add: bool, table: &str, set: &str, address: Ipv4Addr) -> &mut Self {
        let (kind, flags) = if add { (0x0a0c, ACK | CREATE) } else { (0x0a0e, ACK) };
        let key = attribute(1 | NEST, &attribute(1 | NEST, &attribute(1, &address.octets())));
        let attributes = [text(1, table), text(2, set), attribute(3 | NEST, &key)].concat();
        self.message(16, 0, &[0, 0, 0, 10], &[]).message(kind, flags, &[2, 0, 0, 0], &attributes).message(
            17,
            0,
            &[0, 0, 0, 10],
            &[],
        )
    }
}

/// `struct ifinfomsg`.
fn link_head(index: u32, up: bool) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&u32::from(up).to_ne_bytes());
    head[12..16].copy_from_slice(&u32::from(up).to_ne_bytes());
    head
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}
