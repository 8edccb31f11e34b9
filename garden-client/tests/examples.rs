//! The examples do what they say, against the real server over the fake backend.
#![allow(clippy::unwrap_used, dead_code)]

mod support;

#[path = "../examples/attach.rs"]
mod attach;
#[path = "../examples/files.rs"]
mod files;
#[path = "../examples/run.rs"]
mod run;

use std::fs;

use garden_client::{Backend, Error, Properties};
use support::{LIMIT, RealServer};
use tokio::time::timeout;

async fn nothing_is_left(server: &RealServer) {
    let everything = Properties::from([("garden.state".into(), "all".into())]);
    assert_eq!(server.client().list(&everything).await, Ok([].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_prints_what_the_program_wrote_and_removes_the_container() {
    let server = RealServer::start().await;
    let ended = timeout(LIMIT, run::in_a_container(&server.address())).await.unwrap().unwrap();
    assert_eq!((&ended.stdout[..], ended.exit_status), (&b"hello\n"[..], 0));
    nothing_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_removes_the_container_also_after_an_error() {
    let server = RealServer::start().await;
    let error = Error::ServiceUnavailable { message: "not now".into() };
    server.fake.faults().fail_once(backend_fake::Op::Run, error.clone());
    assert_eq!(run::in_a_container(&server.address()).await, Err(error));
    nothing_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_copies_a_directory_in_and_out() {
    let server = RealServer::start().await;
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("sub")).unwrap();
    fs::write(from.path().join("sub/f"), "content").unwrap();
    let address = server.address();
    let copied = timeout(LIMIT, files::there_and_back(&address, from.path(), to.path())).await;
    let tar_bytes = copied.unwrap().unwrap();
    assert_eq!(fs::read_to_string(to.path().join("sub/f")).unwrap(), "content");
    assert!(tar_bytes >= 1024 && tar_bytes % 512 == 0, "{tar_bytes}");
    nothing_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_reads_on_where_the_first_client_stopped() {
    let server = RealServer::start().await;
    let seen = timeout(LIMIT, attach::leave_and_come_back(&server.address())).await.unwrap().unwrap();
    assert_eq!(seen, "before\nafter\n");
    nothing_is_left(&server).await;
}
