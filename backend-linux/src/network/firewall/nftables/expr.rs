//! The expressions that rules are made of, each with its form on the wire. Registers are the kernel's scratch memory
//! within one rule: 16 bytes each, or in slots of 4 bytes.

use ipnetwork::Ipv4Network;

use crate::network::netlink::Message;

/// Sixteen bytes; the kernel counts them from 1.
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
/// The second four bytes of register 1.
const SLOT_1: u32 = 9;
const VERDICT_REGISTER: u32 = 0;

const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

const RTN_LOCAL: u32 = 2;
const IPPROTO_TCP: u8 = 6;
/// Connection states: bits 1 established, 2 related.
const ESTABLISHED_OR_RELATED: u32 = 0x6;
/// Connection status: destination was translated.
const DESTINATION_TRANSLATED: u32 = 0x20;
/// ICMP unreachable, code 13: communication administratively prohibited.
const ADMIN_PROHIBITED: u8 = 13;

const CONNECTION_STATE: u32 = 0;
const CONNECTION_STATUS: u32 = 2;

const NETWORK_HEADER: u32 = 1;
/// Within an IPv4 header.
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;

const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_RESULT: u16 = 3;
const LOOKUP_FLAGS: u16 = 5;

/// Where a packet comes in or leaves.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    In,
    Out,
}

/// A condition or an action; a rule's conditions are ANDed from left to right.
#[derive(Debug, Clone)]
pub enum Expr {
    /// The link's name begins with this, or not.
    Link {
        side: Side,
        prefix: String,
        is: bool,
    },
    /// Comes in by another link than the host's loopback.
    NotFromLoopback,
    /// The link and the packet's source address are together in the set, or not.
    LinkAndSource {
        side: Side,
        set: &'static str,
        is: bool,
    },
    Source(Ipv4Network),
    Destination(Ipv4Network),
    /// To an address of the host itself.
    ToHost,
    Tcp,
    /// Belongs to a connection that was let through, or is an error message about one.
    Established,
    /// To a published port.
    DestinationTranslated,
    Accept,
    Drop,
    /// Drops, and tells the sender.
    Reject,
    /// The source becomes the address of the link that it leaves by.
    Masquerade,
    /// The destination becomes what the map has for the TCP port; the rule ends where it has nothing.
    TranslateByPort {
        map: &'static str,
    },
}

impl Expr {
    /// Adds this to a rule's list of expressions.
    pub fn put(&self, list: Message) -> Message {
        match self {
            Expr::Link { side, prefix, is } => {
                compare(meta(list, link_name(*side), REGISTER_1), *is, prefix.as_bytes())
            }
            Expr::NotFromLoopback => {
                let mut name = [0; 16];
                name[..2].copy_from_slice(b"lo");
                compare(meta(list, link_name(Side::In), REGISTER_1), false, &name)
            }
            Expr::LinkAndSource { side, set, is } => {
                let list = meta(list, link_name(*side), REGISTER_1);
                let list = payload(list, NETWORK_HEADER, SOURCE_OFFSET, 4, REGISTER_2);
                const INVERTED: u32 = 1;
                element(list, "lookup", |m| {
                    let m = m.text(LOOKUP_SET, set).u32_be(LOOKUP_SOURCE, REGISTER_1);
                    if *is { m } else { m.u32_be(LOOKUP_FLAGS, INVERTED) }
                })
            }
            Expr::Source(network) => within(list, SOURCE_OFFSET, *network),
            Expr::Destination(network) => within(list, DESTINATION_OFFSET, *network),
            Expr::ToHost => {
                const ADDRESS_TYPE: u32 = 3;
                const BY_DESTINATION: u32 = 2;
                let list = element(list, "fib", |m| {
                    m.u32_be(1, REGISTER_1).u32_be(2, ADDRESS_TYPE).u32_be(3, BY_DESTINATION)
                });
                compare(list, true, &RTN_LOCAL.to_ne_bytes())
            }
            Expr::Tcp => {
                const L4_PROTOCOL: u32 = 16;
                compare(meta(list, L4_PROTOCOL, REGISTER_1), true, &[IPPROTO_TCP])
            }
            Expr::Established => any_bit(connection(list, CONNECTION_STATE), ESTABLISHED_OR_RELATED),
            Expr::DestinationTranslated => {
                any_bit(connection(list, CONNECTION_STATUS), DESTINATION_TRANSLATED)
            }
            Expr::Accept => verdict(list, 1),
            Expr::Drop => verdict(list, 0),
            Expr::Reject => element(list, "reject", |m| m.u32_be(1, 0).bytes(2, &[ADMIN_PROHIBITED])),
            Expr::Masquerade => element(list, "masq", |m| m),
            Expr::TranslateByPort { map } => {
                const TRANSPORT_HEADER: u32 = 2;
                let list = payload(list, TRANSPORT_HEADER, 2, 2, REGISTER_1);
                let list = element(list, "lookup", |m| {
                    m.text(LOOKUP_SET, map)
                        .u32_be(LOOKUP_SOURCE, REGISTER_1)
                        .u32_be(LOOKUP_RESULT, REGISTER_1)
                });
                const DESTINATION: u32 = 1;
                element(list, "nat", |m| {
                    m.u32_be(1, DESTINATION)
                        .u32_be(2, u32::from(super::IPV4))
                        .u32_be(3, REGISTER_1)
                        .u32_be(5, SLOT_1)
                })
            }
        }
    }
}

/// One expression by its name in the kernel.
fn element(list: Message, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
    list.nested(LIST_ELEMENT, |m| m.text(NAME, name).nested(DATA, data))
}

fn link_name(side: Side) -> u32 {
    match side {
        Side::In => 6,
        Side::Out => 7,
    }
}

fn meta(list: Message, key: u32, register: u32) -> Message {
    element(list, "meta", |m| m.u32_be(1, register).u32_be(2, key))
}

fn connection(list: Message, key: u32) -> Message {
    element(list, "ct", |m| m.u32_be(1, REGISTER_1).u32_be(2, key))
}

fn payload(list: Message, base: u32, offset: u32, len: u32, register: u32) -> Message {
    element(list, "payload", |m| m.u32_be(1, register).u32_be(2, base).u32_be(3, offset).u32_be(4, len))
}

/// Register 1 begins with `value`, or not.
fn compare(list: Message, equal: bool, value: &[u8]) -> Message {
    element(list, "cmp", |m| {
        m.u32_be(1, REGISTER_1).u32_be(2, u32::from(!equal)).nested(3, |m| m.bytes(VALUE, value))
    })
}

fn mask(list: Message, mask: [u8; 4]) -> Message {
    element(list, "bitwise", |m| {
        m.u32_be(1, REGISTER_1)
            .u32_be(2, REGISTER_1)
            .u32_be(3, 4)
            .nested(4, |m| m.bytes(VALUE, &mask))
            .nested(5, |m| m.bytes(VALUE, &[0; 4]))
    })
}

/// Register 1, a number in the host's byte order, has one of these bits.
fn any_bit(list: Message, bits: u32) -> Message {
    compare(mask(list, bits.to_ne_bytes()), false, &[0; 4])
}

fn within(list: Message, offset: u32, network: Ipv4Network) -> Message {
    let list = mask(payload(list, NETWORK_HEADER, offset, 4, REGISTER_1), network.mask().octets());
    compare(list, true, &network.network().octets())
}

fn verdict(list: Message, code: u32) -> Message {
    element(list, "immediate", |m| {
        m.u32_be(1, VERDICT_REGISTER).nested(2, |m| m.nested(VERDICT, |m| m.u32_be(VERDICT_CODE, code)))
    })
}
