//! Which process streams a server has, and what a client makes of servers that say one thing and do another.
#![allow(clippy::unwrap_used)]

mod support;

use futures_util::{FutureExt, StreamExt};
use garden_client::{Backend, Client, Error, Process, ProcessSpec};
use support::{LIMIT, Peer, RUN_HEAD, Scripted, answer};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const ENDED: &str = "{\"process_id\":\"p\",\"stream_id\":\"1\"}\n{\"process_id\":\"p\",\"exit_status\":7}\n";

fn client(server: &Scripted) -> Client {
    Client::new(&server.address()).unwrap()
}

/// An answer of a server that has process streams.
fn extended(status: &str, body: &str) -> String {
    answer(status, body).replacen("\r\n", "\r\nGarden-Extensions: process-streams\r\n", 1)
}

async fn run(client: &Client) -> garden_client::Result<Process> {
    timeout(LIMIT, client.run("c1", ProcessSpec::default())).await.unwrap()
}

#[tokio::test]
async fn another_garden_server_is_asked_once_and_gets_classic_streams() {
    let server = Scripted::start(|number, mut peer| async move {
        let request = peer.request().await;
        if number == 0 {
            assert!(request.starts_with("GET /ping HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("\r\ngarden-extensions: process-streams\r\n"), "{request}");
            peer.send(answer("200 OK", "{}")).await;
        } else {
            assert!(request.starts_with("POST /containers/c1/processes HTTP/1.1\r\n"), "{request}");
            peer.send(format!("{RUN_HEAD}{ENDED}")).await;
        }
    });
    let client = client(&server);
    for _ in 0..3 {
        assert_eq!(run(&client.clone()).await.unwrap().exit.await, Ok(7));
    }
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn a_server_that_had_them_and_has_them_no_longer_gets_classic_streams() {
    let server = Scripted::start(|number, mut peer| async move {
        let request = peer.request().await;
        match number {
            0 => peer.send(extended("503 Service Unavailable", "{}")).await,
            // What another server says of a path that it does not know: nothing was done.
            1 => peer.send(answer("404 Not Found", "404 page not found\n")).await,
            _ => {
                assert!(request.starts_with("POST /containers/c1/processes HTTP/1.1\r\n"), "{request}");
                peer.send(format!("{RUN_HEAD}{ENDED}")).await;
            }
        }
    });
    assert_eq!(run(&client(&server)).await.unwrap().exit.await, Ok(7));
}

/// Answers ping and the start of a process, and then the handshake by `begin`, and what comes behind it.
fn scripted(
    begin: impl Fn(&str) -> String + Clone + Send + Sync + 'static,
    frames: Vec<Vec<u8>>,
) -> Scripted {
    Scripted::start(move |number, mut peer: Peer| {
        let (begin, frames) = (begin.clone(), frames.clone());
        async move {
            peer.request().await;
            if number == 0 {
                return peer.send(extended("200 OK", "{}")).await;
            }
            // All on one connection.
            assert_eq!(number, 1);
            peer.send(extended("201 Created", "{\"process_id\":\"p\"}")).await;
            let request = peer.request().await;
            let stream = "GET /v1/containers/c1/processes/p/stream?from=start&windows=true HTTP/1.1\r\n";
            assert!(request.starts_with(stream), "{request}");
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
            peer.send(begin(&derive_accept_key(key.as_bytes()))).await;
            for frame in frames {
                peer.send(frame).await;
            }
            peer.rest().await;
        }
    })
}

fn accepted(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\
         Garden-Extensions: process-streams\r\nGarden-Stream-Id: 1\r\n\r\n"
    )
}

/// A server's frame, which has no mask.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x80 | opcode, 126], &length[..], payload].concat()
}

#[tokio::test]
async fn the_exit_comes_as_kubernetes_writes_it() {
    let status = br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
    let server = scripted(accepted, vec![frame(2, &[&[3], &status[..]].concat()), frame(8, b"\x03\xe8")]);
    assert_eq!(run(&client(&server)).await.unwrap().exit.await, Ok(42));
}

#[tokio::test]
async fn a_handshake_that_was_not_asked_for_is_refused() {
    let wrong_key = |_: &str| accepted("c3VyZWx5IG5vdCB0aGlzIG9uZQ==");
    let no_protocol = |accept: &str| accepted(accept).replace("v5.channel", "v9.channel");
    let no_stream = |accept: &str| accepted(accept).replace("Stream-Id", "Stream-Name");
    for server in
        [scripted(wrong_key, Vec::new()), scripted(no_protocol, Vec::new()), scripted(no_stream, Vec::new())]
    {
        let error = run(&client(&server)).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("classic streams"), "{error}");
    }
    let server = scripted(
        |_| {
            extended(
                "404 Not Found",
                "{\"Type\":\"ProcessNotFoundError\",\"ProcessID\":\"p\",\"Message\":\"gone\"}",
            )
        },
        Vec::new(),
    );
    assert_eq!(run(&client(&server)).await.unwrap_err(), Error::process_not_found("p"));
}

