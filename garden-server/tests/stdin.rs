//! Standard input: of any size, and in nobody's way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use backend_fake::FakeOptions;
use common::Server;

const MIB: usize = 1024 * 1024;

fn with_count() -> FakeOptions {
    let mut options = FakeOptions::default();
    options.programs.insert("count", |context: backend_fake::Context| async move {
        let mut bytes = 0;
        while let Some(piece) = context.read_stdin().await {
            bytes += piece.len();
        }
        context.print(bytes.to_string()).await;
        Ok(0)
    });
    options
}

/// The most memory that this process ever used, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn a_message_of_50_mb_passes_through_in_bounded_memory() {
    let server = Server::with_options(with_count()).await;
    server.create("c1").await;
    let (mut raw, id) = server.run(r#"{"id":"p","path":"count"}"#).await;
    let before = peak_memory();
    raw.send(r#"{"process_id":"p","source":0,"data":""#).await;
    let piece = [b'x'; 64 * 1024];
    for _ in 0..50 * MIB / piece.len() {
        raw.send(&piece).await;
    }
    raw.send(r#""}{"source":0}"#).await;
    assert_eq!(raw.payload().await["exit_status"], 0);
    let grown = peak_memory() - before;
    assert!(grown < 16 * MIB, "memory grew by {} MiB", grown / MIB);

    let mut stdout = server.connect().await;
    stdout.request(&format!("GET /containers/c1/processes/p/attaches/{id}/stdout"), "").await;
    assert_eq!(stdout.rest().await, (50 * MIB).to_string().as_bytes());
}

#[tokio::test]
async fn a_signal_arrives_while_the_process_takes_no_input() {
    let server = Server::with_options(with_count()).await;
    server.create("c1").await;
    let text = "x".repeat(MIB / 2);

    // On the connection itself, behind input that the server holds.
    let (mut raw, _) = server.run(r#"{"id":"p1","path":"hold"}"#).await;
    raw.send(format!("{{\"source\":0,\"data\":\"{text}\"}}{{\"signal\":1}}")).await;
    assert_eq!(raw.payload().await["exit_status"], 137);

    // On another connection, while this one is stuck.
    let (mut raw, _) = server.run(r#"{"id":"p2","path":"hold"}"#).await;
    let mut other = server.connect().await;
    other.request("GET /containers/c1/processes/p2", "").await;
    other.payload().await;
    let sender = tokio::spawn(async move {
        raw.send(format!("{{\"source\":0,\"data\":\"{}\"}}", text.repeat(3))).await;
        raw.payload().await
    });
    other.send("{\"signal\":1}").await;
    assert_eq!(other.payload().await["exit_status"], 137);
    assert_eq!(sender.await.unwrap()["exit_status"], 137);
}
