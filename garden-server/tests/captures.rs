//! The reference server's recorded conversations, replayed: the same requests get the same answers, but for dates,
//! the order of headers, and the exceptions listed here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use backend_fake::{FakeBackend, FakeOptions, Op};
use common::{Raw, Server, captures};
use garden_server::Config;
use protocol::{Backend, Error, FilesQuery, MemoryStat, Metrics, Signal};

/// How our answer differs from the recorded one.
#[derive(Debug, Clone, Copy)]
enum Ours {
    /// In the words of an error's message, which are these.
    Message(&'static str),
    /// In a generated name.
    Name,
    /// Altogether: it has this status line, and is this document, with the headers of every document.
    Document(&'static str, &'static str),
    /// In what comes behind the head.
    Behind(&'static str),
    /// In that it is a tar, in chunks, with these entries.
    Tar(&'static [&'static str]),
    /// In that the connection stays open, for more to come.
    GoesOn,
}

use Ours::{Behind, Document, GoesOn, Message, Name, Tar};

const EXCEPTIONS: &[(&str, Ours, &str)] = &[
    ("05-create-dup", Message("Handle 'c1' already in use"), "as BEHAVIOUR.md has it, with a capital H"),
    (
        "10-create-badjson",
        Message("invalid JSON: key must be a string at line 1 column 2"),
        "the text of another JSON library",
    ),
    (
        "11-create-wrongtype",
        Message("json: cannot unmarshal number 5 into field ContainerSpec.handle of type string"),
        "there are no Go structs here",
    ),
    (
        "26-streamin-chunked",
        Document(
            "HTTP/1.1 500 Internal Server Error",
            r#"{"Type":"","Message":"error streaming in: failed to read entire block","Handle":"","ProcessID":"","Binary":""}"#,
        ),
        "`hello world` is no tar; the reference's backend was scripted to take anything",
    ),
    (
        "27-streamout",
        Tar(&["x/", "x/file"]),
        "a tar, in chunks as every longer one; the reference's backend was scripted to give a text",
    ),
    (
        "29-run-missing-exe",
        Message("exec: \"missing\": executable file not found in $PATH"),
        "as BEHAVIOUR.md has it",
    ),
    (
        "31-stdout-unknown-stream",
        Document(
            "HTTP/1.1 404 Not Found",
            r#"{"Type":"ProcessNotFoundError","Message":"unknown process: p","Handle":"","ProcessID":"p","Binary":""}"#,
        ),
        "an unknown stream is an error, not an empty output",
    ),
    ("38-run-exit7", Name, "the process id is generated"),
    ("39-waiterr", Name, "the process id is generated"),
    ("60-late-stdout-again", Behind("OUT"), "each reader gets everything, not the first one only"),
    (
        "61-late-stderr",
        Document(
            "HTTP/1.1 404 Not Found",
            r#"{"Type":"ProcessNotFoundError","Message":"unknown process: wrong","Handle":"","ProcessID":"wrong","Binary":""}"#,
        ),
        "a stream belongs to its process: under another name it is not found",
    ),
    ("62-run-then-half-close", GoesOn, "a half-closed client still gets the exit status"),
    (
        "69-after-reap",
        Document(
            "HTTP/1.1 200 OK",
            r#"{"State":"active","Events":null,"HostIP":"10.0.0.5","ContainerIP":"10.0.0.6","ContainerIPv6":"","ExternalIP":"","ContainerPath":"","ProcessIDs":null,"Properties":{},"MappedPorts":null}"#,
        ),
        "a grace time of 0 means for ever",
    ),
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

/// One answer, or the bytes of a stream: a status line, its headers, and what follows up to the next one.
type Part = (String, Vec<(String, String)>, String);

/// Splits what was received into answers, their headers sorted and without dates.
fn parts(bytes: &[u8]) -> Vec<Part> {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = Vec::new();
    let mut rest = text.as_ref();
    while let Some((head, tail)) = rest.split_once("\r\n\r\n") {
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().to_owned();
        let mut headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        headers.sort();
        let dates = headers.iter().filter(|(name, _)| name == "Date").count();
        assert_eq!(dates, usize::from(!status.contains(" 100 ")), "{head}");
        headers.retain(|(name, _)| name != "Date");
        let next = tail.find("HTTP/1.1 ").unwrap_or(tail.len());
        parts.push((status, headers, tail[..next].to_owned()));
        rest = &tail[next..];
    }
    if parts.is_empty() {
        parts.push((String::new(), Vec::new(), text.into_owned()));
    }
    parts
}

/// Replaces what is generated, and what depends on its length.
fn without_names(mut parts: Vec<Part>) -> Vec<Part> {
    for (_, headers, body) in &mut parts {
        let lines = body.lines().map(|line| {
            let mut payload: serde_json::Value = serde_json::from_str(line).unwrap();
            for name in ["process_id", "Handle"] {
                if let Some(value) = payload.get_mut(name) {
                    *value = "(generated)".into();
                }
            }
            payload.to_string()
        });
        *body = lines.collect::<Vec<_>>().join("\n");
        headers.retain(|(name, _)| name != "Content-Length");
    }
    parts
}

/// The recorded error, in our words.
fn in_our_words(recorded: &[Part], message: &str) -> Vec<Part> {
    let (status, _, body) = &recorded[0];
    let error = protocol::ErrorBody { message: message.to_owned(), ..serde_json::from_str(body).unwrap() };
    document(status, &String::from_utf8(protocol::json::encode(&error).unwrap()).unwrap())
}

fn document(status: &str, body: &str) -> Vec<Part> {
    let headers =
        [("Content-Length", body.len().to_string()), ("Content-Type", "application/json".to_owned())];
    vec![(status.to_owned(), headers.map(|(name, value)| (name.to_owned(), value)).to_vec(), body.to_owned())]
}

fn compare(name: &str, ours: Option<Ours>, got: &[u8], recorded: &[u8]) {
    let (got, recorded) = (parts(got), parts(recorded));
    let is_as_recorded = got == recorded;
    let expected = match ours {
        None | Some(GoesOn) => return assert_eq!(got, recorded, "{name}"),
        Some(Name) => {
            assert_eq!(without_names(got), without_names(recorded), "{name}");
            return assert!(!is_as_recorded, "{name} is no exception any more");
        }
        Some(Message(message)) => in_our_words(&recorded, message),
        Some(Document(status, body)) => document(status, &format!("{body}\n")),
        Some(Behind(body)) => vec![(recorded[0].0.clone(), recorded[0].1.clone(), body.to_owned())],
        Some(Tar(_)) => {
            let headers = [("Content-Type", "application/octet-stream"), ("Transfer-Encoding", "chunked")];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            vec![("HTTP/1.1 200 OK".to_owned(), headers.to_vec(), String::new())]
        }
    };
    assert_eq!(got, expected, "{name}");
    assert!(!is_as_recorded, "{name} is no exception any more");
}

fn entry_names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries.map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned()).collect()
}

