//! A process over a websocket: its channels, its end, and what a client does to nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use backend_fake::{Context, FakeOptions};
use common::{
    Server,
    websocket::{CLOSE, RESIZE, SIGNAL, STATUS, STDERR, STDIN, STDOUT, Socket},
    within,
};
use garden_server::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

const MIB: usize = 1 << 20;

/// The value of a metric of the server.
async fn open_websockets(server: &Server) -> f64 {
    let text = server.request("GET /metrics", "").await.text();
    let line = text.lines().find(|line| line.starts_with("garden_open_streams{kind=\"websocket\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// Waits until no websocket is open; a test that waits in vain fails.
async fn until_none_is_open(server: &Server) {
    within(async {
        while open_websockets(server).await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What the server wrote and the client has not read yet.
fn unread_bytes(socket: &Socket) -> usize {
    let mut bytes = vec![std::mem::MaybeUninit::uninit(); 4 * MIB];
    socket2::SockRef::from(socket.stream.get_ref()).peek(&mut bytes).unwrap_or(0)
}

async fn is_running(server: &Server, process_id: &str) -> bool {
    let status = server.request(&format!("GET /v1/containers/c1/processes/{process_id}"), "").await;
    assert_eq!(status.status, 200, "{}", status.text());
    status.json()["exit_status"].is_null()
}

#[tokio::test]
async fn every_byte_goes_through_and_comes_back() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"path":"cat"}"#).await;
    let sent: Vec<u8> = (0..=255).cycle().take(200_003).collect();
    for piece in sent.chunks(7001) {
        socket.send(STDIN, piece).await;
    }
    socket.send(CLOSE, [STDIN]).await;
    let rest = socket.rest().await;
    assert!(rest.stdout == sent, "what came back is not what was sent");
    assert_eq!((rest.exit_code(), rest.close), (0, Some((1000, String::new()))));
}

#[tokio::test]
async fn outputs_and_status_have_their_channels_in_order() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"path":"both","args":["OUT","ERR","3"]}"#).await;
    let mut messages = Vec::new();
    loop {
        let (channel, data) = socket.next().await;
        messages.push((channel, data));
        if channel == STATUS {
            break;
        }
    }
    for wanted in
        [(STDOUT, "OUT".into()), (STDERR, "ERR".into()), (CLOSE, vec![STDOUT]), (CLOSE, vec![STDERR])]
    {
        assert!(messages.contains(&wanted), "{wanted:?} in {messages:?}");
    }
    let status: serde_json::Value = serde_json::from_slice(&messages[4].1).unwrap();
    let cause = json!({"reason": "ExitCode", "message": "3"});
    let wanted = json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]},
        "message": "command terminated with non-zero exit code: 3",
    });
    assert_eq!((messages.len(), status), (5, wanted));
    assert_eq!(socket.rest().await.close, Some((1000, String::new())));
}

#[tokio::test]
async fn a_process_that_cannot_be_waited_for_is_an_internal_error() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"path":"waiterr"}"#).await;
    let status = socket.rest().await.status.unwrap();
    assert_eq!((&status["reason"], &status["message"]), (&"InternalError".into(), &"boom".into()));
}

