//! Fuzz targets: documents, paths and queries, with what must hold of them whatever comes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    BulkInfo, BulkMetrics, Capacity, ContainerSpec, ErrorBody, Limits, ListResponse, NetInRequest,
    NetOutRule, ProcessPayload, ProcessSpec, Properties, PropertyValue, StopRequest,
    extension::{Channel, SignalRequest, Status, TerminalSize, Windows},
    json::{self, DurationNs},
    routes::{Match, escape, find, query_pairs, unescape},
};

/// A target's name, its function, and where it has seeds besides its own: see `tests/fuzz/seeds.rs`.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// The targets.
pub const TARGETS: &[Target] = &[
    ("json", documents, &["wire/golden/re", "wire/golden/stream-"]),
    ("channel", message, &[]),
    ("routes", requests, &[]),
];

/// A body, read as each type that a body can have.
fn documents(bytes: &[u8]) {
    document::<ContainerSpec>(bytes);
    document::<ProcessSpec>(bytes);
    document::<ProcessPayload>(bytes);
    document::<NetInRequest>(bytes);
    document::<NetOutRule>(bytes);
    document::<Vec<NetOutRule>>(bytes);
    document::<PropertyValue>(bytes);
    document::<Properties>(bytes);
    document::<StopRequest>(bytes);
    document::<DurationNs>(bytes);
    document::<Limits>(bytes);
    document::<Capacity>(bytes);
    document::<ListResponse>(bytes);
    document::<ErrorBody>(bytes);
    document::<BulkInfo>(bytes);
    document::<BulkMetrics>(bytes);
}

fn document<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let decoded = json::decode::<T>(bytes);
    if let Ok(value) = &decoded {
        let encoded = json::encode(value).expect("what was read can be written");
        let again: T = json::decode(&encoded).expect("what was written can be read");
        assert_eq!(&again, value, "read, written and read again");
        assert_eq!(encoded.last(), Some(&b'\n'));
        assert!(!encoded.iter().any(|byte| b"<>&".contains(byte)));
        // What we write, others read who are stricter than Go.
        serde_json::from_slice::<Value>(&encoded).expect("JSON");
        // Only the first value counts.
        let followed: T = json::decode(&[bytes, b" trailing"].concat()).expect("the same first value");
        assert_eq!(&followed, value, "with something behind it");
    }
    // A field that nobody knows changes nothing. Documents that a map is read from have no such fields.
    let Ok(Value::Object(mut object)) = serde_json::from_slice(bytes) else { return };
    if json::decode::<T>(br#"{"an unknown field":[{}]}"#).is_ok() {
        let without = json::decode::<T>(&serde_json::to_vec(&object).expect("JSON"));
        let is_new = object.insert("an unknown field".to_owned(), Value::Array(Vec::new())).is_none();
        let with = json::decode::<T>(&serde_json::to_vec(&object).expect("JSON"));
        match (without, with) {
            (Ok(without), Ok(with)) => assert!(!is_new || without == with),
            (without, with) => assert_eq!(without.is_err(), with.is_err()),
        }
    }
}

/// A message on a process's websocket: the byte of its channel, and what goes over that.
fn message(bytes: &[u8]) {
    let Some((&byte, data)) = bytes.split_first() else { return };
    let Some(channel) = Channel::from_byte(byte) else { return };
    assert_eq!(channel.message(data), bytes);
    match channel {
        Channel::Resize => document::<TerminalSize>(data),
        Channel::Signal => document::<SignalRequest>(data),
        Channel::Windows => document::<Windows>(data),
        Channel::Status => {
            document::<Status>(data);
            if let Ok(Ok(code)) = json::decode::<Status>(data).map(Status::into_exit) {
                assert_eq!(Status::of(&Ok(code)).into_exit(), Ok(code));
            }
        }
        Channel::Stdin | Channel::Stdout | Channel::Stderr | Channel::Close => {}
    }
}

/// `METHOD PATH?QUERY`.
fn requests(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (method, target) = text.split_once(' ').unwrap_or(("GET", &text));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    assert_eq!(unescape(&escape(&text)).as_deref(), Some(&*text));
    assert!(escape(&text).bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte)));

    match find(method, path) {
        Match::Found(route, parameters) => {
            assert_eq!(route.def().method, method);
            let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
            assert!(parameters.iter().all(|parameter| !parameter.is_empty()));
            let canonical = find(method, &route.path(&parameters));
            assert_eq!(canonical, find(method, path), "escaped again, it is the same request");
        }
        Match::MethodNotAllowed(allowed) => {
            for method in allowed.split(", ") {
                assert!(matches!(find(method, path), Match::Found(..)), "{method} was said to be allowed");
            }
        }
        Match::NotFound | Match::BrokenEscape => {}
    }

    if let Ok(pairs) = query_pairs(query) {
        let again: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
        assert_eq!(query_pairs(&again.join("&")), Ok(pairs));
    }
}

#[cfg(test)]
#[path = "../../tests/fuzz/brief.rs"]
mod brief;

#[test]
fn no_seed_and_no_mutation_breaks_a_promise() {
    brief::run(TARGETS, 1_000);
}
