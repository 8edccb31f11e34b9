//! Clients that leave, the grace clock, and the server's stop.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use backend_fake::{FakeBackend, Op};
use common::{Server, within};
use garden_server::Config;
use protocol::{Backend, Properties};

async fn handles(server: &Server) -> Vec<String> {
    server.fake.list(&Properties::new()).await.unwrap().to_vec()
}

async fn until_gone(server: &Server, handle: &str) {
    within(async {
        while handles(server).await.iter().any(|h| h == handle) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_vanished_client_began_is_finished() {
    let server = Server::start().await;
    for mut raw in server.both_kinds().await {
        let held = server.fake.faults().hold(Op::Create);
        raw.send("POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: 14\r\n\r\n{\"handle\":\"c\"}")
            .await;
        within(held.arrived(1)).await;
        drop(raw);
        held.release();
        server.fake.faults().clear(Op::Create);
        within(async {
            while handles(&server).await != ["c"] {
                tokio::task::yield_now().await;
            }
        })
        .await;

        let held = server.fake.faults().hold(Op::Destroy);
        let mut raw = server.connect().await;
        raw.send("DELETE /containers/c HTTP/1.1\r\nHost: api\r\n\r\n").await;
        within(held.arrived(1)).await;
        drop(raw);
        held.release();
        server.fake.faults().clear(Op::Destroy);
        until_gone(&server, "c").await;
    }
}

#[tokio::test]
async fn a_container_goes_when_its_grace_time_is_over() {
    let config = Config { default_grace_time: Duration::from_millis(50), ..Config::default() };
    let server = Server::with(FakeBackend::new(), config).await;
    for body in [r#"{"handle":"c"}"#, r#"{"handle":"c","grace_time":40000000}"#] {
        assert_eq!(server.request("POST /containers", body).await.status, 200);
        until_gone(&server, "c").await;
    }
    assert_eq!(server.request("POST /containers", r#"{"handle":"kept"}"#).await.status, 200);
    assert_eq!(server.request("PUT /containers/kept/grace_time", "0").await.status, 200);
    assert_eq!(server.request("POST /containers", r#"{"handle":"c"}"#).await.status, 200);
    until_gone(&server, "c").await;
    assert_eq!(handles(&server).await, ["kept"]);
}

#[tokio::test]
async fn an_open_stream_holds_the_clock_and_a_list_does_not() {
    let server = Server::with_container().await;
    let (raw, _) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    assert_eq!(server.request("PUT /containers/c1/grace_time", "50000000").await.status, 200);
    assert_eq!(
        server.request("POST /containers", r#"{"handle":"c2","grace_time":100000000}"#).await.status,
        200
    );
    // Listing does not save c2, and c1 outlives it.
    within(async {
        while handles(&server).await.iter().any(|h| h == "c2") {
            server.request("GET /containers", "").await;
            server.request("GET /containers/bulk_info?handles=c1,c2", "").await;
        }
    })
    .await;
    assert_eq!(handles(&server).await, ["c1"]);
    drop(raw);
    until_gone(&server, "c1").await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_waits_for_a_result_holds_nothing() {
    let server = Server::with_container().await;
    let run = "POST /v1/containers/c1/processes";
    assert_eq!(server.request(run, r#"{"id":"p","path":"hold"}"#).await.status, 201);
    let get = |id| format!("GET /v1/containers/c1/processes/{id}/result HTTP/1.1\r\nHost: api\r\n\r\n");
    let wait = r#"{"id":"q","path":"hold"}"#;
    let post =
        format!("{run}?wait=true HTTP/1.1\r\nHost: api\r\nContent-Length: {}\r\n\r\n{wait}", wait.len());
    // Who closed only its half still waits.
    let mut half = server.connect().await;
    half.send(get("p")).await;
    half.half_close().await;
    for request in [post, get("q")] {
        let mut raw = server.connect().await;
        raw.send(request).await;
        while server.request("GET /v1/containers/c1/processes/q", "").await.status != 200 {}
    }
    server.request("POST /v1/containers/c1/processes/p/signal", r#"{"signal":"kill"}"#).await;
    assert_eq!(half.response().await.json()["exit_status"], 137);
    drop(half);
    server.until_unconnected().await;
    assert_eq!(
        server.request("GET /v1/containers/c1/processes/q", "").await.json()["exit_status"],
        serde_json::json!(null)
    );
    // And the grace clock runs.
    assert_eq!(server.request("PUT /containers/c1/grace_time", "50000000").await.status, 200);
    until_gone(&server, "c1").await;
}

#[tokio::test]
async fn the_clock_of_an_earlier_servers_containers_starts_with_the_server() {
    let server = Server::start().await;
    let body = r#"{"handle":"c","grace_time":60000000000}"#;
    assert_eq!(server.request("POST /containers", body).await.status, 200);
    let fake = server.fake.clone();
    server.stop().await;
    fake.set_grace_time("c", Duration::from_millis(50)).await.unwrap();
    let again = Server::before(fake, Config::default()).await;
    until_gone(&again, "c").await;
}

#[tokio::test]
async fn requests_that_are_being_worked_on_are_answered_when_the_server_stops() {
    let mut server = Server::with_container().await;
    let held = [server.fake.faults().hold(Op::Info), server.fake.faults().hold(Op::Run)];
    let (mut info, mut run) = (server.connect().await, server.connect_tcp().await);
    let mut idle = server.connect().await;
    idle.request("GET /ping", "").await;
    info.send("GET /containers/c1/info HTTP/1.1\r\nHost: api\r\n\r\n").await;
    run.send("POST /containers/c1/processes HTTP/1.1\r\nHost: api\r\nContent-Length: 15\r\n\r\n{\"path\":\"hold\"}").await;
    for hold in &held {
        within(hold.arrived(1)).await;
    }
    server.ask_to_stop();
    assert_eq!(idle.rest().await, b"", "an idle connection is closed at once");
    drop(held);
    let response = info.response().await;
    assert_eq!(response.status, 200);
    assert_eq!(info.rest().await, b"");
    let head = run.head().await;
    assert_eq!((head.status, head.header("connection")), (201, None));
    assert!(!String::from_utf8(run.rest().await).unwrap().contains("exit_status"));
    server.stopped().await;
}

#[tokio::test]
async fn a_stop_is_bounded_in_time() {
    let config = Config { shutdown_timeout: Duration::from_millis(50), ..Config::default() };
    let server = Server::with(FakeBackend::new(), config).await;
    let held = server.fake.faults().hold(Op::Ping);
    let mut raw = server.connect().await;
    raw.send("GET /ping HTTP/1.1\r\nHost: api\r\n\r\n").await;
    within(held.arrived(1)).await;
    let socket = server.socket.clone();
    server.stop().await;
    assert_eq!(raw.rest().await, b"");
    assert!(!socket.exists());
}