#[tokio::test]
async fn sizes_and_signals_are_obeyed_also_after_the_end_of_input() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"path":"hold"}"#).await;
    socket.send(CLOSE, [STDIN]).await;
    socket.send(RESIZE, r#"{"Width":90,"Height":30}"#).await;
    assert_eq!(socket.next().await, (STDOUT, b"tty 90x30\n".to_vec()));
    socket.send(SIGNAL, r#"{"signal":"terminate"}"#).await;
    assert_eq!(socket.rest().await.exit_code(), 143);
    let mut socket = server.run_over_websocket(r#"{"path":"hold"}"#).await;
    socket.send(SIGNAL, r#"{"signal":"kill"}"#).await;
    assert_eq!(socket.rest().await.exit_code(), 137);
}

#[tokio::test]
async fn a_signal_is_obeyed_behind_input_that_is_not_read() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"path":"hold"}"#).await;
    for _ in 0..15 {
        socket.send(STDIN, vec![b'x'; MIB / 16]).await;
    }
    socket.send(SIGNAL, r#"{"signal":"kill"}"#).await;
    assert_eq!(socket.rest().await.exit_code(), 137);
}

#[tokio::test]
async fn what_makes_no_sense_is_closed_with_a_code_and_the_process_lives_on() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"cat"}"#).await;
    let binary = |bytes: &[u8]| Message::binary(bytes.to_vec());
    for (message, code, reason) in [
        (Message::text("hello"), 1003, "send binary messages"),
        (binary(b""), 1008, "begins with the byte of its channel"),
        (binary(b"\x07x"), 1008, "nothing on channel 7"),
        (binary(b"\x01x"), 1008, "nothing on channel 1"),
        (binary(b"\x03{}"), 1008, "nothing on channel 3"),
        (binary(b"\x04[]"), 1008, ""),
        (binary(b"\x04{\"Width\":-1}"), 1008, "Width"),
        (binary(b"\x05{\"signal\":\"hup\"}"), 1008, "hup"),
        (binary(b"\x05{}"), 1008, "signal"),
        (binary(b"\xff"), 1008, "can be closed"),
        (binary(b"\xff\x03"), 1008, "can be closed"),
        (binary(&vec![0; MIB + 1]), 1009, "larger than 1048576 bytes"),
    ] {
        let mut socket = server.attach(&id).await;
        let name = format!("{message:.40?}");
        socket.send_message(message).await;
        let (closed, why) = socket.rest().await.close.expect(&name);
        assert!(closed == code && why.contains(reason), "{name}: {closed} {why:?}");
        assert!(is_running(&server, &id).await, "{name}");
    }
    // And it still can be used.
    let mut socket = server.attach(&id).await;
    socket.send(STDIN, "still").await;
    socket.send(CLOSE, [STDIN]).await;
    let rest = socket.rest().await;
    assert_eq!((rest.stdout.as_slice(), rest.exit_code()), (&b"still"[..], 0));
}

#[tokio::test]
async fn bytes_that_are_no_frames_are_closed_with_a_code() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"cat"}"#).await;
    // A reserved bit; no mask; a control frame in pieces; an opcode that nobody knows; no text.
    for garbage in [b"\xf2\x81\0\0\0\0x", b"\x82\x05\0\0\0\0x", b"\x09\x81\0\0\0\0x", b"\x83\x81\0\0\0\0x"] {
        let mut socket = server.attach(&id).await;
        within(socket.stream.get_mut().write_all(garbage)).await.unwrap();
        let (code, reason) = socket.rest().await.close.expect("a close frame");
        assert_eq!(code, 1002, "{garbage:x?}: {reason}");
    }
    // 16 MiB are announced, and refused before they come.
    let mut socket = server.attach(&id).await;
    let head = [&[0x82, 0xff][..], &(16 * MIB as u64).to_be_bytes(), &[0; 4]].concat();
    within(socket.stream.get_mut().write_all(&head)).await.unwrap();
    assert_eq!(socket.rest().await.close.expect("a close frame").0, 1009);
    assert!(is_running(&server, &id).await);
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_wherever_it_was() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"hold"}"#).await;
    // Half a frame, an idle client, one whose input is not read, and one that says that it goes.
    let mut half = server.attach(&id).await;
    half.stream.get_mut().write_all(b"\x82\xfe\xff").await.unwrap();
    let idle = server.attach(&id).await;
    let mut stuck = server.attach(&id).await;
    while tokio::time::timeout(Duration::from_millis(200), stuck.send(STDIN, vec![b'x'; MIB / 16]))
        .await
        .is_ok()
    {}
    let mut polite = server.attach(&id).await;
    polite.close().await;
    assert_eq!(polite.rest().await.status, None);
    // A connection that hangs costs nobody else anything.
    assert_eq!(server.request("GET /ping", "").await.status, 200);
    assert_eq!(open_websockets(&server).await, 3.0);
    drop((half, idle, stuck));
    until_none_is_open(&server).await;
    // Also of the one whose input nobody reads only what is queued is kept.
    server.until_unconnected().await;
    assert!(is_running(&server, &id).await);
}

