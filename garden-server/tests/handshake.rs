//! How a websocket begins, for whom, and who is told of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::Server;
use tokio_tungstenite::tungstenite::Error;

#[tokio::test]
async fn an_error_before_the_websocket_is_an_ordinary_one() {
    let server = Server::with_container().await;
    server.start_process(r#"{"id":"p","path":"hold"}"#).await;
    for (path, status, kind) in [
        ("/v1/containers/none/processes/p/stream", 404, "ContainerNotFoundError"),
        ("/v1/containers/c1/processes/none/stream", 404, "ProcessNotFoundError"),
        ("/v1/containers/c1/processes/p/stream?windows=maybe", 400, ""),
    ] {
        let Err(error) = server.try_attach(path).await else { panic!("{path}") };
        let Error::Http(response) = *error else { panic!("{path}: {error}") };
        let body: serde_json::Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
        assert_eq!((response.status().as_u16(), &body["Type"]), (status, &kind.into()), "{path}");
    }
    // No handshake, and the connection goes on.
    let mut raw = server.connect().await;
    let response = raw.request("GET /v1/containers/c1/processes/p/stream", "").await;
    assert_eq!(response.status, 400);
    assert!(response.text().contains("v5.channel.k8s.io"), "{}", response.text());
    assert_eq!(raw.request("GET /ping", "").await.status, 200);
}

#[tokio::test]
async fn a_page_of_another_site_gets_no_websocket() {
    let server = Server::with_container().await;
    server.start_process(r#"{"id":"p","path":"hold"}"#).await;
    let mut raw = server.connect_tcp().await;
    raw.send(
        "GET /v1/containers/c1/processes/p/stream HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
    )
    .await;
    assert_eq!(raw.response().await.status, 403);
}

#[tokio::test]
async fn a_websocket_begins_on_a_used_connection_with_frames_right_behind_its_request() {
    let server = Server::with_container().await;
    server.start_process(r#"{"id":"p","path":"hold"}"#).await;
    for mut raw in server.both_kinds().await {
        assert_eq!(raw.request("GET /ping", "").await.status, 200);
        // The answers in the specification's own example; the frame asks for a size of 90x30, with a mask of zeros.
        let frame = b"\x82\x99\0\0\0\0\x04{\"Width\":90,\"Height\":30}";
        let head = "GET /v1/containers/c1/processes/p/stream HTTP/1.1\r\nHost: localhost\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";
        raw.send([head.as_bytes(), frame].concat()).await;
        let head = raw.head().await;
        assert_eq!(head.status, 101);
        assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(head.header("sec-websocket-protocol"), Some("v5.channel.k8s.io"));
        assert_eq!(raw.bytes(13).await, b"\x82\x0b\x01tty 90x30\n");
    }
}

#[tokio::test]
async fn extensions_are_told_to_who_asks_and_to_nobody_else() {
    let server = Server::with_container().await;
    assert_eq!(server.request("GET /ping", "").await.header("garden-extensions"), None);
    let mut raw = server.connect().await;
    for (request, status) in [("GET /ping", 200), ("GET /nosuch", 404), ("GET /containers/none/info", 404)] {
        raw.send(format!("{request} HTTP/1.1\r\nHost: api\r\nGarden-Extensions: anything\r\n\r\n")).await;
        let response = raw.response().await;
        assert_eq!(
            (response.status, response.header("garden-extensions")),
            (status, Some("process-streams")),
            "{request}"
        );
    }
}
