//! The reference server's recorded conversations, replayed: the same requests get the same answers, but for dates,
//! the order of headers, and the exceptions listed here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use backend_fake::{FakeBackend, FakeOptions, Op};
use common::{Raw, Server, captures};
use garden_server::Config;
use protocol::{Backend, ContainerSpec, Error, MemoryStat, Metrics};

/// How an answer may differ from the recorded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Differs {
    /// In the words of an error's message.
    InMessage,
    /// In a generated name.
    InName,
    /// Altogether: the behaviour is better on purpose, and has tests of its own.
    OnPurpose,
}

use Differs::{InMessage, InName, OnPurpose};

const EXCEPTIONS: &[(&str, Differs, &str)] = &[
    ("05-create-dup", InMessage, "BEHAVIOUR.md: `Handle 'H' already in use`, with a capital H"),
    ("10-create-badjson", InMessage, "the text of another JSON library"),
    ("11-create-wrongtype", InMessage, "no `Go struct field`"),
    (
        "27-streamout",
        OnPurpose,
        "a tar, where the scripted reference gives a text; chunked, as every longer one",
    ),
    ("28-streamout-err", InMessage, "the backend's text"),
    ("29-run-missing-exe", InMessage, "BEHAVIOUR.md: `executable file not found in $PATH`"),
    ("26-streamin-chunked", OnPurpose, "the body is no tar: an error here, `hello world` there"),
    ("31-stdout-unknown-stream", OnPurpose, "an unknown stream is a 404, not an empty output"),
    ("36-null-fields", InName, "generated handle"),
    ("38-run-exit7", InName, "generated process id"),
    ("39-waiterr", InName, "generated process id"),
    ("60-late-stdout-again", OnPurpose, "each reader gets everything"),
    ("61-late-stderr", OnPurpose, "a stream id under another process's name is a 404"),
    ("62-run-then-half-close", OnPurpose, "a half-closed client still gets the exit status"),
    ("69-after-reap", OnPurpose, "a grace time of 0 means for ever"),
];

/// One recorded exchange.
struct Capture {
    name: String,
    request: Vec<u8>,
    response: Vec<u8>,
    then_eof: bool,
}

fn unescape(line: &str, into: &mut Vec<u8>) {
    let mut chars = line.bytes();
    while let Some(byte) = chars.next() {
        into.push(match byte {
            b'\\' => match chars.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                other @ (b'"' | b'\\') => other,
                other => panic!("escape \\{} in {line}", other as char),
            },
            byte => byte,
        });
    }
}

fn read_captures() -> Vec<Capture> {
    let mut files: Vec<_> =
        std::fs::read_dir(captures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let mut capture = Capture {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            request: Vec::new(),
            response: Vec::new(),
            then_eof: text.contains("(then EOF)"),
        };
        let mut in_response = false;
        for line in text.lines() {
            in_response |= line.starts_with("<< ");
            if let Some(content) = line.strip_prefix("    ") {
                unescape(content, if in_response { &mut capture.response } else { &mut capture.request });
            }
        }
        capture
    };
    files.iter().map(read).collect()
}

/// Splits what was received into heads, as maps without dates, and the bytes between them.
fn normal(bytes: &[u8]) -> Vec<(String, BTreeMap<String, String>, String)> {
    let text = String::from_utf8_lossy(bytes);
    let mut responses = Vec::new();
    let mut rest = text.as_ref();
    while let Some((head, tail)) = rest.split_once("\r\n\r\n") {
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().to_owned();
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap())
            .filter(|(name, _)| *name != "Date")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let next = tail.find("HTTP/1.1 ").unwrap_or(tail.len());
        responses.push((status, headers, tail[..next].to_owned()));
        rest = &tail[next..];
    }
    if responses.is_empty() {
        responses.push((String::new(), BTreeMap::new(), text.into_owned()));
    }
    responses
}

fn without_names(differs: Option<Differs>, bytes: &[u8]) -> Vec<(String, BTreeMap<String, String>, String)> {
    let mut responses = normal(bytes);
    for (_, headers, body) in &mut responses {
        match differs {
            None => continue,
            Some(InMessage) => {
                let mut error: serde_json::Value = serde_json::from_str(body).unwrap();
                error["Message"] = "(differs)".into();
                *body = error.to_string();
            }
            Some(InName) => {
                let lines = body.lines().map(|line| {
                    let mut payload: serde_json::Value = serde_json::from_str(line).unwrap();
                    for name in ["process_id", "Handle"] {
                        if let Some(value) = payload.get_mut(name) {
                            *value = "(differs)".into();
                        }
                    }
                    payload.to_string()
                });
                *body = lines.collect::<Vec<_>>().join("\n");
            }
            Some(OnPurpose) => unreachable!("not compared"),
        }
        headers.remove("Content-Length");
    }
    responses
}

