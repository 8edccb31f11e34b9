//! What a container adds to the firewall: elements of the fixed sets and maps.

use std::net::IpAddr;

use protocol::NetIn;

use super::{
    table::{Family, Table, octets},
    wire::{
        DELETE_ELEMENT, JUMP, LIST_ELEMENT, NEW_ELEMENT, NEW_SET, VALUE, VERDICT, VERDICT_CHAIN, VERDICT_CODE,
    },
};
use crate::network::{
    lease::Assignment,
    netlink::{Message, flags},
};

/// Host-side link and container address that belong together.
pub const SOURCES: &str = "sources";
/// Host port to container address and port.
pub const PORTS: &str = "ports";
/// Host-side link and the subnet that its container shares with others.
pub const NEIGHBOURS: &str = "neighbours";
/// Host-side link to the chain of its container's outbound rules.
pub const OUTBOUND: &str = "outbound";

/// An element takes at most 80 bytes, and all of one message must fit into 64 KiB.
pub const ELEMENTS_PER_MESSAGE: usize = 600;

/// `NFTA_SET_*`; elements name their set with `SET` and `ELEMENTS`.
pub const SET: u16 = 2;
pub const ELEMENTS: u16 = 3;
/// `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_KEY_END`
pub const KEY: u16 = 1;
pub const KEY_END: u16 = 10;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;

pub const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const CONCATENATION: u32 = 0x80;

/// What `nft` shows values as; the kernel does not look at it. A concatenation has six bits for each of its types.
pub const TYPE_PORT: u32 = 13;
const TYPE_LINK_NAME: u32 = 41;
/// This one the kernel does know.
const TYPE_VERDICT: u32 = 0xffff_ff00;

const LINK_NAME_LEN: u32 = 16;

pub fn address_type(family: Family) -> u32 {
    match family {
        Family::V4 => 7,
        Family::V6 => 8,
    }
}

/// What the keys of a set are.
pub struct SetKey {
    /// A concatenation has six bits for each of its types.
    pub key_type: u32,
    /// How long its parts are, in bytes.
    pub fields: Vec<u32>,
}

impl SetKey {
    /// Adds it to a declaration. A set of intervals whose keys have parts says how long they are.
    pub fn declare(&self, declaration: Message, flags: u32, id: u32) -> Message {
        const FIELDS: u16 = 2;
        const LEN: u16 = 1;
        let parts = self.fields.len() > 1 && flags & INTERVAL != 0;
        // Parts of a concatenation begin at multiples of four bytes.
        let len = match self.fields.as_slice() {
            [len] => *len,
            fields => fields.iter().map(|len| len.next_multiple_of(4)).sum(),
        };
        let declaration = declaration
            .u32_be(SET_FLAGS, if parts { flags | CONCATENATION } else { flags })
            .u32_be(SET_KEY_TYPE, self.key_type)
            .u32_be(SET_KEY_LEN, len)
            .u32_be(SET_ID, id);
        if !parts {
            return declaration;
        }
        declaration.nested(SET_DESCRIPTION, |m| {
            m.nested(FIELDS, |m| {
                self.fields.iter().fold(m, |m, len| m.nested(LIST_ELEMENT, |m| m.u32_be(LEN, *len)))
            })
        })
    }
}

/// The sets and maps, made where they are not there.
pub fn declarations(table: &Table) -> Vec<Message> {
    let (address, address_len) = (address_type(table.family), table.family.address_len());
    let declare = |id, name, flags, key_type, fields: &[u32]| {
        let key = SetKey { key_type, fields: fields.to_vec() };
        key.declare(table.message("add firewall set", NEW_SET, flags::CREATE).text(SET, name), flags, id)
    };
    let link_and_address = (TYPE_LINK_NAME << 6 | address, [LINK_NAME_LEN, address_len]);
    vec![
        declare(1, SOURCES, 0, link_and_address.0, &link_and_address.1),
        declare(2, PORTS, MAP, TYPE_PORT, &[2])
            .u32_be(SET_DATA_TYPE, address << 6 | TYPE_PORT)
            .u32_be(SET_DATA_LEN, address_len + 4),
        declare(3, NEIGHBOURS, INTERVAL, link_and_address.0, &link_and_address.1),
        declare(4, OUTBOUND, MAP, TYPE_LINK_NAME, &[LINK_NAME_LEN]).u32_be(SET_DATA_TYPE, TYPE_VERDICT),
    ]
}

enum Data {
    None,
    Value(Vec<u8>),
    Jump(String),
}

/// An element of one of the sets, by the name of the set.
pub struct Element {
    set: &'static str,
    key: Vec<u8>,
    /// Of an interval.
    key_end: Option<Vec<u8>>,
    data: Data,
}

fn link_name(name: &str) -> Vec<u8> {
    // Names end at 15 bytes; see `lease`.
    let name = name.as_bytes();
    let mut key = name[..name.len().min(15)].to_vec();
    key.resize(LINK_NAME_LEN as usize, 0);
    key
}

/// That a container's address, if it has one of the family, belongs to its link; and whom it shares its subnet with.
pub fn places(family: Family, assignment: &Assignment) -> Vec<Element> {
    let mut elements = Vec::new();
    if let Some(address) = family.address(assignment) {
        let key = [link_name(&assignment.host_link), octets(address)].concat();
        elements.push(Element { set: SOURCES, key, key_end: None, data: Data::None });
    }
    if family == Family::V4 && assignment.subnet.is_shared() {
        let network = assignment.subnet.network();
        let bound = |end: IpAddr| [link_name(&assignment.host_link), octets(end)].concat();
        elements.push(Element {
            set: NEIGHBOURS,
            key: bound(network.network().into()),
            key_end: Some(bound(network.broadcast().into())),
            data: Data::None,
        });
    }
    elements
}

