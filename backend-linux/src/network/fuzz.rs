//! What must hold of netlink's datagrams and of a spec's network, whatever they are.

use super::{
    link,
    netlink::{Message, answers, attributes},
    pool::subnet,
};

/// A datagram: everything that is read out of it lies in it, and reading it ends.
pub(crate) fn datagram(bytes: &[u8]) {
    let is_part = |part: &[u8]| part.is_empty() || bytes.as_ptr_range().contains(&part.as_ptr());
    let mut answers_bytes = 0;
    for answer in answers(bytes) {
        assert!(is_part(answer.payload));
        answers_bytes += 16 + answer.payload.len();
        let mut attributes_bytes = 0;
        for (kind, value) in attributes(answer.payload) {
            assert!(is_part(value) && kind & 0xc000 == 0);
            attributes_bytes += 4 + value.len();
        }
        assert!(attributes_bytes <= answer.payload.len());
        if let Some(name) = link::deleted(&answer) {
            assert!(name.len() <= 3 * answer.payload.len());
        }
    }
    assert!(answers_bytes <= bytes.len(), "{answers_bytes} read of {}", bytes.len());

    // What is built of it reads back.
    let kinds = || (1..100).zip(bytes.chunks(40));
    let message =
        kinds().fold(Message::new("test", 1, 0, &[]), |message, (kind, value)| message.bytes(kind, value));
    let built = message.finish(7);
    let read: Vec<_> = answers(&built).flat_map(|answer| attributes(answer.payload)).collect();
    assert_eq!(read, kinds().collect::<Vec<_>>());
}

/// The `network` of a spec.
pub(crate) fn subnet(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(named) = subnet::parse(&text) else { return };
    let read = |text: &str| subnet::parse(text).map(|named| (named.subnet, named.address)).ok();
    let subnet = named.subnet;
    assert_eq!(read(&subnet.to_string()), Some((subnet, None)), "by its own name");
    let address = named.address.unwrap_or(subnet.container_address());
    let by_address = read(&format!("{address}/{}", subnet.prefix()));
    assert_eq!(by_address, Some((subnet, Some(address))), "by each address of a container");
    assert_ne!(address, subnet.host_address());
}
