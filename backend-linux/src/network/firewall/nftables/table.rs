//! One of our tables, of one family of addresses.

use std::net::IpAddr;

use super::wire::{SUBSYSTEM, TABLE_NAME};
use crate::network::{lease::Assignment, netlink::Message};

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// `NFPROTO_*`
    pub fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }

    pub fn address_len(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }

    /// The container's address of this family, if it has one.
    pub fn address(self, assignment: &Assignment) -> Option<IpAddr> {
        match self {
            Family::V4 => Some(assignment.container_ip.into()),
            Family::V6 => assignment.ipv6.map(|pair| pair.container_ip.into()),
        }
    }
}

/// An address as packets have it.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The last `len` bytes of a number, the first of them first, as packets have it.
pub fn bytes(number: u128, len: u32) -> Vec<u8> {
    let all = number.to_be_bytes();
    all[all.len().saturating_sub(len as usize)..].to_vec()
}

/// A name as the kernel has it.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// A table, by family and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

impl Table {
    /// A message about the table or what is in it: each object's messages name their table with the same attribute.
    pub fn message(&self, what: &'static str, operation: u8, flags: u16) -> Message {
        let kind = u16::from_be_bytes([SUBSYSTEM, operation]);
        Message::new(what, kind, flags, &[self.family.number(), 0, 0, 0]).text(TABLE_NAME, &self.name)
    }
}