#[tokio::test]
async fn input_that_a_client_sent_before_it_left_arrives() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"id":"p","path":"cat"}"#).await;
    for _ in 0..10 {
        socket.send(STDIN, vec![b'x'; 10_000]).await;
    }
    socket.send(CLOSE, [STDIN]).await;
    drop(socket);
    let result = server.request("GET /v1/containers/c1/processes/p/result", "").await.json();
    assert_eq!((&result["exit_status"], result["stdout"].as_str().unwrap().len()), (&json!(0), 100_000));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_else_up() {
    const CHUNK: &[u8] = &[b'x'; 64 * 1024];
    let mut options = FakeOptions { ring_bytes: 32 * MIB, ..FakeOptions::default() };
    options.programs.insert("much", |context: Context| async move {
        for _ in 0..128 {
            context.print(CHUNK).await;
        }
        Ok(7)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let id = server.start_process(r#"{"path":"much"}"#).await;
    let path = format!("/v1/containers/c1/processes/{id}/stream?from=start");
    let mut idle = server.try_attach(&path).await.unwrap();
    let mut reader = server.try_attach(&path).await.unwrap();
    let rest = reader.rest().await;
    assert_eq!((rest.stdout.len(), rest.exit_code()), (128 * CHUNK.len(), 7));
    // And when it reads at last, it gets everything too.
    let rest = idle.rest().await;
    assert_eq!((rest.stdout.len(), rest.exit_code()), (128 * CHUNK.len(), 7));
}

#[tokio::test]
async fn pings_are_answered() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"path":"hold"}"#).await;
    socket.send_message(Message::Ping("there?".into())).await;
    let answer = within(futures_util::StreamExt::next(&mut socket.stream)).await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong("there?".into()));
}

