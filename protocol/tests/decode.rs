//! What the reference's decoder takes and refuses.

#![allow(clippy::unwrap_used)]

use protocol::{
    json::{self, DurationNs},
    *,
};

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
fn keys_match_as_unicode_folds_case() {
    let text = r#"{"bind_mounts":[{"\u017frc_path":"/long-s"}],"properties":{"\u212a":"kept"}}"#;
    assert_eq!(spec(text).unwrap().bind_mounts[0].src_path, "/long-s");
    assert_eq!(spec(text).unwrap().properties.get("\u{212a}").map(String::as_str), Some("kept"));
    assert!(json::decode::<StopRequest>("{\"\u{212a}ill\":true}".as_bytes()).unwrap().kill);
    // Capital letters beyond ASCII fold into none of a field's.
    assert_eq!(spec("{\"h\u{e0}ndle\":\"x\",\"h\u{131}\":1}").unwrap(), ContainerSpec::default());
}

#[test]
fn of_a_field_that_is_there_twice_the_later_one_counts() {
    for (text, handle) in [
        (r#"{"handle":"exact","HANDLE":"other"}"#, "other"),
        (r#"{"HANDLE":"other","handle":"exact"}"#, "exact"),
        (r#"{"handle":"a","handle":null}"#, "a"),
        (r#"{"handle":null,"handle":"a"}"#, "a"),
    ] {
        assert_eq!(spec(text).unwrap().handle, handle, "{text}");
    }
    let lists = spec(r#"{"env":["a","b"],"env":["c"],"netin":[{"host_port":1}],"NETIN":null}"#).unwrap();
    assert_eq!((lists.env, lists.net_in), (vec!["c".to_owned()], vec![]));
    let objects = r#"{"limits":{"pid_limits":{"max":1}},"LIMITS":{"memory_limits":{"limit_in_bytes":2}}}"#;
    let limits = spec(objects).unwrap().limits;
    assert_eq!((limits.pid.max, limits.memory.limit_in_bytes), (1, 2));
    let maps = spec(r#"{"properties":{"a":"1","c":"3"},"Properties":{"b":"2","a":"4","c":null}}"#).unwrap();
    let maps: Vec<_> = maps.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(maps, [("a", "4"), ("b", "2"), ("c", "")]);
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
    for rest in ["", " trailing", "trailing", "}}}", "{", "\n\n\0", "]", "\""] {
        let document = format!("{{\"handle\":\"a\",\"nested\":{{\"x\":[1,{{}}]}}}}{rest}");
        assert_eq!(spec(&document).unwrap().handle, "a", "{rest}");
        assert_eq!(json::decode::<DurationNs>(format!("5{rest}").as_bytes()).unwrap().0.as_nanos(), 5);
    }
}

#[test]
fn broken_text_becomes_replacement_characters() {
    let data = |text: &[u8]| json::decode::<ProcessPayload>(text).unwrap().data.unwrap();
    assert_eq!(data(b"{\"data\":\"a\xff\xfeb\"}"), "a\u{fffd}\u{fffd}b");
    assert_eq!(data(br#"{"data":"a\ud800b"}"#), "a\u{fffd}b");
    assert_eq!(data(br#"{"data":"\ud83d\ude00 \\ud800 \udc00"}"#), "😀 \\ud800 \u{fffd}");
    assert_eq!(data(br#"{"data":"\uD83D\uDE00\ude00\ud83d\u0041"}"#), "😀\u{fffd}\u{fffd}A");
    assert_eq!(data(b"{\"data\":\"\\u0000\x7f\xc2\x80\"}"), "\0\u{7f}\u{80}");
    // Four bytes of a sequence that is cut short are four characters.
    assert_eq!(data(b"{\"data\":\"\xf0\x9f\x98\"}"), "\u{fffd}".repeat(3));
    let keys = json::decode::<Properties>(b"{\"a\xffb\":\"x\"}").unwrap();
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["a\u{fffd}b"]);
    assert_eq!(spec("{\"han\u{fffd}dle\":1}").unwrap(), ContainerSpec::default());
}

#[test]
fn integers_are_integers_of_their_size() {
    let duration = |text: &str| json::decode::<DurationNs>(text.as_bytes());
    assert_eq!(duration("-0").unwrap().0.as_nanos(), 0);
    assert_eq!(duration("9223372036854775807").unwrap().0.as_nanos(), i64::MAX as u128);
    for text in ["9223372036854775808", "5.0", "5e0", "1E400", "+5", ".5", "5.", "\"5\"", "true", "-1"] {
        let error = duration(text).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{text}: {error}");
    }
    let memory =
        |number: &str| json::decode::<MemoryLimits>(format!("{{\"limit_in_bytes\":{number}}}").as_bytes());
    assert_eq!(memory("18446744073709551615").unwrap().limit_in_bytes, u64::MAX);
    memory("18446744073709551616").unwrap_err();
    let port = |number: &str| json::decode::<NetInRequest>(format!("{{\"host_port\":{number}}}").as_bytes());
    assert_eq!(port("65535").unwrap().host_port, u16::MAX);
    assert_eq!(
        port("65536").unwrap_err().to_string(),
        "json: cannot unmarshal number 65536 into field NetInRequest.host_port of type uint16"
    );
}

#[test]
fn what_is_no_json_is_refused_with_the_place() {
    for text in [
        "nope",
        "{nope",
        "{'a':1}",
        "{\"a\":1,}",
        "{\"a\":01}",
        "{\"a\" 1}",
        "[1",
        "// c\n{}",
        "\u{feff}{}",
        "\0{}",
        "{\"handle\":\"a\tb\"}",
        "{\"properties\":{\"a\u{1}\":\"x\"}}",
        "{\"handle\":\"\\x\"}",
        "{\"handle\":\"\\u12\"}",
        "{\"handle\":\"a\"\u{a0}}",
    ] {
        let error = spec(text).unwrap_err().to_string();
        assert!(error == "unexpected EOF" || error.starts_with("invalid JSON: "), "{text}: {error}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested =
        |depth: usize| format!("{{\"x\":{}{},\"handle\":\"h\"}}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(spec(&nested(126)).unwrap().handle, "h");
    for depth in [127, 10_000, 1_000_000] {
        assert!(spec(&nested(depth)).unwrap_err().to_string().contains("recursion limit"), "{depth}");
        let open_only = "{\"a\":".repeat(depth + 1);
        assert!(spec(&open_only).unwrap_err().to_string().contains("recursion limit"), "{depth}");
    }
}

#[test]
fn text_is_written_as_go_writes_it() {
    let value = PropertyValue {
        value: "\u{8}\u{c}\n\r\t\0\u{1f}\u{7f}\u{80}\u{2028}\u{2029}<>&\"\\/\u{fffd}é".into(),
    };
    let go = "{\"value\":\"\\b\\f\\n\\r\\t\\u0000\\u001f\u{7f}\u{80}\\u2028\\u2029\\u003c\\u003e\\u0026\\\"\\\\/\u{fffd}é\"}\n";
    assert_eq!(String::from_utf8(json::encode(&value).unwrap()).unwrap(), go);
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
        ("[]", "json: cannot unmarshal array into a value of type ContainerSpec"),
        ("5", "json: cannot unmarshal number 5 into a value of type ContainerSpec"),
        (r#"{"bind_mounts":[5]}"#, "number 5 into field ContainerSpec.bind_mounts of type BindMount"),
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
    for empty in ["", " ", "\r\n\t "] {
        assert_eq!(spec(empty).unwrap_err().to_string(), "EOF");
    }
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