/// Where ports lead to.
pub fn ports(family: Family, assignment: &Assignment, ports: &[NetIn]) -> Vec<Element> {
    let Some(address) = family.address(assignment) else { return Vec::new() };
    let element = |port: &NetIn| {
        // Parts of a concatenation begin at multiples of four bytes.
        let port_end = [port.container_port.to_be_bytes().as_slice(), &[0, 0]].concat();
        let data = Data::Value([octets(address), port_end].concat());
        Element { set: PORTS, key: port.host_port.to_be_bytes().to_vec(), key_end: None, data }
    };
    ports.iter().map(element).collect()
}

/// That a container has rules: its chain has the name of its link.
pub fn jump(link: &str) -> Element {
    Element { set: OUTBOUND, key: link_name(link), key_end: None, data: Data::Jump(link.to_owned()) }
}

/// Adding an element that is there is not an error, unless it is a map's and leads elsewhere.
pub fn add(table: &Table, elements: &[Element]) -> Vec<Message> {
    messages("add to firewall set", NEW_ELEMENT, table, elements)
}

/// Deleting an element that is not there is an error of the whole batch.
pub fn delete(table: &Table, elements: &[Element]) -> Vec<Message> {
    messages("remove from firewall set", DELETE_ELEMENT, table, elements)
}

/// Makes sure that elements are not there. Deleting what is not there fails the whole batch, after milliseconds; adding
/// it first costs microseconds and makes sure that it is there.
pub fn remove(table: &Table, elements: &[Element]) -> Vec<Message> {
    [add(table, elements), delete(table, elements)].concat()
}

/// Deletes every element, but for those of [`OUTBOUND`].
pub fn flush(table: &Table) -> Vec<Message> {
    [SOURCES, PORTS, NEIGHBOURS]
        .map(|set| table.message("clear firewall set", DELETE_ELEMENT, 0).text(SET, set))
        .into_iter()
        .collect()
}

fn messages(what: &'static str, operation: u8, table: &Table, elements: &[Element]) -> Vec<Message> {
    let flags = if operation == NEW_ELEMENT { flags::CREATE } else { 0 };
    // Those of one set that follow each other go into one message.
    elements
        .chunk_by(|one, next| one.set == next.set)
        .flat_map(|same| same.chunks(ELEMENTS_PER_MESSAGE))
        .map(|chunk| {
            table
                .message(what, operation, flags)
                .text(SET, chunk[0].set)
                .nested(ELEMENTS, |list| chunk.iter().fold(list, |list, element| element.put(list)))
        })
        .collect()
}

impl Element {
    fn put(&self, list: Message) -> Message {
        const DATA: u16 = 2;
        list.nested(LIST_ELEMENT, |m| {
            let m = m.nested(KEY, |m| m.bytes(VALUE, &self.key));
            let m = match &self.key_end {
                Some(end) => m.nested(KEY_END, |m| m.bytes(VALUE, end)),
                None => m,
            };
            match &self.data {
                Data::None => m,
                Data::Value(value) => m.nested(DATA, |m| m.bytes(VALUE, value)),
                Data::Jump(chain) => m.nested(DATA, |m| {
                    m.nested(VERDICT, |m| m.u32_be(VERDICT_CODE, JUMP).text(VERDICT_CHAIN, chain))
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Subnet;

    fn assignment() -> Assignment {
        let subnet = Subnet::try_from("10.254.0.0/30".parse::<ipnetwork::Ipv4Network>().unwrap()).unwrap();
        Assignment {
            subnet,
            host_ip: subnet.host_address(),
            container_ip: subnet.container_address(),
            host_link: "g-12345678".to_owned(),
            mtu: 1500,
            ipv6: None,
        }
    }

    fn table() -> Table {
        Table { family: Family::V4, name: "garden".to_owned() }
    }

    fn tail(messages: Vec<Message>, len: usize) -> Vec<u8> {
        assert_eq!(messages.len(), 1);
        let bytes = messages.into_iter().next().unwrap().finish(1);
        bytes[bytes.len() - len..].to_vec()
    }

    #[test]
    fn a_source_is_a_padded_name_and_an_address() {
        // As `nft add element ip garden sources { "g-12345678" . 10.254.0.2 }` sends it.
        let expected = b"\x24\x00\x03\x80\x20\x00\x01\x80\x1c\x00\x01\x80\x18\x00\x01\x00\
            g-12345678\x00\x00\x00\x00\x00\x00\x0a\xfe\x00\x02";
        let messages = add(&table(), &places(Family::V4, &assignment()));
        assert_eq!(tail(messages, expected.len()), expected);
    }

    #[test]
    fn a_port_leads_to_an_address_and_a_port() {
        let mapped = [NetIn { host_port: 80, container_port: 8080 }];
        let expected = b"\x20\x00\x01\x80\x0c\x00\x01\x80\x06\x00\x01\x00\x00\x50\x00\x00\
            \x10\x00\x02\x80\x0c\x00\x01\x00\x0a\xfe\x00\x02\x1f\x90\x00\x00";
        let messages = add(&table(), &ports(Family::V4, &assignment(), &mapped));
        assert_eq!(tail(messages, expected.len()), expected);
    }

    #[test]
    fn thousands_of_elements_are_split_over_messages() {
        let elements: Vec<_> =
            (0..=ELEMENTS_PER_MESSAGE).flat_map(|_| places(Family::V4, &assignment())).collect();
        assert_eq!(add(&table(), &elements).len(), 2);
        assert!(add(&table(), &[]).is_empty());
    }
}