#[tokio::test]
async fn when_the_server_stops_the_code_says_so_and_nothing_is_lost() {
    let mut options = FakeOptions::default();
    options.programs.insert("echo_lines", |context: Context| async move {
        let mut line = 0;
        while context.read_stdin().await.is_some() {
            context.print(format!("line {line}\n")).await;
            line += 1;
        }
        Ok(0)
    });
    let mut server = Server::with_options(options).await;
    server.create("c1").await;
    let mut socket = server.run_over_websocket(r#"{"id":"p","path":"echo_lines"}"#).await;
    socket.send(STDIN, "x").await;
    assert_eq!(socket.stdout(7).await, b"line 0\n");
    server.ask_to_stop();
    let rest = socket.rest().await;
    assert_eq!((rest.status, rest.stdout), (None, Vec::new()));
    assert_eq!(rest.close, Some((1001, "the server stops, the process goes on: attach again".to_owned())));
    let fake = server.fake.clone();
    within(server.stopped()).await;

    let again = Server::before(fake, Config::default()).await;
    let mut socket = again.attach("p").await;
    socket.send(STDIN, "x").await;
    socket.send(CLOSE, [STDIN]).await;
    let rest = socket.rest().await;
    assert_eq!((rest.stdout.as_slice(), rest.exit_code()), (&b"line 1\n"[..], 0));
}

#[tokio::test]
async fn a_client_that_takes_nothing_hardly_delays_the_stop() {
    let mut options = FakeOptions::default();
    options.programs.insert("flood", |context: Context| async move {
        loop {
            context.print(vec![b'x'; 64 * 1024]).await;
            // What nobody reads never makes it wait.
            tokio::task::yield_now().await;
        }
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let mut socket = server.run_over_websocket(r#"{"path":"flood"}"#).await;
    socket.stdout(1).await;
    within(server.stop()).await;
}

#[tokio::test]
async fn a_client_that_is_behind_when_the_server_stops_gets_every_byte_once() {
    let lines: Vec<u8> = (0..400_000).flat_map(|line| format!("{line:07}\n").into_bytes()).collect();
    let printed = lines.clone();
    let mut options = FakeOptions { ring_bytes: 8 * MIB, ..FakeOptions::default() };
    options.programs.insert("lines", move |context: Context| {
        let printed = printed.clone();
        async move {
            context.print(printed).await;
            context.read_stdin().await;
            Ok(0)
        }
    });
    let mut server = Server::with_options(options).await;
    server.create("c1").await;
    let mut socket = server.run_over_websocket(r#"{"id":"p","path":"lines"}"#).await;
    let mut stdout = socket.stdout(1).await;
    // It reads no more, until the kernel takes no more: a message is stuck half-way.
    let (mut unread, mut before) = (1, 0);
    while unread > before {
        tokio::time::sleep(Duration::from_millis(50)).await;
        before = std::mem::replace(&mut unread, unread_bytes(&socket));
    }
    server.ask_to_stop();
    let rest = socket.rest().await;
    assert_eq!(rest.close.map(|(code, _)| code), Some(1001));
    stdout.extend(rest.stdout);
    drop(socket);
    let fake = server.fake.clone();
    within(server.stopped()).await;

    let again = Server::before(fake, Config::default()).await;
    let mut socket = again.attach("p").await;
    socket.send(CLOSE, [STDIN]).await;
    stdout.extend(socket.rest().await.stdout);
    assert!(stdout == lines, "{} bytes came, {} were printed", stdout.len(), lines.len());
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_close_hardly_delays_the_stop() {
    let server = Server::with_container().await;
    let mut socket = server.run_over_websocket(r#"{"path":"true"}"#).await;
    while socket.next().await.0 != STATUS {}
    // The server waits five seconds for the client's answer, unless it stops.
    tokio::time::timeout(Duration::from_secs(4), server.stop()).await.expect("in time");
}

#[tokio::test]
async fn each_of_several_clients_gets_everything_from_the_start() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"cat"}"#).await;
    let path = format!("/v1/containers/c1/processes/{id}/stream?from=start");
    let mut first = server.try_attach(&path).await.unwrap();
    first.send(STDIN, "one ").await;
    assert_eq!(first.stdout(4).await, b"one ");
    let mut second = server.try_attach(&path).await.unwrap();
    let mut from_now = server.attach(&id).await;
    second.send(STDIN, "two").await;
    second.send(CLOSE, [STDIN]).await;
    assert_eq!(first.rest().await.stdout, b"two");
    assert_eq!(second.rest().await.stdout, b"one two");
    assert_eq!(from_now.rest().await.stdout, b"two");
}

#[tokio::test]
async fn a_half_open_tcp_client_is_gone() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"hold"}"#).await;
    let mut stream = tokio::net::TcpStream::connect(server.tcp).await.unwrap();
    let head = format!(
        "GET /v1/containers/c1/processes/{id}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut byte = [0];
    within(stream.read_exact(&mut byte)).await.unwrap();
    // Unlike a process's raw stream, a websocket is over when the client closes its half without a word.
    stream.shutdown().await.unwrap();
    until_none_is_open(&server).await;
    assert!(is_running(&server, &id).await);
}

#[tokio::test]
async fn a_reader_that_is_slow_but_alive_loses_nothing() {
    const SIZE: usize = MIB;
    let mut options = FakeOptions { ring_bytes: 16 << 10, ..FakeOptions::default() };
    options.programs.insert("much", |context: Context| async move {
        context.read_stdin().await;
        context.print(vec![b'x'; SIZE]).await;
        Ok(0)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let mut socket = server.run_over_websocket(r#"{"path":"much"}"#).await;
    socket.send(STDIN, "go").await;
    // At a pace at which the kernel calls the connection writable only every ten seconds.
    let mut begin = Vec::new();
    for _ in 0..48 {
        let mut piece = [0; 4096];
        within(socket.stream.get_mut().read_exact(&mut piece)).await.unwrap();
        begin.extend_from_slice(&piece);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let stream = socket.stream.into_inner();
    let stream = WebSocketStream::from_partially_read(stream, begin, Role::Client, None).await;
    let rest = Socket { stream, stream_id: socket.stream_id }.rest().await;
    assert_eq!((rest.stdout.len(), rest.exit_code()), (SIZE, 0));
}
