//! What must hold of netlink's datagrams and of a spec's network, whatever they are.

use super::{
    link,
    netlink::{Message, answers, attributes},
    pool::subnets,
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
    if let Ok(subnet) = subnets::parse(&text) {
        assert_eq!(subnets::parse(&subnet.to_string()).ok(), Some(subnet), "by its own name");
        let container = subnet.container_address();
        assert_eq!(subnets::parse(&container.to_string()).ok(), Some(subnet), "by its container's address");
        assert_ne!(container, subnet.host_address());
    }
}