/// The backend as the reference's was scripted.
async fn scripted() -> Server {
    let options =
        FakeOptions { network_pool: [10, 0, 0, 0].into(), images: Vec::new(), ..FakeOptions::default() };
    Server::with(FakeBackend::with_options(options), Config::default()).await
}

/// What the scripted backend does before this request.
async fn prepare(server: &Server, name: &str) {
    let faults = server.fake.faults();
    match name {
        "27-streamout" => {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(11);
            header.set_mode(0o644);
            tar.append_data(&mut header, "file", b"hello world".as_slice()).unwrap();
            let bytes = tar.into_inner().unwrap();
            let query = FilesQuery { user: "alice".into(), path: "/tmp/x".into() };
            let body = Box::pin(futures_util::stream::iter([Ok(bytes.into())]));
            server.fake.stream_in("c1", query, body).await.unwrap();
        }
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
        let Capture { name, request, response: recorded, then_eof } = capture;
        let ours = EXCEPTIONS.iter().find(|(exception, ..)| *exception == name).map(|(_, ours, _)| *ours);
        prepare(&server, &name).await;
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
        let sender = open.get_mut(sends_on).unwrap();
        sender.send(&request).await;
        if matches!(name.as_str(), "62-run-then-half-close" | "63-run-early-stdin-half-close") {
            sender.half_close().await;
        }
        let raw = open.get_mut(reads_from).unwrap();
        let is_stream = reads_from != name || String::from_utf8_lossy(&recorded).contains("chunked");
        match ours {
            Some(Tar(entries)) => {
                compare(&name, ours, &raw.raw_head().await, &recorded);
                assert_eq!(entry_names(&raw.chunks().await.unwrap()), entries, "{name}");
            }
            Some(Document(..)) => {
                compare(&name, ours, &raw.raw_response().await, &recorded);
                assert_eq!(
                    raw.request("GET /ping", "").await.text(),
                    "{}\n",
                    "{name}: the connection goes on"
                );
            }
            Some(GoesOn) => {
                compare(&name, ours, &raw.bytes(recorded.len()).await, &recorded);
                server.signal("hc", Signal::Kill).await;
                assert_eq!(raw.payload().await["exit_status"], 137, "{name}");
                assert_eq!(raw.rest().await, b"", "{name}");
            }
            _ if then_eof => compare(&name, ours, &raw.rest().await, &recorded),
            _ if is_stream => compare(&name, ours, &raw.bytes(recorded.len()).await, &recorded),
            _ => {
                let mut got = Vec::new();
                for part in parts(&recorded) {
                    let has_body = !(request.starts_with(b"HEAD") || part.0.contains(" 100 "));
                    got.extend(if has_body { raw.raw_response().await } else { raw.raw_head().await });
                }
                compare(&name, ours, &got, &recorded);
                assert_eq!(
                    raw.request("GET /ping", "").await.text(),
                    "{}\n",
                    "{name}: the connection goes on"
                );
            }
        }
    }
}

impl Server {
    async fn signal(&self, process_id: &str, signal: Signal) {
        self.fake.attach("c1", process_id).await.unwrap().control.signal(signal).await.unwrap();
    }
}

impl Raw {
    /// A response with a length, as bytes.
    async fn raw_response(&mut self) -> Vec<u8> {
        let head = self.raw_head().await;
        let text = String::from_utf8_lossy(&head).into_owned();
        let length = text.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        [head, self.bytes(length.parse().unwrap()).await].concat()
    }
}

#[test]
fn every_exception_is_of_a_recording() {
    let names: Vec<String> = read_captures().into_iter().map(|capture| capture.name).collect();
    for (name, _, reason) in EXCEPTIONS {
        assert!(names.iter().any(|n| n == name), "{name}: {reason}");
    }
}
