//! The expressions that rules are made of, each with its form on the wire. Registers are the kernel's scratch memory
//! within one rule: 16 bytes each, or in slots of 4 bytes.

use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use super::{
    table::{Family, bytes, octets},
    wire::{ANONYMOUS, LIST_ELEMENT, VALUE, VERDICT, VERDICT_CODE},
};
use crate::network::{link::CONTAINERS_GROUP, netlink::Message};

/// Sixteen bytes; the kernel counts them from 1.
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
/// The slots that follow the first four, and the first sixteen, bytes of register 1.
const AFTER_4_BYTES: u32 = 9;
const AFTER_16_BYTES: u32 = 12;
/// The first four bytes of register 1 as a slot.
const SLOT_0: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const L4_PROTOCOL: u32 = 16;

const NAME: u16 = 1;
const DATA: u16 = 2;

const RTN_LOCAL: u32 = 2;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP_V6: u8 = 58;
/// Connection states: bits 1 established, 2 related.
const ESTABLISHED_OR_RELATED: u32 = 0x6;
/// Bit 3. Neither a packet of no connection nor one that is not tracked has it.
const NEW: u32 = 0x8;
/// Connection status: destination was translated.
const DESTINATION_TRANSLATED: u32 = 0x20;

const CONNECTION_STATE: u32 = 0;
const CONNECTION_STATUS: u32 = 2;
const CONNECTION_DESTINATION_PORT: u32 = 12;
const CONNECTION_DESTINATION_IPV4: u32 = 20;
const CONNECTION_DESTINATION_IPV6: u32 = 22;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

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
    /// Comes in by the link of a container, be it this server's or another's.
    FromContainers,
    /// Comes in by another link than the host's loopback.
    NotFromLoopback,
    /// The link and the packet's source address are together in the set, or not.
    LinkAndSource {
        side: Side,
        set: &'static str,
        is: bool,
    },
    /// The link that the packet comes in by and its destination are together in the set.
    LinkAndDestination {
        set: &'static str,
    },
    Source(IpNetwork),
    Destination(IpNetwork),
    /// To an address of the host itself.
    ToHost,
    Protocol(u8),
    /// What the connection was made to, before any translation.
    Original {
        what: Original,
        among: Among,
    },
    /// Protocol, address and port that the connection was made to are together in a set without a name that comes in
    /// the same batch.
    OriginalSpot {
        id: u32,
    },
    IcmpType(RangeInclusive<u8>),
    IcmpCode(u8),
    /// Belongs to a connection that was let through, or is an error message about one.
    Established,
    /// Neither begins a connection nor belongs to one that was let through: nothing is known of where it was meant to go.
    Stray,
    /// To a published port, or not.
    DestinationTranslated {
        is: bool,
    },
    /// Either of these two, as the programs of iptables make it: they refuse to show a table with anything else.
    IptablesConntrack,
    Log {
        prefix: String,
    },
    Accept,
    Drop,
    /// Drops, and tells the sender.
    Reject,
    /// What the map has for the link that the packet comes in by; the next rule where it has nothing.
    VerdictByLink {
        map: &'static str,
    },
    /// The source becomes the address of the link that it leaves by.
    Masquerade,
    /// The destination becomes what the map has for the TCP port; the rule ends where it has nothing.
    TranslateByPort {
        map: &'static str,
    },
}

/// Part of what a connection was made to.
#[derive(Debug, Clone, Copy)]
pub enum Original {
    Address,
    Port,
}

impl Original {
    pub fn len(self, family: Family) -> u32 {
        match self {
            Original::Address => family.address_len(),
            Original::Port => 2,
        }
    }
}

/// Which values match, as packets have them.
#[derive(Debug, Clone)]
pub enum Among {
    Range {
        start: Vec<u8>,
        end: Vec<u8>,
    },
    /// Those of a set without a name that comes in the same batch.
    Set {
        id: u32,
    },
}

impl Among {
    /// All from the first to the last of numbers of `len` bytes.
    pub fn range(range: &RangeInclusive<u128>, len: u32) -> Among {
        Among::Range { start: bytes(*range.start(), len), end: bytes(*range.end(), len) }
    }
}