#[tokio::test]
async fn what_kind_of_streams_there_are_is_asked_again_and_a_process_never() {
    // Dies on the way of everything, later each time.
    let server = Scripted::start(|number, mut peer| async move {
        let request = peer.request().await;
        assert_eq!(request.starts_with("GET /ping "), number < 2, "{number}: {request}");
        if number == 1 {
            peer.send(extended("200 OK", "{}")).await;
        }
    });
    let error = run(&client(&server)).await.unwrap_err();
    assert!(error.to_string().contains("may have been done"), "{error}");
    assert_eq!(server.connections(), 3);

    // Or has no websocket after all; or dies when it is asked for one.
    for end in [answer("404 Not Found", "404 page not found\n"), String::new()] {
        let server = Scripted::start(move |number, mut peer: Peer| {
            let end = end.clone();
            async move {
                peer.request().await;
                if number == 0 {
                    return peer.send(extended("200 OK", "{}")).await;
                }
                peer.send(extended("201 Created", "{\"process_id\":\"p\"}")).await;
                peer.request().await;
                peer.send(end).await;
            }
        });
        let error = run(&client(&server)).await.unwrap_err();
        assert!(matches!(&error, Error::Connection { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("run: process p was started, but not attached to: "), "{text}");
        assert!(text.ends_with("; attach to it") && !text.contains("try again"), "{text}");
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_server_that_makes_no_sense_is_left() {
    for (frames, text) in [
        (vec![frame(1, b"text")], "carries a text"),
        (vec![frame(2, b"")], "no channel of ours"),
        (vec![frame(2, b"\x09x")], "no channel of ours"),
        (vec![frame(2, b"\x00x")], "no channel of ours"),
        (vec![frame(2, b"\x03{")], ""),
        (vec![frame(2, b"\xff\x03")], "no output"),
        (vec![frame(2, b"\x06{\"stdin\":-1}")], "stdin"),
        (vec![frame(2, b"\x06{\"stdin\":4294967295}"); 300], "more input than there can be"),
        // A frame of 16 MiB is announced; a reserved bit; the connection ends.
        (vec![[&[0x82, 127][..], &(16u64 << 20).to_be_bytes()].concat()], ""),
        (vec![frame(0x32, b"\x01x")], "decode failed: EOF"),
        (vec![frame(8, b"\x03\xe9the server stops")], "1001: the server stops"),
    ] {
        let server = scripted(accepted, frames);
        let error = timeout(LIMIT, run(&client(&server)).await.unwrap().exit).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Malformed { .. } | Error::Connection { .. }), "{text}: {error:?}");
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_sends_more_than_was_asked_for_is_not_believed() {
    let piece = frame(2, &[&[1][..], &[b'x'; 60_000]].concat());
    let server = scripted(accepted, vec![piece; 40]);
    let process = run(&client(&server)).await.unwrap();
    let mut stdout = process.stdout.open();
    assert!(stdout.next().now_or_never().is_none(), "asked for, and not read");
    let error = timeout(LIMIT, process.exit).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("more of an output than was asked for"), "{error}");
}
