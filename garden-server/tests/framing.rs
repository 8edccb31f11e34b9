//! Where a request begins and ends: nobody can hide one in another's body, and what is odd but clear is understood.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use backend_fake::FakeBackend;
use common::{Raw, Server, within};
use garden_server::Config;
use protocol::Backend;

const PING: &str = "GET /ping HTTP/1.1\r\nHost: api\r\n\r\n";

/// The statuses of all answers up to the connection's end.
async fn statuses(raw: &mut Raw) -> Vec<u16> {
    let bytes = raw.rest().await;
    let text = String::from_utf8_lossy(&bytes);
    let heads = text.split("HTTP/1.").skip(1);
    heads.map(|head| head[2..5].parse().unwrap()).collect()
}

fn create(headers: &str, body: &str) -> String {
    format!("POST /containers HTTP/1.1\r\nHost: api\r\n{headers}\r\n\r\n{body}")
}

#[tokio::test]
async fn what_could_be_understood_in_two_ways_is_the_connections_last_request() {
    let server = Server::start().await;
    let hidden = format!("0\r\n\r\n{PING}");
    let chunked = "2\r\n{}\r\n0\r\n\r\n";
    for (request, status) in [
        // The chunks count; the length is not looked at, and nothing behind them is read.
        (create("Content-Length: 6\r\nTransfer-Encoding: chunked", &hidden), 500),
        (create("Transfer-Encoding: chunked\r\nContent-Length: 6", &hidden), 500),
        (create("Content-Length: 2\r\nContent-Length: 3", "{} "), 400),
        (create("Content-Length: 2, 2", "{}"), 400),
        (create("Content-Length: +2", "{}"), 400),
        (create("Content-Length: -1", "{}"), 400),
        (create("Content-Length: 0x2", "{}"), 400),
        (create("Content-Length: 18446744073709551616", "{}"), 400),
        (create("Content-Length:", "{}"), 400),
        (create("Transfer-Encoding: identity\r\nContent-Length: 2", "{}"), 400),
        (create("Transfer-Encoding: xchunked", chunked), 400),
        (create("Transfer-Encoding : chunked", chunked), 400),
        (create("Transfer-Encoding: gzip, chunked", chunked), 400),
        (create("Transfer-Encoding: chunked, chunked", chunked), 400),
        (create("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", chunked), 400),
        (create("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", chunked), 400),
        (create("Host: other\r\nContent-Length: 2", "{}"), 400),
        (create("X: a\r\n folded\r\nContent-Length: 2", "{}"), 400),
        (create("X: a\rb\r\nContent-Length: 2", "{}"), 400),
        (create("X: a\0b\r\nContent-Length: 2", "{}"), 400),
        (create("no colon\r\nContent-Length: 2", "{}"), 400),
        (create("Transfer-Encoding: chunked", "zz\r\n{}\r\n0\r\n\r\n"), 400),
        (create("Transfer-Encoding: chunked", "-2\r\n{}\r\n0\r\n\r\n"), 400),
        (create("Transfer-Encoding: chunked", "10000000000000002\r\n{}\r\n0\r\n\r\n"), 400),
        (create("Transfer-Encoding: chunked", "2\r\n{}XX0\r\n\r\n"), 400),
        (create("Transfer-Encoding: chunked", "2\n{}\n0\n\n"), 400),
        (
            "POST /containers HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_owned(),
            400,
        ),
    ] {
        for mut raw in server.both_kinds().await {
            raw.send(format!("{request}{PING}")).await;
            assert_eq!(statuses(&mut raw).await, [status], "{request:?}");
        }
    }
    assert_eq!(*server.fake.list(&protocol::Properties::new()).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_is_odd_but_clear_is_understood() {
    let server = Server::start().await;
    for request in [
        "\r\n\r\nGET /ping HTTP/1.1\r\nHost: api\r\n\r\n",
        "GET /ping HTTP/1.1\nHost: api\n\n",
        "GET /ping HTTP/1.1\r\n\r\n",
        "GET /ping HTTP/1.1\r\nhost:api\r\nX-Vcap-Request-Id:\t a \r\n\r\n",
        "GET http://api/ping HTTP/1.1\r\nHost: api\r\n\r\n",
        "GET /ping?a=b;c#d HTTP/1.1\r\nHost: api\r\n\r\n",
        "GET /ping HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello",
        "GET /ping HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /ping HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "POST /containers HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\n{\r\n01\r\n}\r\n0\r\n\r\n",
        "POST /containers HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
        "POST /containers HTTP/1.1\r\nHost: api\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
        "POST /containers HTTP/1.1\r\nHost: api\r\nExpect: something\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        for mut raw in server.both_kinds().await {
            raw.send(format!("{request}{PING}")).await;
            assert_eq!(raw.response().await.status, 200, "{request:?}");
            let ping = raw.response().await;
            assert_eq!((ping.status, ping.text().as_str()), (200, "{}\n"), "{request:?}");
        }
    }
}

#[tokio::test]
async fn a_body_without_length_is_an_empty_body() {
    let server = Server::start().await;
    let mut raw = server.connect().await;
    raw.send(format!("POST /containers HTTP/1.1\r\nHost: api\r\n\r\n{PING}")).await;
    assert_eq!(raw.response().await.json()["Message"], "EOF");
    assert_eq!(raw.response().await.status, 200);
    let mut raw = server.connect().await;
    raw.send("POST /containers HTTP/1.0\r\n\r\n{\"handle\":\"x\"}").await;
    assert_eq!(raw.response().await.json()["Message"], "EOF");
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn versions_and_what_becomes_of_the_connection() {
    let server = Server::start().await;
    for (head, version, connection, closes) in [
        ("GET /ping HTTP/1.1\r\nHost: api\r\n", "HTTP/1.1", None, false),
        ("GET /ping HTTP/1.1\r\nHost: api\r\nConnection: keep-alive\r\n", "HTTP/1.1", None, false),
        ("GET /ping HTTP/1.1\r\nHost: api\r\nConnection: close\r\n", "HTTP/1.1", Some("close"), true),
        ("GET /ping HTTP/1.1\r\nHost: api\r\nConnection: TE, Close\r\n", "HTTP/1.1", Some("close"), true),
        ("GET /ping HTTP/1.0\r\n", "HTTP/1.0", None, true),
        ("GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n", "HTTP/1.0", Some("keep-alive"), false),
    ] {
        for mut raw in server.both_kinds().await {
            raw.send(format!("{head}\r\n")).await;
            let response = raw.response().await;
            assert_eq!(
                (response.version.as_str(), response.header("connection")),
                (version, connection),
                "{head}"
            );
            assert_eq!(response.text(), "{}\n", "{head}");
            if closes {
                assert_eq!(raw.rest().await, b"", "{head}");
            } else {
                assert_eq!(raw.request("GET /ping", "").await.status, 200, "{head}");
            }
        }
    }
    for head in [
        "GET /ping HTTP/2.0",
        "GET /ping HTTP/1.2",
        "GET /ping",
        "GET /pi ng HTTP/1.1",
        " GET /ping HTTP/1.1",
    ] {
        let mut raw = server.connect().await;
        raw.send(format!("{head}\r\nHost: api\r\n\r\n{PING}")).await;
        assert_eq!(statuses(&mut raw).await, [400], "{head}");
    }
}

#[tokio::test]
async fn methods_that_a_path_does_not_have_are_405_with_those_it_has() {
    let server = Server::start().await;
    for (request, allow) in [
        ("OPTIONS /ping", "GET"),
        ("TRACE /ping", "GET"),
        ("get /ping", "GET"),
        ("MADEUP /containers", "POST, GET"),
        ("PATCH /containers/c/properties/k", "GET, PUT, DELETE"),
        ("GET /containers/c", "DELETE"),
        ("DELETE /containers/c/processes/p", "GET"),
    ] {
        let mut raw = server.connect().await;
        let response = raw.request(request, "").await;
        assert_eq!((response.status, response.header("allow")), (405, Some(allow)), "{request}");
        assert_eq!(raw.request("GET /ping", "").await.status, 200, "{request}");
    }
    assert_eq!(server.request("OPTIONS *", "").await.status, 404);
    // An answer to HEAD has the length of the text that it leaves out.
    let mut raw = server.connect().await;
    raw.send(format!("HEAD /containers HTTP/1.1\r\nHost: api\r\n\r\n{PING}")).await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("content-length")), (405, Some("19")));
    assert_eq!(raw.response().await.text(), "{}\n");
}

