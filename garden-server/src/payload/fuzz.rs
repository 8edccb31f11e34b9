//! What must hold of the parser whatever a client sends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::*;

/// What the parser may hold between two calls: data that waits for its source, the skeleton, a key. Each of the
/// buffers may have grown to twice what is in it, and the data's to thrice a piece more, where broken bytes were
/// replaced.
const HOLDS_MAX_BYTES: usize = 2 * (4 * HELD_MAX_BYTES + SKELETON_MAX_BYTES + 4 * KEY_MAX_BYTES);

/// A process's stream from the client.
pub(crate) fn stream(bytes: &[u8]) {
    let whole = events(bytes, bytes.len().max(1));
    for piece_bytes in [1, 2, 3, 7, 64] {
        assert_eq!(events(bytes, piece_bytes), whole, "in pieces of {piece_bytes}");
    }
    if let Some(expected) = model(bytes) {
        assert_eq!(whole, expected, "as the messages say one by one");
    }
}

/// The events of the bytes, cut into pieces.
fn events(bytes: &[u8], piece_bytes: usize) -> Vec<Event> {
    let (mut parser, mut all) = (PayloadParser::default(), Vec::new());
    for piece in bytes.chunks(piece_bytes) {
        let before = all.len();
        let detached = matches!(all.last(), Some(Event::Detach(_)));
        parser.feed(piece, &mut all);
        assert!(!detached || all.len() == before, "something came after the end");
        let holds_bytes = parser.data.capacity() + parser.skeleton.capacity() + parser.key.capacity();
        assert!(holds_bytes <= HOLDS_MAX_BYTES, "{holds_bytes} bytes held");
        assert!(parser.data.len() <= HELD_MAX_BYTES && parser.skeleton.len() <= SKELETON_MAX_BYTES);
    }
    joined(all)
}

/// Neighbouring data put together: how it is cut is not part of the contract.
fn joined(events: Vec<Event>) -> Vec<Event> {
    let mut joined: Vec<Event> = Vec::new();
    let mut input = Vec::new();
    for event in events {
        match event {
            Event::Stdin(data) => input.extend_from_slice(&data),
            event => {
                joined.extend((!input.is_empty()).then(|| Event::Stdin(std::mem::take(&mut input).into())));
                joined.push(event);
            }
        }
    }
    joined.extend((!input.is_empty()).then(|| Event::Stdin(input.into())));
    joined
}

/// What whole messages mean, read one by one; none where the parser does otherwise on purpose: where a message is
/// broken, too long, or names its data or source twice.
fn model(bytes: &[u8]) -> Option<Vec<Event>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut events = Vec::new();
    let mut messages = serde_json::Deserializer::from_str(text).into_iter::<Keys>();
    let mut begin = 0;
    while let Some(keys) = messages.next() {
        let (keys, message) = (keys.ok()?, &bytes[begin..messages.byte_offset()]);
        begin = messages.byte_offset();
        if keys.count("data") > 1 || keys.count("source") > 1 || message.len() > SKELETON_MAX_BYTES {
            return None;
        }
        let payload: ProcessPayload = json::decode(message).ok()?;
        let says_nothing = payload.tty.is_none() && payload.source.is_none() && payload.signal.is_none();
        let then = match (payload.source, &payload.data, payload.signal) {
            (Some(_), Some(data), _) => {
                events.push(Event::Stdin(data.clone().into()));
                None
            }
            (Some(_), None, _) => Some(Event::EndOfStdin),
            (None, _, Some(signal)) => {
                Some(Signal::from_wire(signal).map_or(Event::EndOfStdin, Event::Signal))
            }
            (None, _, None) => says_nothing.then_some(Event::EndOfStdin),
        };
        events.extend(payload.tty.map(Event::Tty));
        events.extend(then);
    }
    Some(joined(events))
}

/// The keys of an object, each as often as it stands there.
struct Keys(Vec<String>);

impl Keys {
    fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|key| key.eq_ignore_ascii_case(name)).count()
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Keys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or null")
            }
            fn visit_unit<E>(self) -> Result<Keys, E> {
                Ok(Keys(Vec::new()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_any(Collect)
    }
}
