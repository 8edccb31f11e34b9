//! What Go's decoder was seen to do with odd documents (`tests/wire/decode-probes.txt`), line by line.

#![allow(clippy::unwrap_used)]

use protocol::{ContainerSpec, ProcessPayload, json};

/// What the probes of a payload, which the record has by name, sent.
const PAYLOADS: &[(&str, &[u8])] = &[
    ("lone-surrogate", br#"{"data":"a\ud800b"}"#),
    ("raw-nonutf8", b"{\"data\":\"a\xffb\"}"),
    ("upper-case-key", br#"{"DATA":"x"}"#),
    ("dup-key", br#"{"data":"x","data":"y"}"#),
    ("null", br#"{"data":null}"#),
    ("exit-float", br#"{"exit_status":1.0}"#),
    ("exit-exp", br#"{"exit_status":1e2}"#),
    ("exit-neg", br#"{"exit_status":-1}"#),
    ("array", b"[1]"),
    ("top-null", b"null"),
    ("raw-control", b"{\"data\":\"a\nb\"}"),
];

/// The text after `key=`, up to the next field.
fn field<'a>(line: &'a str, key: &str, next: Option<&str>) -> &'a str {
    let from = line.find(key).unwrap_or_else(|| panic!("no {key} in {line}")) + key.len();
    let rest = &line[from..];
    next.map_or(rest, |next| &rest[..rest.find(next).unwrap()]).trim()
}

fn check_payload(line: &str) {
    let name = line.split(' ').next().unwrap();
    let (_, document) =
        PAYLOADS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name} is untested"));
    let decoded = json::decode::<ProcessPayload>(document);
    let error = field(line, "err=", None);
    assert_eq!(decoded.is_err(), error != "<nil>", "{name}: {decoded:?}, Go: {error}");
    let Ok(payload) = decoded else { return };
    let data = field(line, "data=", Some(" exit="));
    assert_eq!(payload.data.map_or("<nil>".to_owned(), |data| format!("{data:?}")), data, "{name}");
    assert_eq!(payload.exit_status.is_some(), field(line, "exit=", Some(" err=")) != "<nil>", "{name}");
}

fn check_spec(line: &str) {
    let document = line[..line.find(" err=").unwrap()].trim_end();
    let decoded = json::decode::<ContainerSpec>(document.as_bytes());
    let error = field(line, " err=", Some(" env="));
    match decoded {
        Err(ours) => {
            // Go names the field by its path, or, in an address, the text that is none.
            let subject = error.split(" of type ").next().unwrap();
            let subject = subject.rsplit(['.', ' ']).next().unwrap();
            assert!(ours.to_string().contains(subject), "{document}: {ours}, Go: {error}");
        }
        Ok(spec) => {
            assert_eq!(error, "<nil>", "{document}");
            let quoted: Vec<String> = spec.env.iter().map(|text| format!("{text:?}")).collect();
            assert_eq!(format!("[{}]", quoted.join(" ")), field(line, "env=", Some(" props=")), "{document}");
            let pairs: Vec<String> = spec.properties.iter().map(|(k, v)| format!("{k}:{v}")).collect();
            assert_eq!(format!("map[{}]", pairs.join(" ")), field(line, "props=", None), "{document}");
        }
    }
}

#[test]
fn every_probe_is_decoded_as_go_does() {
    let probes = include_str!("../../tests/wire/decode-probes.txt");
    // The first line says how many golden files were written in the same go.
    for line in probes.lines().skip(1) {
        let probe = line.strip_prefix("decode ").unwrap_or_else(|| panic!("not understood: {line}"));
        match probe.strip_prefix("spec ") {
            Some(spec) => check_spec(spec),
            None => check_payload(probe),
        }
    }
    for (name, _) in PAYLOADS {
        assert!(probes.contains(&format!("decode {name} ")), "{name} was never probed");
    }
}