#[tokio::test]
async fn heads_are_bounded_and_what_is_beyond_is_told_by_the_status() {
    let server = Server::start().await;
    let uri = |bytes: usize| format!("GET /containers?a={} HTTP/1.1\r\nHost: api\r\n\r\n", "b".repeat(bytes));
    let headers = |count: usize| format!("GET /ping HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
    let header = |bytes: usize| format!("GET /ping HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(bytes));
    for (request, status) in [
        (uri(9_000), 200),
        (uri(65_000), 200),
        (uri(66_000), 414),
        (uri(400_000), 414),
        (uri(3_000_000), 431),
        (headers(100), 200),
        (headers(101), 431),
        (header(300_000), 200),
        (header(3_000_000), 431),
    ] {
        for mut raw in server.both_kinds().await {
            // The server need not read all of it.
            raw.send_some(&request).await;
            let what = format!("{}… ({} bytes)", &request[..20], request.len());
            if status == 200 {
                assert_eq!(raw.response().await.status, 200, "{what}");
            } else {
                assert_eq!(statuses(&mut raw).await, [status], "{what}");
            }
        }
    }
}

#[tokio::test]
async fn half_a_body_is_waited_for_a_while_and_holds_nothing_else() {
    let config = Config { read_body_timeout: Duration::from_millis(100), ..Config::default() };
    let server = Server::with(FakeBackend::new(), config).await;
    server.create("c1").await;
    assert_eq!(server.request("PUT /containers/c1/grace_time", "3600000000000").await.status, 200);
    for head in [
        "POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: 20\r\n\r\n{\"handle\":",
        "POST /containers HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"handle\":",
        "PUT /containers/c1/stop HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\n",
    ] {
        for mut raw in server.both_kinds().await {
            raw.send(head).await;
            let response = raw.response().await;
            assert_eq!(response.status, 400, "{head}");
            let message = "the request's body was cut short: nothing of it came for 100ms";
            assert_eq!(response.json()["Message"], message, "{head}");
            assert_eq!(raw.rest().await, b"", "{head}");
        }
    }
    let mut raw = server.connect().await;
    raw.send("PUT /containers/c1/files?destination=/x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n200\r\nabc").await;
    let response = raw.response().await;
    assert_eq!(response.status, 500);
    let message = response.json()["Message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("error streaming in") && message.contains("nothing of it came"), "{message}");
}

#[tokio::test]
async fn a_body_that_ends_early_is_no_request() {
    let server = Server::start().await;
    for mut raw in server.both_kinds().await {
        raw.send(
            "POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: 200\r\n\r\n{\"handle\":\"half\"}",
        )
        .await;
        raw.half_close().await;
        within(raw.rest()).await;
    }
    assert_eq!(*server.fake.list(&protocol::Properties::new()).await.unwrap(), [""; 0]);
}
