//! Sets without a name, each of which belongs to the one rule of the same batch that names its number.

use std::ops::RangeInclusive;

use super::{
    expr::Original,
    sets::{ELEMENTS, ELEMENTS_PER_MESSAGE, INTERVAL, KEY, KEY_END, SET, SetKey, TYPE_PORT, address_type},
    spots::Spot,
    table::{Table, bytes},
    wire::{ANONYMOUS, LIST_ELEMENT, NEW_ELEMENT, NEW_SET, VALUE},
};
use crate::network::netlink::{Message, flags};

/// `NFT_SET_ANONYMOUS`, `NFT_SET_CONSTANT`
const OF_ONE_RULE: u32 = 1 | 2;
/// `NFTA_SET_ELEM_LIST_SET_ID`
const ELEMENTS_SET_ID: u16 = 4;
/// What `nft` shows values as.
const TYPE_PROTOCOL: u32 = 12;

/// An element: a bound of a range, or a range with both.
struct Element {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    /// The key is the first value that is not in the range any more.
    is_end: bool,
}

/// A set of ranges of addresses or of ports.
pub fn of_ranges(table: &Table, id: u32, what: Original, ranges: &[RangeInclusive<u128>]) -> Vec<Message> {
    let len = what.len(table.family);
    let key_type = match what {
        Original::Address => address_type(table.family),
        Original::Port => TYPE_PORT,
    };
    let key = SetKey { key_type, fields: vec![len] };
    // A range is its start, and the start of what is no more in it.
    let largest = u128::MAX >> (128 - 8 * len);
    let bound = |value, is_end| Element { key: bytes(value, len), key_end: None, is_end };
    let elements = ranges.iter().flat_map(|range| {
        let after = (*range.end() < largest).then(|| bound(range.end() + 1, true));
        std::iter::once(bound(*range.start(), false)).chain(after)
    });
    with_elements(table, id, &key, &elements.collect::<Vec<_>>())
}

/// A set of protocols, addresses and ports that belong together. None of them overlaps another.
pub fn of_spots(table: &Table, id: u32, spots: &[Spot]) -> Vec<Message> {
    let address_len = table.family.address_len();
    let key_type = (TYPE_PROTOCOL << 6 | address_type(table.family)) << 6 | TYPE_PORT;
    let key = SetKey { key_type, fields: vec![1, address_len, 2] };
    // Parts of a concatenation begin at multiples of four bytes.
    let corner = move |spot: &Spot, address: u128, port: u128| {
        [&[spot.protocol, 0, 0, 0], bytes(address, address_len).as_slice(), &bytes(port, 2), &[0, 0]].concat()
    };
    let elements = spots.iter().map(|spot| Element {
        key: corner(spot, *spot.to.start(), *spot.ports.start()),
        key_end: Some(corner(spot, *spot.to.end(), *spot.ports.end())),
        is_end: false,
    });
    with_elements(table, id, &key, &elements.collect::<Vec<_>>())
}

fn with_elements(table: &Table, id: u32, key: &SetKey, elements: &[Element]) -> Vec<Message> {
    let set = table.message("add firewall set", NEW_SET, flags::CREATE).text(SET, ANONYMOUS);
    let declaration = key.declare(set, INTERVAL | OF_ONE_RULE, id);
    let elements = elements.chunks(ELEMENTS_PER_MESSAGE).map(|chunk| {
        let message = table.message("add to firewall set", NEW_ELEMENT, flags::CREATE);
        let message = message.text(SET, ANONYMOUS).u32_be(ELEMENTS_SET_ID, id);
        message.nested(ELEMENTS, |list| chunk.iter().fold(list, |list, element| element.put(list)))
    });
    std::iter::once(declaration).chain(elements).collect()
}

impl Element {
    fn put(&self, list: Message) -> Message {
        const FLAGS: u16 = 3;
        const INTERVAL_END: u32 = 1;
        list.nested(LIST_ELEMENT, |m| {
            let m = m.nested(KEY, |m| m.bytes(VALUE, &self.key));
            let m = match &self.key_end {
                Some(end) => m.nested(KEY_END, |m| m.bytes(VALUE, end)),
                None => m,
            };
            if self.is_end { m.u32_be(FLAGS, INTERVAL_END) } else { m }
        })
    }
}
