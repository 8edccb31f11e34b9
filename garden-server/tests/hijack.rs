//! Process streams begin behind an ordinary head, on the same connection, with whatever was already sent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Raw, Server, within};

const EARLY: &str = "{\"process_id\":\"p\",\"source\":0,\"data\":\"one\\n\"}\n{\"source\":0}\n";

fn run_request(body: &str) -> String {
    format!(
        "POST /containers/c1/processes HTTP/1.1\r\nHost: api\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The head of a run, exactly.
async fn expect_run(raw: &mut Raw) -> serde_json::Value {
    let head = raw.head().await;
    assert_eq!((head.version.as_str(), head.status), ("HTTP/1.1", 201));
    let mut names: Vec<&str> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Content-Type", "Date", "Transfer-Encoding"]);
    assert_eq!(head.header("Transfer-Encoding"), Some("chunked"));
    raw.payload().await
}

async fn stdout_of(server: &Server, process_id: &str, stream_id: &str) -> Vec<u8> {
    let mut raw = server.connect().await;
    let path = format!("GET /containers/c1/processes/{process_id}/attaches/{stream_id}/stdout");
    let head = raw.request(&path, "").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), None);
    raw.rest().await
}

#[tokio::test]
async fn stdin_in_the_same_write_as_the_request() {
    let server = Server::with_container().await;
    for mut raw in server.both_kinds().await {
        raw.send(run_request(r#"{"path":"cat"}"#) + EARLY).await;
        let first = expect_run(&mut raw).await;
        let process_id = first["process_id"].as_str().unwrap().to_owned();
        let last = raw.payload().await;
        assert_eq!(last, serde_json::json!({"process_id": process_id, "exit_status": 0}));
        assert_eq!(raw.rest().await, b"");
        let stdout = stdout_of(&server, &process_id, first["stream_id"].as_str().unwrap()).await;
        assert_eq!(stdout, b"one\n");
    }
}

#[tokio::test]
async fn every_split_of_request_and_stdin_gives_the_same() {
    let server = Server::with_container().await;
    let whole = run_request(r#"{"path":"cat"}"#) + EARLY;
    for at in 1..whole.len() {
        let mut raw = server.connect().await;
        raw.send(&whole[..at]).await;
        tokio::task::yield_now().await;
        raw.send(&whole[at..]).await;
        let first = expect_run(&mut raw).await;
        assert_eq!(raw.payload().await["exit_status"], 0, "split at {at}");
        let (id, stream) = (first["process_id"].as_str().unwrap(), first["stream_id"].as_str().unwrap());
        assert_eq!(stdout_of(&server, id, stream).await, b"one\n", "split at {at}");
    }
}

#[tokio::test]
async fn behind_pipelined_requests() {
    let server = Server::with_container().await;
    for mut raw in server.both_kinds().await {
        let ping = "GET /ping HTTP/1.1\r\nHost: api\r\n\r\n";
        raw.send(format!("{ping}{ping}{}{EARLY}", run_request(r#"{"path":"cat"}"#))).await;
        for _ in 0..2 {
            assert_eq!(raw.response().await.text(), "{}\n");
        }
        expect_run(&mut raw).await;
        assert_eq!(raw.payload().await["exit_status"], 0);
        assert_eq!(raw.rest().await, b"");
    }
}

#[tokio::test]
async fn after_a_chunked_body() {
    let server = Server::with_container().await;
    let mut raw = server.connect().await;
    let head = "POST /containers/c1/processes HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n";
    raw.send(format!("{head}d\r\n{{\"path\":\"cat\"\r\n1\r\n}}\r\n0\r\n\r\n{EARLY}")).await;
    expect_run(&mut raw).await;
    assert_eq!(raw.payload().await["exit_status"], 0);
}

#[tokio::test]
async fn after_100_continue() {
    let server = Server::with_container().await;
    let mut raw = server.connect().await;
    raw.send(
        "POST /containers/c1/processes HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n",
    )
    .await;
    assert_eq!(raw.head().await.status, 100);
    raw.send(format!("{{\"path\":\"cat\"}}{EARLY}")).await;
    expect_run(&mut raw).await;
    assert_eq!(raw.payload().await["exit_status"], 0);
}

#[tokio::test]
async fn a_half_closed_client_still_gets_the_exit_status() {
    let server = Server::with_container().await;
    for mut raw in server.both_kinds().await {
        raw.send(run_request(r#"{"path":"cat"}"#) + EARLY).await;
        raw.half_close().await;
        expect_run(&mut raw).await;
        assert_eq!(raw.payload().await["exit_status"], 0);
        assert_eq!(raw.rest().await, b"");
    }
}

#[tokio::test]
async fn the_end_of_the_connection_is_not_the_end_of_stdin() {
    let server = Server::with_container().await;
    let mut first = server.connect().await;
    first.send(run_request(r#"{"id":"p","path":"cat"}"#) + "{\"source\":0,\"data\":\"one \"}").await;
    first.half_close().await;
    let stream_id = expect_run(&mut first).await["stream_id"].as_str().unwrap().to_owned();

    let mut second = server.connect().await;
    assert_eq!(second.request("GET /containers/c1/processes/p", "").await.status, 200);
    second.payload().await;
    second.send("{\"source\":0,\"data\":\"two\"}{\"source\":0}").await;
    for raw in [&mut first, &mut second] {
        assert_eq!(raw.payload().await, serde_json::json!({"process_id": "p", "exit_status": 0}));
    }
    assert_eq!(stdout_of(&server, "p", &stream_id).await, b"one two");
}

#[tokio::test]
async fn a_message_that_makes_no_sense_detaches_only() {
    let server = Server::with_container().await;
    let (mut raw, _) = server.run(r#"{"id":"p","path":"cat"}"#).await;
    raw.send("[1]{\"source\":0}").await;
    let mut other = server.connect().await;
    assert_eq!(other.request("GET /containers/c1/processes/p", "").await.status, 200);
    other.payload().await;
    other.send("{\"signal\":0}").await;
    assert_eq!(raw.payload().await["exit_status"], 143);
}

#[tokio::test]
async fn signals_and_sizes_are_obeyed_after_the_end_of_stdin() {
    let server = Server::with_container().await;
    let (mut raw, stream_id) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    raw.send("{\"source\":0}{\"tty\":{\"window_size\":{\"columns\":90,\"rows\":30}}}").await;
    let mut stdout = server.connect().await;
    stdout.request(&format!("GET /containers/c1/processes/p/attaches/{stream_id}/stdout"), "").await;
    assert_eq!(stdout.bytes(10).await, b"tty 90x30\n");
    raw.send("{\"signal\":1}").await;
    assert_eq!(raw.payload().await["exit_status"], 137);
    assert_eq!(stdout.rest().await, b"");
}

#[tokio::test]
async fn an_error_before_the_stream_keeps_the_connection() {
    let server = Server::with_container().await;
    for mut raw in server.both_kinds().await {
        for (head, body, status) in [
            ("POST /containers/c1/processes", r#"{"path":"nosuch"}"#, 500),
            ("POST /containers/none/processes", r#"{"path":"cat"}"#, 404),
            ("POST /containers/c1/processes", "{", 500),
            ("GET /containers/c1/processes/none", "", 404),
            ("GET /containers/c1/processes/none/attaches/1/stdout", "", 404),
        ] {
            let response = raw.request(head, body).await;
            assert_eq!(response.status, status, "{head}: {response:?}");
            assert_eq!(response.header("connection"), None, "{head}");
            assert_eq!(response.header("content-type"), Some("application/json"), "{head}");
        }
        assert_eq!(raw.request("GET /ping", "").await.status, 200);
    }
}

#[tokio::test]
async fn a_run_over_http_1_0_is_ended_by_the_connection() {
    let server = Server::with_container().await;
    let mut raw = server.connect().await;
    raw.send("POST /containers/c1/processes HTTP/1.0\r\nContent-Length: 28\r\n\r\n{\"path\":\"exit\",\"args\":[\"7\"]}").await;
    let head = raw.head().await;
    assert_eq!((head.version.as_str(), head.status), ("HTTP/1.0", 201));
    raw.payload().await;
    assert_eq!(raw.payload().await["exit_status"], 7);
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn when_the_server_stops_streams_end_without_an_exit_and_processes_go_on() {
    let mut server = Server::with_container().await;
    let (mut process, stream_id) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    let mut stdout = server.connect().await;
    stdout.request(&format!("GET /containers/c1/processes/p/attaches/{stream_id}/stdout"), "").await;
    server.ask_to_stop();
    assert_eq!(process.rest().await, b"");
    assert_eq!(stdout.rest().await, b"");
    let fake = server.fake.clone();
    server.stopped().await;

    let again = Server::before(fake, garden_server::Config::default()).await;
    let mut attached = again.connect().await;
    assert_eq!(attached.request("GET /containers/c1/processes/p", "").await.status, 200);
    attached.payload().await;
    attached.send("{\"signal\":0}").await;
    assert_eq!(attached.payload().await["exit_status"], 143);
    within(again.stop()).await;
}
