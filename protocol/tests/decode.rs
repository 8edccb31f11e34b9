//! What the reference's decoder takes and refuses.

#![allow(clippy::unwrap_used)]

use protocol::{json, *};

fn spec(text: &str) -> Result<ContainerSpec> {
    json::decode(text.as_bytes())
}

#[test]
fn keys_match_in_any_case_but_property_keys_keep_theirs() {
    let spec = spec(r#"{"HANDLE":"CI","Grace_Time":600000000000,"Properties":{"A:b.C":"D"}}"#).unwrap();
    assert_eq!(spec.handle, "CI");
    assert_eq!(spec.grace_time.as_secs(), 600);
    assert_eq!(spec.properties.get("A:b.C").map(String::as_str), Some("D"));
}

#[test]
fn the_exact_spelling_of_a_field_wins() {
    assert_eq!(spec(r#"{"handle":"exact","HANDLE":"other"}"#).unwrap().handle, "exact");
}

#[test]
fn null_is_the_zero_value_everywhere() {
    let null = r#"{"handle":null,"properties":{"a":null},"env":[null,"x"],"limits":null,"image":null,"netin":[null]}"#;
    let spec = spec(null).unwrap();
    assert_eq!(spec.env, ["", "x"]);
    assert_eq!(spec.properties.get("a").map(String::as_str), Some(""));
    assert_eq!(spec.net_in, [NetIn::default()]);
    assert_eq!(json::decode::<ProcessPayload>(b"null").unwrap(), ProcessPayload::default());
}

#[test]
fn only_the_first_value_is_read() {
    assert_eq!(spec(r#"{"handle":"a","nested":{"x":[1,{}]}} trailing"#).unwrap().handle, "a");
}

#[test]
fn broken_text_becomes_replacement_characters() {
    let data = |text: &[u8]| json::decode::<ProcessPayload>(text).unwrap().data.unwrap();
    assert_eq!(data(b"{\"data\":\"a\xff\xfeb\"}"), "a\u{fffd}\u{fffd}b");
    assert_eq!(data(br#"{"data":"a\ud800b"}"#), "a\u{fffd}b");
    assert_eq!(data(br#"{"data":"\ud83d\ude00 \\ud800 \udc00"}"#), "😀 \\ud800 \u{fffd}");
}

#[test]
fn wrong_types_are_errors_that_name_the_field() {
    for (text, field) in [
        (r#"{"handle":5}"#, "ContainerSpec.handle"),
        (r#"{"grace_time":"5s"}"#, "grace_time"),
        (r#"{"grace_time":1.5}"#, "grace_time"),
        (r#"{"grace_time":-1}"#, "grace_time"),
        (r#"{"bind_mounts":[{"mode":"rw"}]}"#, "bind_mounts.mode"),
        (r#"{"bind_mounts":[{"mode":300}]}"#, "bind_mounts.mode"),
        (r#"{"netout_rules":[{"networks":[{"start":"bogus"}]}]}"#, "invalid IP address: bogus"),
        (r#"{"properties":{"a":1}}"#, "properties.a"),
        (r#"{"limits":{"memory_limits":{"limit_in_bytes":-1}}}"#, "limits.memory_limits.limit_in_bytes"),
        (r#"[]"#, "array"),
    ] {
        let error = spec(text).unwrap_err().to_string();
        assert!(error.contains(field), "{text}: {error}");
    }
    for text in [r#"{"exit_status":1.0}"#, r#"{"exit_status":1e2}"#, "[1]", "{\"data\":\"a\nb\"}"] {
        json::decode::<ProcessPayload>(text.as_bytes()).unwrap_err();
    }
}

#[test]
fn an_empty_body_is_an_error() {
    assert_eq!(spec("").unwrap_err().to_string(), "EOF");
    assert_eq!(spec(r#"{"handle":"#).unwrap_err().to_string(), "unexpected EOF");
}

#[test]
fn handles_that_could_escape_are_refused() {
    for bad in ["", ".", "..", "a/b", "a\0b", "a\nb", &"x".repeat(256)] {
        check_handle(bad).unwrap_err();
    }
    for good in ["a", "..a", "ä ö", &"x".repeat(255), "a:b.c-d_e"] {
        check_handle(good).unwrap();
    }
}

proptest::proptest! {
    #[test]
    fn no_input_panics(bytes: Vec<u8>) {
        let _ = json::decode::<ContainerSpec>(&bytes);
        let _ = json::decode::<ProcessPayload>(&bytes);
    }

    #[test]
    fn every_string_survives_the_wire(text: String) {
        let value = PropertyValue { value: text };
        let bytes = json::encode(&value).unwrap();
        proptest::prop_assert!(!bytes.iter().any(|b| b"<>&".contains(b)));
        proptest::prop_assert_eq!(json::decode::<PropertyValue>(&bytes).unwrap(), value);
    }
}
