//! Windows: no end of a websocket gets more than it asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use backend_fake::{Context, FakeOptions};
use common::{
    Server,
    websocket::{CLOSE, STATUS, STDIN, STDOUT, WINDOWS},
};
use garden_server::Config;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn with_windows_nothing_comes_that_was_not_asked_for() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"both","args":["0123456789","ERR","3"]}"#).await;
    let mut socket = server.attach_windowed(&id).await;
    assert_eq!(socket.next().await, (WINDOWS, b"{\"stdin\":1048576}\n".to_vec()));
    // The status does not wait for outputs that nobody asks for.
    assert_eq!(socket.next().await.0, STATUS);
    socket.send(WINDOWS, r#"{"stdout":4}"#).await;
    assert_eq!(socket.next().await, (STDOUT, b"0123".to_vec()));
    socket.send(WINDOWS, r#"{"stdout":100,"stderr":100}"#).await;
    let rest = socket.rest().await;
    assert_eq!((rest.stdout.as_slice(), rest.stderr.as_slice()), (&b"456789"[..], &b"ERR"[..]));
    assert_eq!(rest.close, Some((1000, String::new())));
}

#[tokio::test]
async fn an_output_that_is_no_longer_wanted_does_not_come() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"both","args":["0123456789","ERR","3"]}"#).await;
    let mut socket = server.attach_windowed(&id).await;
    socket.send(WINDOWS, r#"{"stdout":4,"stderr":100}"#).await;
    while socket.next().await != (STDOUT, b"0123".to_vec()) {}
    socket.send(CLOSE, [STDOUT]).await;
    socket.send(WINDOWS, r#"{"stdout":100}"#).await;
    assert_eq!(socket.rest().await.stdout, b"");
}

#[tokio::test]
async fn with_windows_room_for_input_is_told_as_it_is_made() {
    let mut options = FakeOptions::default();
    options.programs.insert("count", |context: Context| async move {
        let mut bytes = 0;
        while let Some(piece) = context.read_stdin().await {
            bytes += piece.len();
        }
        context.print(bytes.to_string()).await;
        Ok(0)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let id = server.start_process(r#"{"path":"count"}"#).await;
    let mut socket = server.attach_windowed(&id).await;
    let piece = [b'x'; 1000];
    let (mut room, mut sent) = (0, 0);
    while sent < 4 * MIB {
        if room < piece.len() + 64 {
            let (channel, data) = socket.next().await;
            assert_eq!(channel, WINDOWS);
            let windows: serde_json::Value = serde_json::from_slice(&data).unwrap();
            room += usize::try_from(windows["stdin"].as_u64().unwrap()).unwrap();
        } else {
            socket.send(STDIN, piece).await;
            room -= piece.len() + 64;
            sent += piece.len();
        }
    }
    socket.send(CLOSE, [STDIN]).await;
    socket.send(WINDOWS, r#"{"stdout":100,"stderr":100}"#).await;
    assert_eq!(socket.rest().await.stdout, sent.to_string().into_bytes());
}

#[tokio::test]
async fn outputs_that_nobody_asked_for_can_be_had_for_a_while_and_on_connections_of_their_own() {
    let config = Config { output_retention: Duration::from_millis(300), ..Config::default() };
    let server = Server::with(backend_fake::FakeBackend::new(), config).await;
    server.create("c1").await;
    let id = server.start_process(r#"{"path":"both","args":["OUT","ERR","3"]}"#).await;
    let mut socket = server.attach_windowed(&id).await;
    assert_eq!(socket.next().await.0, WINDOWS);
    assert_eq!(socket.next().await.0, STATUS);
    let mut raw = server.connect().await;
    let path = format!("GET /containers/c1/processes/{id}/attaches/{}/stdout", socket.stream_id);
    assert_eq!(raw.request(&path, "").await.status, 200);
    assert_eq!(raw.rest().await, b"OUT");
    let rest = socket.rest().await;
    assert_eq!((rest.stdout.as_slice(), rest.close), (&b""[..], Some((1000, String::new()))));
}
