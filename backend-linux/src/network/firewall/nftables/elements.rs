//! What a container adds to the firewall: elements of the fixed set and map.

use protocol::NetIn;

use super::{
    DELETE_ELEMENT, NEW_ELEMENT, message,
    ruleset::{PORTS, SOURCES},
};
use crate::network::{
    lease::Assignment,
    netlink::{Message, flags},
};

/// An element takes at most 52 bytes, and all of one message must fit into 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 1000;

const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const KEY: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;

struct Element {
    key: Vec<u8>,
    /// None: of a set, not a map.
    data: Option<[u8; 8]>,
}

/// Adding an element that is there is not an error.
pub fn add_sources<'a>(table: &str, assignments: impl IntoIterator<Item = &'a Assignment>) -> Vec<Message> {
    let elements: Vec<_> = assignments.into_iter().map(source).collect();
    messages("add address to firewall", NEW_ELEMENT, table, SOURCES, &elements)
}

/// Deleting an element that is not there is an error of the whole batch.
pub fn delete_sources(table: &str, assignment: &Assignment) -> Vec<Message> {
    messages("remove address from firewall", DELETE_ELEMENT, table, SOURCES, &[source(assignment)])
}

/// Adding an element that is there is an error of the whole batch if it leads elsewhere.
pub fn add_ports<'a>(
    table: &str,
    containers: impl IntoIterator<Item = (&'a Assignment, &'a [NetIn])>,
) -> Vec<Message> {
    let elements: Vec<_> = containers
        .into_iter()
        .flat_map(|(assignment, ports)| ports.iter().map(|port| port_element(assignment, *port)))
        .collect();
    messages("add port to firewall", NEW_ELEMENT, table, PORTS, &elements)
}

/// Deleting an element that is not there is an error of the whole batch.
pub fn delete_ports(table: &str, assignment: &Assignment, ports: &[NetIn]) -> Vec<Message> {
    let elements: Vec<_> = ports.iter().map(|port| port_element(assignment, *port)).collect();
    messages("remove port from firewall", DELETE_ELEMENT, table, PORTS, &elements)
}

/// Deletes every element.
pub fn flush(table: &str) -> Vec<Message> {
    [SOURCES, PORTS]
        .map(|set| message("clear firewall set", DELETE_ELEMENT, 0, table).text(SET, set))
        .into_iter()
        .collect()
}

fn source(assignment: &Assignment) -> Element {
    let mut key = vec![0; 20];
    // Names end at 15 bytes; see `lease`.
    let name = assignment.host_link.as_bytes();
    let len = name.len().min(15);
    key[..len].copy_from_slice(&name[..len]);
    key[16..].copy_from_slice(&assignment.container_ip.octets());
    Element { key, data: None }
}

fn port_element(assignment: &Assignment, port: NetIn) -> Element {
    // Parts of a concatenation begin at multiples of four bytes.
    let [a, b, c, d] = assignment.container_ip.octets();
    let [high, low] = port.container_port.to_be_bytes();
    Element { key: port.host_port.to_be_bytes().to_vec(), data: Some([a, b, c, d, high, low, 0, 0]) }
}

fn messages(what: &'static str, operation: u8, table: &str, set: &str, elements: &[Element]) -> Vec<Message> {
    let flags = if operation == NEW_ELEMENT { flags::CREATE } else { 0 };
    elements
        .chunks(ELEMENTS_PER_MESSAGE)
        .map(|chunk| {
            message(what, operation, flags, table)
                .text(SET, set)
                .nested(ELEMENTS, |list| chunk.iter().fold(list, |list, element| element.put(list)))
        })
        .collect()
}

impl Element {
    fn put(&self, list: Message) -> Message {
        list.nested(LIST_ELEMENT, |m| {
            let m = m.nested(KEY, |m| m.bytes(VALUE, &self.key));
            match &self.data {
                Some(data) => m.nested(DATA, |m| m.bytes(VALUE, data)),
                None => m,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::pool::SubnetPool;

    fn assignment() -> Assignment {
        let subnet = SubnetPool::new("10.254.0.0/30".parse().unwrap(), None).unwrap().take("", "a").unwrap();
        Assignment {
            subnet,
            host_ip: subnet.host_address(),
            container_ip: subnet.container_address(),
            host_link: "g-12345678".to_owned(),
            mtu: 1500,
            ipv6: None,
        }
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
        assert_eq!(tail(add_sources("garden", [&assignment()]), expected.len()), expected);
    }

    #[test]
    fn a_port_leads_to_an_address_and_a_port() {
        let ports = [NetIn { host_port: 80, container_port: 8080 }];
        let expected = b"\x20\x00\x01\x80\x0c\x00\x01\x80\x06\x00\x01\x00\x00\x50\x00\x00\
            \x10\x00\x02\x80\x0c\x00\x01\x00\x0a\xfe\x00\x02\x1f\x90\x00\x00";
        let assignment = assignment();
        let messages = add_ports("garden", [(&assignment, ports.as_slice())]);
        assert_eq!(tail(messages, expected.len()), expected);
    }

    #[test]
    fn thousands_of_elements_are_split_over_messages() {
        let assignments = vec![assignment(); ELEMENTS_PER_MESSAGE + 1];
        assert_eq!(add_sources("garden", &assignments).len(), 2);
        assert!(add_sources("garden", &[]).is_empty());
    }
}