/// The backend as the reference's was scripted.
async fn scripted() -> Server {
    let options =
        FakeOptions { network_pool: [10, 0, 0, 0].into(), images: Vec::new(), ..FakeOptions::default() };
    Server::with(FakeBackend::with_options(options), Config::default()).await
}

/// What the scripted backend does before this request.
fn prepare(server: &Server, name: &str) {
    let faults = server.fake.faults();
    match name {
        "16-metrics" => {
            let memory = MemoryStat { total_rss: 7, ..MemoryStat::default() };
            server
                .fake
                .set_metrics(
                    "c1",
                    Metrics { memory, age: std::time::Duration::from_secs(5), ..Metrics::default() },
                )
                .unwrap();
        }
        "32-create-unavail" => {
            faults.fail_once(Op::Create, Error::ServiceUnavailable { message: "special error".into() });
        }
        "33-create-unrec" => {
            faults.fail_once(Op::Create, Error::Unrecoverable { message: "bad symptom".into() });
        }
        _ => {}
    }
}

#[tokio::test]
async fn recorded_requests_get_the_recorded_answers() {
    let server = scripted().await;
    let mut open: BTreeMap<String, Raw> = BTreeMap::new();
    for capture in read_captures() {
        let Capture { name, request, response: expected, then_eof } = capture;
        let differs = EXCEPTIONS.iter().find(|(exception, ..)| *exception == name).map(|(_, kind, _)| *kind);
        eprintln!("{name}");
        prepare(&server, &name);
        // Four exchanges are about connections that were opened before.
        let (sends_on, reads_from) = match name.as_str() {
            "54-tty-then-stdout" => ("53-attach", "52-stdout-head"),
            "55-signal-term-on-attach" => ("53-attach", "53-attach"),
            "56-run-conn-after-signal" => ("51-run-hold", "51-run-hold"),
            "57-stdout-conn-after-exit" => ("52-stdout-head", "52-stdout-head"),
            name => (name, name),
        };
        if !open.contains_key(sends_on) {
            open.insert(sends_on.to_owned(), server.connect().await);
        }
        open.get_mut(sends_on).unwrap().send(&request).await;
        if name.starts_with("63") {
            open.get_mut(sends_on).unwrap().half_close().await;
        }
        if differs == Some(OnPurpose) {
            if name.starts_with("62") {
                open.get_mut(sends_on).unwrap().payload_after_head().await;
            }
            continue;
        }
        let raw = open.get_mut(reads_from).unwrap();
        let is_stream = String::from_utf8_lossy(&expected).contains("chunked") || reads_from != name;
        let got = if then_eof {
            raw.rest().await
        } else if is_stream || request.starts_with(b"HEAD") || request.ends_with(b"{\"handle\":\"exp\"}") {
            raw.bytes(expected.len()).await
        } else {
            raw.raw_response().await
        };
        assert_eq!(without_names(differs, &got), without_names(differs, &expected), "{name}");
        if !then_eof && !is_stream {
            let again = raw.request("GET /ping", "").await;
            assert_eq!(
                (again.status, again.text().as_str()),
                (200, "{}\n"),
                "{name}: the connection goes on"
            );
        }
    }
}

impl Raw {
    async fn payload_after_head(&mut self) {
        assert_eq!(self.head().await.status, 201);
        self.payload().await;
    }

    /// A response with a length, as bytes.
    async fn raw_response(&mut self) -> Vec<u8> {
        let response = self.response().await;
        let mut bytes = format!("{} {} {}\r\n", response.version, response.status, reason(response.status));
        for (name, value) in &response.headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        [bytes.as_bytes(), b"\r\n", &response.body].concat()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        405 => "Method Not Allowed",
        404 => "Not Found",
        500 => "Internal Server Error",
        other => panic!("{other}"),
    }
}

#[test]
fn every_exception_is_of_a_recording() {
    let names: Vec<String> = read_captures().into_iter().map(|capture| capture.name).collect();
    for (name, _, reason) in EXCEPTIONS {
        assert!(names.iter().any(|n| n == name), "{name}: {reason}");
    }
}

#[tokio::test]
async fn a_grace_time_of_zero_means_for_ever() {
    let server = scripted().await;
    server.fake.create(ContainerSpec { handle: "CI".into(), ..ContainerSpec::default() }).await.unwrap();
    assert_eq!(server.request("PUT /containers/CI/grace_time", "0").await.status, 200);
    assert_eq!(server.request("GET /containers/CI/info", "").await.status, 200);
}
