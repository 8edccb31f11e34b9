//! Outputs: who gets what, how long, and what a client that leaves costs others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use backend_fake::{FakeBackend, FakeOptions};
use common::{Server, within};
use garden_server::Config;

const CHUNK: &[u8] = &[b'x'; 64 * 1024];

fn stdout_path(process_id: &str, stream_id: &str) -> String {
    format!("GET /containers/c1/processes/{process_id}/attaches/{stream_id}/stdout")
}

/// The value of a metric of the server.
async fn metric(server: &Server, name: &str) -> f64 {
    let text = server.request("GET /metrics", "").await.text();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// Asks until it is so; a test that waits in vain fails.
async fn eventually(mut is_so: impl AsyncFnMut() -> bool) {
    within(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_output_is_its_own_and_stays_readable_after_the_exit() {
    let server = Server::with_container().await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"both","args":["OUT","ERR","3"]}"#).await;
    assert_eq!(raw.payload().await["exit_status"], 3);
    for _ in 0..2 {
        for (which, text) in [("stdout", "OUT"), ("stderr", "ERR")] {
            let mut output = server.connect_tcp().await;
            let path = format!("GET /containers/c1/processes/p/attaches/{id}/{which}");
            assert_eq!(output.request(&path, "").await.status, 200);
            assert_eq!(output.rest().await, text.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_stream_belongs_to_one_process_of_one_container() {
    let server = Server::with_container().await;
    server.create("c2").await;
    let (_raw, id) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    for path in [
        format!("GET /containers/c2/processes/p/attaches/{id}/stdout"),
        format!("GET /containers/c1/processes/q/attaches/{id}/stdout"),
        "GET /containers/c1/processes/p/attaches/999/stderr".to_owned(),
        "GET /containers/c1/processes/p/attaches/x/stdout".to_owned(),
    ] {
        let response = server.request(&path, "").await;
        assert_eq!(
            (response.status, &response.json()["Type"]),
            (404, &"ProcessNotFoundError".into()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_output_is_forgotten_a_while_after_the_exit() {
    let config = Config { output_retention: Duration::from_millis(100), ..Config::default() };
    let server = Server::with(FakeBackend::new(), config).await;
    server.create("c1").await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    let (mut attached, attached_id) = {
        let mut attached = server.connect().await;
        attached.request("GET /containers/c1/processes/p", "").await;
        let id = attached.payload().await["stream_id"].as_str().unwrap().to_owned();
        (Some(attached), id)
    };
    // A client that attached and left is forgotten, the one that ran the process is not.
    drop(attached.take());
    eventually(async || server.request(&stdout_path("p", &attached_id), "").await.status == 404).await;
    let mut stdout = server.connect().await;
    assert_eq!(stdout.request(&stdout_path("p", &id), "").await.status, 200);
    raw.send("{\"signal\":1}").await;
    assert_eq!(raw.payload().await["exit_status"], 137);
    assert_eq!(stdout.rest().await, b"");
    eventually(async || server.request(&stdout_path("p", &id), "").await.status == 404).await;
}

#[tokio::test]
async fn each_of_several_readers_gets_everything() {
    const LINES: usize = 40_000;
    let mut options = FakeOptions::default();
    options.programs.insert("lines", |context: backend_fake::Context| async move {
        for line in 0..LINES {
            context.print(format!("line {line:>94}\n")).await;
        }
        Ok(0)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"lines"}"#).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        for mut reader in server.both_kinds().await {
            reader.request(&stdout_path("p", &id), "").await;
            readers.push(tokio::spawn(async move { reader.rest().await }));
        }
    }
    let expected: String = (0..LINES).map(|line| format!("line {line:>94}\n")).collect();
    for reader in readers {
        assert!(reader.await.unwrap() == expected.as_bytes(), "some bytes are missing or wrong");
    }
    assert_eq!(raw.payload().await["exit_status"], 0);
}

#[tokio::test]
async fn a_reader_that_leaves_is_noticed_while_nothing_is_written() {
    let server = Server::with_container().await;
    let (raw, id) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    let mut reader = server.connect().await;
    reader.request(&stdout_path("p", &id), "").await;
    assert_eq!(metric(&server, "garden_open_streams{kind=\"output\"}").await, 1.0);
    // Over TCP the kernel needs its time to find out: a closed peer looks like a half-closed one.
    drop(reader);
    eventually(async || metric(&server, "garden_open_streams{kind=\"output\"}").await == 0.0).await;
    drop(raw);
    eventually(async || metric(&server, "garden_open_streams{kind=\"process\"}").await == 0.0).await;
    // The process lives on.
    assert_eq!(server.request("GET /containers/c1/processes/p", "").await.status, 200);
}

#[tokio::test]
async fn a_half_closed_reader_still_gets_the_output() {
    let server = Server::with_container().await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"hold"}"#).await;
    for mut reader in server.both_kinds().await {
        reader.request(&stdout_path("p", &id), "").await;
        reader.half_close().await;
        raw.send("{\"tty\":{\"window_size\":{\"columns\":90,\"rows\":30}}}").await;
        assert_eq!(reader.bytes(10).await, b"tty 90x30\n");
    }
}

/// A server whose `much` writes so many chunks once it has input, in containers with small rings.
async fn server_with_much<const CHUNKS: usize>() -> Server {
    let mut options = FakeOptions { ring_bytes: 256 * 1024, ..FakeOptions::default() };
    options.programs.insert("much", |context: backend_fake::Context| async move {
        context.read_stdin().await;
        for _ in 0..CHUNKS {
            context.print(CHUNK).await;
        }
        Ok(0)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    server
}

#[tokio::test]
async fn a_reader_that_is_slow_but_alive_loses_nothing() {
    const CHUNKS: usize = 32;
    let server = server_with_much::<CHUNKS>().await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"much"}"#).await;
    let mut reader = server.connect().await;
    reader.request(&stdout_path("p", &id), "").await;
    raw.send("{\"source\":0,\"data\":\"go\"}").await;
    // At a pace at which the kernel calls the connection writable only every six seconds.
    let mut received = 0;
    for _ in 0..80 {
        received += reader.some(4096).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(received + reader.rest().await.len(), CHUNKS * CHUNK.len());
    assert_eq!(raw.payload().await["exit_status"], 0);
    assert_eq!(metric(&server, "garden_dropped_output_bytes_total").await, 0.0);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_its_own_process_up_for_five_seconds() {
    const CHUNKS: usize = 64;
    let server = server_with_much::<CHUNKS>().await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"much"}"#).await;
    let mut dead = server.connect().await;
    dead.request(&stdout_path("p", &id), "").await;
    let begun = std::time::Instant::now();
    raw.send("{\"source\":0,\"data\":\"go\"}").await;
    assert_eq!(raw.payload().await["exit_status"], 0);
    assert!(begun.elapsed() >= Duration::from_secs(5), "nobody waited: {:?}", begun.elapsed());
    let dropped = metric(&server, "garden_dropped_output_bytes_total").await as usize;
    // What the server held of what the ring let go of counts as dropped, and arrives.
    let seen = dead.rest().await.len() + dropped;
    let all = CHUNKS * CHUNK.len();
    assert!((all..=all + CHUNK.len()).contains(&seen), "{seen} of {all}");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_else_up() {
    let mut options = FakeOptions { ring_bytes: 32 << 20, ..FakeOptions::default() };
    options.programs.insert("much", |context: backend_fake::Context| async move {
        for _ in 0..128 {
            context.print(CHUNK).await;
        }
        Ok(0)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"much"}"#).await;
    let mut idle = server.connect().await;
    idle.request(&stdout_path("p", &id), "").await;
    let mut reader = server.connect().await;
    reader.request(&stdout_path("p", &id), "").await;
    assert_eq!(reader.rest().await.len(), 128 * CHUNK.len());
    assert_eq!(raw.payload().await["exit_status"], 0);
    assert_eq!(server.request("GET /ping", "").await.status, 200);
    // And when it reads at last, it gets everything too.
    assert_eq!(idle.rest().await.len(), 128 * CHUNK.len());
}
