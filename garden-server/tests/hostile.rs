//! Requests that are wrong, too large, too slow, or somebody else's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use backend_fake::FakeBackend;
use common::Server;
use garden_server::{BindError, Config, Listener, UnixSocketOptions};

#[tokio::test]
async fn another_sites_requests_are_refused() {
    let server = Server::start().await;
    for (headers, over_unix, over_tcp) in [
        ("Host: api", 200, 200),
        ("Host: 127.0.0.1:7777", 200, 200),
        ("Host: evil.example", 200, 403),
        ("Host: localhost\r\nOrigin: http://evil.example", 403, 403),
        ("Host: localhost\r\nOrigin: null", 403, 403),
        ("Host: localhost\r\nOrigin: http://localhost", 200, 200),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site", 403, 403),
    ] {
        let [mut unix, mut tcp] = server.both_kinds().await;
        for (raw, status) in [(&mut unix, over_unix), (&mut tcp, over_tcp)] {
            raw.send(format!("GET /ping HTTP/1.1\r\n{headers}\r\n\r\n")).await;
            assert_eq!(raw.response().await.status, status, "{headers}");
        }
    }
}

#[tokio::test]
async fn a_json_body_is_bounded_and_the_error_names_the_bound() {
    let config = Config { max_json_body_bytes: 1000, ..Config::default() };
    let server = Server::with(FakeBackend::new(), config).await;
    let body = format!(r#"{{"handle":"{}"}}"#, "x".repeat(1000));
    let response = server.request("POST /containers", &body).await;
    assert_eq!(response.status, 400);
    assert!(response.text().contains("1000 bytes"), "{}", response.text());
}

#[tokio::test]
async fn a_bulk_query_without_handles_is_a_clear_error() {
    let server = Server::with_container().await;
    for path in ["bulk_info", "bulk_metrics"] {
        let response = server.request(&format!("GET /containers/{path}"), "").await;
        assert_eq!(response.status, 400);
        assert!(response.text().contains("handles"), "{}", response.text());
        assert_eq!(server.request(&format!("GET /containers/{path}?handles="), "").await.text(), "{}\n");
        let many: Vec<String> = (0..250).map(|n| format!("handle-{n:0>29}")).collect();
        let response =
            server.request(&format!("GET /containers/{path}?handles={}", many.join("%2C")), "").await;
        assert_eq!((response.status, response.json().as_object().unwrap().len()), (200, 250));
    }
}

#[tokio::test]
async fn a_client_that_sends_no_request_is_dropped() {
    let config = Config { read_header_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::with(FakeBackend::new(), config).await;
    for mut raw in server.both_kinds().await {
        raw.send("GET /ping HT").await;
        raw.rest().await;
    }
    // The clock does not run on a stream.
    server.create("c1").await;
    let (mut raw, _) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    raw.send("{\"signal\":1}").await;
    assert_eq!(raw.payload().await["exit_status"], 137);
}

#[tokio::test]
async fn garbage_is_answered_and_closed() {
    let server = Server::start().await;
    let mut raw = server.connect().await;
    raw.send("\u{1}\u{2}\u{3} garbage\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&raw.rest().await).starts_with("HTTP/1.1 400 "));
    assert_eq!(server.request("GET /ping", "").await.status, 200);
}

#[tokio::test]
async fn a_request_for_a_host_alone_is_no_path_of_ours() {
    let server = Server::start().await;
    for mut raw in server.both_kinds().await {
        raw.send("CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.response().await.status, 404);
    }
}

#[tokio::test]
async fn addresses_that_others_reach_need_a_decision() {
    let error = Listener::tcp("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, BindError::NotLoopback { .. }));
    assert!(error.to_string().contains("--insecure-tcp"));
}

#[tokio::test]
async fn a_socket_is_replaced_only_if_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/garden.sock");
    let options = UnixSocketOptions { mode: 0o600, group_id: None };
    let first = Listener::unix(&path, options).await.unwrap();
    assert!(matches!(Listener::unix(&path, options).await.unwrap_err(), BindError::InUse { .. }));
    drop(first);
    assert!(!path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket");
    let second = Listener::unix(&path, options).await.unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    drop(second);
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::unix(&path, options).await.unwrap_err(), BindError::NotASocket { .. }));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let server = Server::with_container().await;
    server.request("GET /containers/c1/info", "").await;
    server.request("GET /containers/none/info", "").await;
    server.request("PATCH /containers", "").await;
    let response = server.request("GET /metrics", "").await;
    assert!(response.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = response.text();
    for line in [
        "garden_build_info{",
        "garden_http_requests_total{code=\"200\",method=\"GET\",route=\"info\"} 1\n",
        "garden_http_requests_total{code=\"404\",method=\"GET\",route=\"info\"} 1\n",
        "garden_http_requests_total{code=\"405\",method=\"other\",route=\"none\"} 1\n",
        "garden_http_request_duration_seconds_count{code=\"200\",method=\"GET\",route=\"info\"} 1\n",
        "garden_operations_total{operation=\"info\",result=\"error\"} 1\n",
        "garden_operation_duration_seconds_count{operation=\"info\",result=\"ok\"} 1\n",
        "garden_http_requests_in_flight 1\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    for sample in protocol::Backend::telemetry(server.fake.as_ref()) {
        assert!(text.contains(&format!("# HELP {} {}", sample.name, sample.help)), "{}", sample.name);
    }
}