impl Expr {
    /// Adds this to the list of expressions of a rule in a table of that family.
    pub fn put(&self, list: Message, family: Family) -> Message {
        match self {
            Expr::Link { side, prefix, is } => {
                compare(meta(list, link_name(*side), REGISTER_1), *is, prefix.as_bytes())
            }
            Expr::FromContainers => {
                const INPUT_LINK_GROUP: u32 = 21;
                compare(meta(list, INPUT_LINK_GROUP, REGISTER_1), true, &CONTAINERS_GROUP.to_ne_bytes())
            }
            Expr::NotFromLoopback => {
                let mut name = [0; 16];
                name[..2].copy_from_slice(b"lo");
                compare(meta(list, link_name(Side::In), REGISTER_1), false, &name)
            }
            Expr::LinkAndSource { side, set, is } => {
                let list = meta(list, link_name(*side), REGISTER_1);
                lookup(address(list, family, Way::Source, REGISTER_2), set, *is)
            }
            Expr::LinkAndDestination { set } => {
                let list = meta(list, link_name(Side::In), REGISTER_1);
                lookup(address(list, family, Way::Destination, REGISTER_2), set, true)
            }
            Expr::Source(network) => within(list, family, Way::Source, *network),
            Expr::Destination(network) => within(list, family, Way::Destination, *network),
            Expr::ToHost => {
                const ADDRESS_TYPE: u32 = 3;
                const BY_DESTINATION: u32 = 2;
                let list = element(list, "fib", |m| {
                    m.u32_be(1, REGISTER_1).u32_be(2, ADDRESS_TYPE).u32_be(3, BY_DESTINATION)
                });
                compare(list, true, &RTN_LOCAL.to_ne_bytes())
            }
            Expr::Protocol(number) => compare(meta(list, L4_PROTOCOL, REGISTER_1), true, &[*number]),
            Expr::Original { what, among } => {
                let list = original(list, *what, family, REGISTER_1);
                match among {
                    Among::Range { start, end } => between(list, start, end),
                    Among::Set { id } => lookup_anonymous(list, *id),
                }
            }
            Expr::OriginalSpot { id } => {
                let list = meta(list, L4_PROTOCOL, SLOT_0);
                let list = original(list, Original::Address, family, SLOT_0 + 1);
                let port = SLOT_0 + 1 + family.address_len() / 4;
                lookup_anonymous(original(list, Original::Port, family, port), *id)
            }
            Expr::IcmpType(types) => {
                between(payload(list, TRANSPORT_HEADER, 0, 1, REGISTER_1), &[*types.start()], &[*types.end()])
            }
            Expr::IcmpCode(code) => {
                compare(payload(list, TRANSPORT_HEADER, 1, 1, REGISTER_1), true, &[*code])
            }
            Expr::Established => any_bit(connection(list, CONNECTION_STATE), ESTABLISHED_OR_RELATED, true),
            Expr::Stray => any_bit(connection(list, CONNECTION_STATE), NEW, false),
            Expr::DestinationTranslated { is } => {
                any_bit(connection(list, CONNECTION_STATUS), DESTINATION_TRANSLATED, *is)
            }
            Expr::Log { prefix } => element(list, "log", |m| m.text(2, prefix)),
            Expr::IptablesConntrack => {
                const REVISION: u32 = 3;
                element(list, "match", |m| {
                    m.text(1, "conntrack").u32_be(2, REVISION).bytes(3, &established_or_translated())
                })
            }
            Expr::Accept => verdict(list, 1),
            Expr::Drop => verdict(list, 0),
            Expr::Reject => {
                // Communication administratively prohibited, in each family's numbers.
                let code = match family {
                    Family::V4 => 13,
                    Family::V6 => 1,
                };
                element(list, "reject", |m| m.u32_be(1, 0).bytes(2, &[code]))
            }
            Expr::VerdictByLink { map } => {
                let list = meta(list, link_name(Side::In), REGISTER_1);
                element(list, "lookup", |m| {
                    m.text(LOOKUP_SET, map)
                        .u32_be(LOOKUP_SOURCE, REGISTER_1)
                        .u32_be(LOOKUP_RESULT, VERDICT_REGISTER)
                })
            }
            Expr::Masquerade => element(list, "masq", |m| m),
            Expr::TranslateByPort { map } => {
                let list = payload(list, TRANSPORT_HEADER, 2, 2, REGISTER_1);
                let list = element(list, "lookup", |m| {
                    m.text(LOOKUP_SET, map)
                        .u32_be(LOOKUP_SOURCE, REGISTER_1)
                        .u32_be(LOOKUP_RESULT, REGISTER_1)
                });
                const DESTINATION: u32 = 1;
                let port = match family {
                    Family::V4 => AFTER_4_BYTES,
                    Family::V6 => AFTER_16_BYTES,
                };
                element(list, "nat", |m| {
                    m.u32_be(1, DESTINATION)
                        .u32_be(2, u32::from(family.number()))
                        .u32_be(3, REGISTER_1)
                        .u32_be(5, port)
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

/// `xt_conntrack_mtinfo3`, as long as the kernel counts it.
fn established_or_translated() -> [u8; 168] {
    const MATCH_FLAGS_OFFSET: usize = 146;
    const STATES_OFFSET: usize = 150;
    const MATCH_STATE: u16 = 1;
    // One bit for each state, and one more for translation.
    const ESTABLISHED: u16 = 1 << 1;
    const RELATED: u16 = 1 << 2;
    const TRANSLATED: u16 = 1 << 7;
    let mut info = [0; 168];
    info[MATCH_FLAGS_OFFSET..][..2].copy_from_slice(&MATCH_STATE.to_ne_bytes());
    info[STATES_OFFSET..][..2].copy_from_slice(&(ESTABLISHED | RELATED | TRANSLATED).to_ne_bytes());
    info
}

/// What the connection's first packet had.
fn original(list: Message, what: Original, family: Family, register: u32) -> Message {
    const ORIGINAL: u8 = 0;
    let key = match (what, family) {
        (Original::Address, Family::V4) => CONNECTION_DESTINATION_IPV4,
        (Original::Address, Family::V6) => CONNECTION_DESTINATION_IPV6,
        (Original::Port, _) => CONNECTION_DESTINATION_PORT,
    };
    element(list, "ct", |m| m.u32_be(1, register).u32_be(2, key).bytes(3, &[ORIGINAL]))
}

fn lookup_anonymous(list: Message, id: u32) -> Message {
    const ID: u16 = 4;
    element(list, "lookup", |m| {
        m.text(LOOKUP_SET, ANONYMOUS).u32_be(LOOKUP_SOURCE, REGISTER_1).u32_be(ID, id)
    })
}

fn payload(list: Message, base: u32, offset: u32, len: u32, register: u32) -> Message {
    element(list, "payload", |m| m.u32_be(1, register).u32_be(2, base).u32_be(3, offset).u32_be(4, len))
}

#[derive(Clone, Copy)]
enum Way {
    Source,
    Destination,
}

fn address(list: Message, family: Family, way: Way, register: u32) -> Message {
    let offset = match (family, way) {
        (Family::V4, Way::Source) => 12,
        (Family::V4, Way::Destination) => 16,
        (Family::V6, Way::Source) => 8,
        (Family::V6, Way::Destination) => 24,
    };
    payload(list, NETWORK_HEADER, offset, family.address_len(), register)
}

fn lookup(list: Message, set: &str, is: bool) -> Message {
    const INVERTED: u32 = 1;
    element(list, "lookup", |m| {
        let m = m.text(LOOKUP_SET, set).u32_be(LOOKUP_SOURCE, REGISTER_1);
        if is { m } else { m.u32_be(LOOKUP_FLAGS, INVERTED) }
    })
}

/// Register 1 begins with `value`, or not.
fn compare(list: Message, equal: bool, value: &[u8]) -> Message {
    element(list, "cmp", |m| {
        m.u32_be(1, REGISTER_1).u32_be(2, u32::from(!equal)).nested(3, |m| m.bytes(VALUE, value))
    })
}

/// Register 1 begins with a value from `start` to `end`.
fn between(list: Message, start: &[u8], end: &[u8]) -> Message {
    if start == end {
        return compare(list, true, start);
    }
    element(list, "range", |m| {
        m.u32_be(1, REGISTER_1)
            .u32_be(2, 0)
            .nested(3, |m| m.bytes(VALUE, start))
            .nested(4, |m| m.bytes(VALUE, end))
    })
}

fn mask(list: Message, mask: &[u8]) -> Message {
    let zeros = vec![0; mask.len()];
    element(list, "bitwise", |m| {
        m.u32_be(1, REGISTER_1)
            .u32_be(2, REGISTER_1)
            .u32_be(3, mask.len() as u32)
            .nested(4, |m| m.bytes(VALUE, mask))
            .nested(5, |m| m.bytes(VALUE, &zeros))
    })
}

/// Register 1, a number in the host's byte order, has one of these bits, or none of them.
fn any_bit(list: Message, bits: u32, is: bool) -> Message {
    compare(mask(list, &bits.to_ne_bytes()), !is, &[0; 4])
}

fn within(list: Message, family: Family, way: Way, network: IpNetwork) -> Message {
    let list = mask(address(list, family, way, REGISTER_1), &octets(network.mask()));
    compare(list, true, &octets(network.network()))
}

fn verdict(list: Message, code: u32) -> Message {
    element(list, "immediate", |m| {
        m.u32_be(1, VERDICT_REGISTER).nested(2, |m| m.nested(VERDICT, |m| m.u32_be(VERDICT_CODE, code)))
    })
}
