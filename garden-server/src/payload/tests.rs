use proptest::prelude::*;

use super::*;

/// Feeds pieces; neighbouring data is put together, since how it is cut is not part of the contract.
fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let (mut parser, mut events) = (PayloadParser::default(), Vec::new());
    for piece in pieces {
        parser.feed(piece, &mut events);
    }
    let mut joined: Vec<Event> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(Event::Stdin(before)), Event::Stdin(data)) => {
                *before = [before.as_ref(), data.as_ref()].concat().into();
            }
            (_, event) => joined.push(event),
        }
    }
    joined
}

fn whole(text: &[u8]) -> Vec<Event> {
    parse([text])
}

fn stdin(text: &str) -> Event {
    Event::Stdin(text.to_owned().into())
}

fn detaches(events: &[Event]) -> bool {
    matches!(events.last(), Some(Event::Detach(_)))
}

#[test]
fn messages_need_nothing_between_them() {
    let text = br#"{"process_id":"p","source":0,"data":"one"}{"source":1,"data":" two"} {"source":0}"#;
    assert_eq!(whole(text), [stdin("one two"), Event::EndOfStdin]);
}

#[test]
fn keys_come_in_any_order_and_case() {
    assert_eq!(whole(br#"{"data":"x","source":0}"#), [stdin("x")]);
    assert_eq!(whole(br#"{"DATA":"x","Source":2}"#), [stdin("x")]);
    assert_eq!(whole(br#"{"d\u0061ta":"x","source":0}"#), [stdin("x")]);
    assert_eq!(whole(br#"{"other":{"data":"no","source":1},"source":0,"data":"x"}"#), [stdin("x")]);
    assert_eq!(whole(br#"{"other":["data"],"source":0,"data":"x"}"#), [stdin("x")]);
    assert_eq!(whole(br#"{"source":0,"process_id":"data","data":"x"}"#), [stdin("x")]);
}

#[test]
fn signals_and_sizes_are_obeyed_whatever_came_before() {
    let text =
        br#"{"source":0}{"signal":0}{"signal":1}{"tty":{"window_size":{"columns":80,"rows":24}}}{"tty":{}}"#;
    let size = protocol::WindowSize { columns: 80, rows: 24 };
    let expected = [
        Event::EndOfStdin,
        Event::Signal(Signal::Terminate),
        Event::Signal(Signal::Kill),
        Event::Tty(TtySpec { window_size: Some(size) }),
        Event::Tty(TtySpec { window_size: None }),
    ];
    assert_eq!(whole(text), expected);
}

#[test]
fn what_is_unknown_ends_the_input() {
    for text in
        ["{}", r#"{"foo":1}"#, r#"{"signal":7}"#, "null", r#"{"data":"x"}"#, r#"{"source":null,"data":"x"}"#]
    {
        assert_eq!(whole(text.as_bytes()), [Event::EndOfStdin], "{text}");
    }
    assert_eq!(whole(br#"{"source":0,"data":null}"#), [Event::EndOfStdin]);
    assert_eq!(whole(br#"{"source":0,"data":""}"#), []);
}

#[test]
fn what_makes_no_sense_detaches_and_nothing_is_read_any_more() {
    for text in [
        "x",
        "[1]",
        "5",
        "\"text\"",
        "nul{",
        r#"{"source":"0"}"#,
        r#"{"source":1.5,"data":"x"}"#,
        r#"{"source":0,"data":5}"#,
        r#"{"process_id":5}"#,
        "{nope}",
        "{]",
        "{\"source\":0,\"data\":\"a\nb\"}",
        r#"{"source":0,"data":"\q"}"#,
        r#"{"source":0,"data":"\u12g4"}"#,
        r#"{"source":0 "data":"x"}"#,
    ] {
        let events = whole(format!(r#"{text}{{"source":0,"data":"late"}}"#).as_bytes());
        assert!(detaches(&events), "{text}: {events:?}");
        assert!(!events.contains(&stdin("late")), "{text}");
    }
    let skeleton = [br#"{"other":""#.as_slice(), &[b'x'; SKELETON_MAX_BYTES]].concat();
    assert!(detaches(&whole(&skeleton)));
    assert!(detaches(&whole(&[b'{'; SKELETON_MAX_BYTES + 1])));
}

#[test]
fn text_is_decoded() {
    let data = |content: &[u8]| whole(&[br#"{"source":0,"data":""#.as_slice(), content, b"\"}"].concat());
    assert_eq!(data(br#"\"\\\/\b\f\n\r\t\u0041\u00e9"#), [stdin("\"\\/\u{8}\u{c}\n\r\tA\u{e9}")]);
    assert_eq!(data(br"\ud83d\ude00"), [stdin("😀")]);
    assert_eq!(
        data(br"\ud800b \ud800\n \ud800\u0041 \ud800\ud83d\ude00 \udc00 \ud800"),
        [stdin("\u{fffd}b \u{fffd}\n \u{fffd}A \u{fffd}😀 \u{fffd} \u{fffd}")]
    );
    assert_eq!(
        data(b"a\xff\xfeb \xe2\x82A \xe2\x82"),
        [stdin("a\u{fffd}\u{fffd}b \u{fffd}\u{fffd}A \u{fffd}\u{fffd}")]
    );
    assert_eq!(data("é€😀".as_bytes()), [stdin("é€😀")]);
}

#[test]
fn data_before_its_source_waits_a_while() {
    let long = "x".repeat(3 * HELD_MAX_BYTES);
    assert_eq!(whole(format!(r#"{{"data":"{long}","source":0}}"#).as_bytes()), [stdin(&long)]);
    assert_eq!(whole(format!(r#"{{"data":"{long}"}}"#).as_bytes()), [stdin(&long), Event::EndOfStdin]);
}

#[test]
fn a_long_message_passes_through_in_small_memory_and_linear_time() {
    const TOTAL_BYTES: usize = 50 * 1024 * 1024;
    let (mut parser, mut events) = (PayloadParser::default(), Vec::new());
    parser.feed(br#"{"process_id":"p","source":0,"data":""#, &mut events);
    let piece = [b'x'; 32 * 1024];
    let mut seen_bytes = 0;
    for _ in 0..TOTAL_BYTES / piece.len() {
        parser.feed(&piece, &mut events);
        for event in events.drain(..) {
            let Event::Stdin(data) = event else { panic!("{event:?}") };
            seen_bytes += data.len();
        }
        assert!(parser.data.capacity() + parser.skeleton.capacity() < 1024 * 1024);
    }
    parser.feed(b"\"}", &mut events);
    assert_eq!((seen_bytes, events.as_slice()), (TOTAL_BYTES, [].as_slice()));
}

/// Bytes that look like messages, some of them broken.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        "[a-z]{0,8}".prop_map(String::into_bytes),
        Just("é€😀".as_bytes().to_vec()),
        Just(br"\ud83d\ude00\n\ud800x\u0041".to_vec()),
        Just(b"\xff\xe2\x82\xf0\x9f\x98".to_vec()),
        Just(b"\\x".to_vec()),
    ];
    let message = prop_oneof![
        8 => prop::collection::vec(text, 0..4).prop_map(|texts| {
            [br#"{"source":0,"data":""#.as_slice(), &texts.concat(), b"\"}"].concat()
        }),
        2 => Just(br#"{"data":"early","SOURCE":1}"#.to_vec()),
        2 => Just(br#"{"signal":1}"#.to_vec()),
        2 => Just(br#" {"tty":{"window_size":{"columns":3}}}"#.to_vec()),
        1 => Just(br#"{"source":0} null {"a":[{"data":"\"}"}]}"#.to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(message, 0..6).prop_map(|messages| messages.concat())
}

proptest! {
    #[test]
    fn every_split_gives_the_same_events(stream in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let expected = whole(&stream);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        prop_assert_eq!(&parse(cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]])), &expected);
        prop_assert_eq!(&parse(stream.chunks(1)), &expected);
    }

    #[test]
    fn every_text_arrives(text: String) {
        let payload = ProcessPayload { source: Some(0), data: Some(text.clone()), ..ProcessPayload::default() };
        let events = whole(&json::encode(&payload).unwrap());
        prop_assert_eq!(events, if text.is_empty() { vec![] } else { vec![stdin(&text)] });
    }

    #[test]
    fn decoded_in_pieces_as_in_one(bytes: Vec<u8>) {
        let document = [br#"{"source":0,"data":""#.as_slice(), &bytes, b"\"}"].concat();
        if let Ok(payload) = json::decode::<ProcessPayload>(&document)
            && !bytes.contains(&b'"')
        {
            let text = payload.data.unwrap();
            prop_assert_eq!(whole(&document), if text.is_empty() { vec![] } else { vec![stdin(&text)] });
        }
    }
}
