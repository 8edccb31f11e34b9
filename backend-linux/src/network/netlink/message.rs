//! One netlink message: a header, a header of its family, and attributes that may nest.

use super::flags;

const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that say how its value is made, not what it is.
const TYPE_FLAGS: u16 = 0xc000;

/// A request under construction; each method adds an attribute at the end.
#[derive(Debug, Clone)]
pub struct Message {
    /// What the request is for, for errors.
    pub what: &'static str,
    bytes: Vec<u8>,
}

impl Message {
    /// A request of `kind` without attributes.
    pub fn new(what: &'static str, kind: u16, flags: u16, family_header: &[u8]) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes()); // the length, see `finish`
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]); // the sequence number, see `finish`; the port: the kernel's
        bytes.extend_from_slice(family_header);
        pad(&mut bytes);
        Message { what, bytes }
    }

    /// Asks the kernel to confirm this one too, not only to report its failure.
    pub fn acknowledged(mut self) -> Message {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags::ACK;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    /// Whether the kernel will confirm this one.
    /// The same with another first byte of its family's header, which is the family of addresses.
    pub fn of_family(mut self, family: u8) -> Message {
        self.bytes[HEADER_LEN] = family;
        self
    }

    pub fn wants_ack(&self) -> bool {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) & flags::ACK != 0
    }

    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Message {
        self.put_header(kind, value.len());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// An integer in the host's byte order, as rtnetlink has them.
    pub fn u32(self, kind: u16, value: u32) -> Message {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// An integer in the network's byte order, as nftables has them.
    pub fn u32_be(self, kind: u16, value: u32) -> Message {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A string with the zero byte that ends it.
    pub fn text(mut self, kind: u16, value: &str) -> Message {
        self.put_header(kind, value.len() + 1);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        pad(&mut self.bytes);
        self
    }

    /// An attribute whose value is what `fill` adds.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Message {
        let start = self.bytes.len();
        self.put_header(kind | NESTED, 0);
        let mut filled = fill(self);
        let len = attribute_len(filled.bytes.len() - start);
        filled.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        filled
    }

    /// Bytes without an attribute's header, for a family header inside an attribute.
    pub fn raw(mut self, value: &[u8]) -> Message {
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// The message as it is sent.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn put_header(&mut self, kind: u16, value_len: usize) {
        self.bytes.extend_from_slice(&attribute_len(value_len + ATTRIBUTE_HEADER_LEN).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }
}

/// Attributes end at 64 KiB. Callers split what could be longer; a longer one would be refused by the kernel.
fn attribute_len(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message that came from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// What follows the header: a family header and attributes.
    pub payload: &'a [u8],
}

/// The messages in one datagram. What is cut short ends the list.
pub fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<HEADER_LEN>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        // An error repeats the request, which a receive buffer may cut: what counts stands at its start.
        let payload = datagram.get(HEADER_LEN..len.min(datagram.len()))?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    })
}

/// The attributes in `bytes`, without the flags of their types. What is cut short ends the list.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk::<ATTRIBUTE_HEADER_LEN>()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(ATTRIBUTE_HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !TYPE_FLAGS, value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_message_is_padded_and_its_lengths_count_what_is_nested() {
        let message = Message::new("test", 16, flags::CREATE, &[1, 2])
            .text(3, "eth0")
            .nested(18, |m| m.u32(1, 7))
            .acknowledged()
            .finish(9);
        let mut expected = Vec::new();
        expected.extend_from_slice(&44u32.to_ne_bytes());
        expected.extend_from_slice(&16u16.to_ne_bytes());
        expected.extend_from_slice(&0x405u16.to_ne_bytes());
        expected.extend_from_slice(&9u32.to_ne_bytes());
        expected.extend_from_slice(&0u32.to_ne_bytes());
        expected.extend_from_slice(&[1, 2, 0, 0]);
        expected.extend_from_slice(&9u16.to_ne_bytes());
        expected.extend_from_slice(&3u16.to_ne_bytes());
        expected.extend_from_slice(b"eth0\0\0\0\0");
        expected.extend_from_slice(&12u16.to_ne_bytes());
        expected.extend_from_slice(&0x8012u16.to_ne_bytes());
        expected.extend_from_slice(&8u16.to_ne_bytes());
        expected.extend_from_slice(&1u16.to_ne_bytes());
        expected.extend_from_slice(&7u32.to_ne_bytes());
        assert_eq!(message, expected);
    }

    proptest! {
        #[test]
        fn what_is_built_reads_back(values in vec((1u16..100, vec(any::<u8>(), 0..40)), 0..10)) {
            let message = Message::new("test", 1, 0, &[]);
            let message = values.iter().fold(message, |m, (kind, value)| m.bytes(*kind, value));
            let bytes = message.finish(5);
            let read: Vec<_> = answers(&bytes).collect();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(read[0].sequence, 5);
            let back: Vec<_> = attributes(read[0].payload).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(back, values);
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in vec(any::<u8>(), 0..200)) {
            for answer in answers(&bytes) {
                attributes(answer.payload).for_each(drop);
            }
        }
    }
}
