//! Streams as `AsyncRead` and `AsyncWrite`.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Cursor, ErrorKind};

use backend_fake::FakeBackend;
use futures_util::future::poll_immediate;
use garden_client::{Backend, ContainerSpec, Error, FilesQuery, ProcessSpec, io};
use support::{LIMIT, RUN_HEAD, RealServer, Scripted};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    time::timeout,
};

fn container() -> ContainerSpec {
    ContainerSpec { handle: "c1".into(), ..ContainerSpec::default() }
}

fn process(path: &str) -> ProcessSpec {
    ProcessSpec { path: path.into(), ..ProcessSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_copied_to_and_from() {
    let server = RealServer::start().await;
    for client in server.clients() {
        client.create(container()).await.unwrap();
        let cat = client.run("c1", process("cat")).await.unwrap();
        let text = "aé€😀z".repeat(300_000);
        let (mut stdin, mut stdout) = (io::Stdin::new(cat.control.clone()), io::reader(cat.stdout.open()));
        let send = async {
            assert_eq!(copy(&mut text.as_bytes(), &mut stdin).await?, text.len() as u64);
            stdin.shutdown().await
        };
        let mut echoed = Vec::new();
        let both = async { tokio::try_join!(send, copy(&mut stdout, &mut echoed)) };
        timeout(LIMIT, both).await.unwrap().unwrap();
        assert!(echoed == text.as_bytes());
        assert_eq!(cat.exit.await, Ok(0));
        let error = stdin.write(b"more").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        client.destroy("c1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tars_go_in_from_a_reader_and_come_out_as_one() {
    let server = RealServer::start().await;
    let client = server.client();
    client.create(container()).await.unwrap();
    let content: Vec<u8> = (0..=255).cycle().take(3_000_001).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "f", &content[..]).unwrap();
    let tar = Cursor::new(tar.into_inner().unwrap());
    let files = |path: &str| FilesQuery { user: "alice".into(), path: path.into() };
    client.stream_in("c1", files("in"), io::stream(tar)).await.unwrap();

    let mut back = Vec::new();
    let mut reader = io::reader(client.stream_out("c1", files("in/f")).await.unwrap());
    reader.read_to_end(&mut back).await.unwrap();
    let mut archive = tar::Archive::new(&back[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut out).unwrap();
    assert!(out == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tar_that_breaks_off_is_an_error_with_its_cause() {
    let server = RealServer::start().await;
    let client = server.client();
    client.create(container()).await.unwrap();
    server.fake.faults().break_next_stream_out("disk on fire");
    let files = FilesQuery { path: "/etc".into(), ..FilesQuery::default() };
    let mut reader = io::reader(client.stream_out("c1", files).await.unwrap());
    let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(matches!(error.downcast::<Error>(), Ok(Error::Connection { .. })));
}

#[tokio::test]
async fn a_process_that_does_not_read_makes_the_writer_wait() {
    let fake = FakeBackend::new();
    fake.create(container()).await.unwrap();
    let hold = fake.run("c1", process("hold")).await.unwrap();
    let mut stdin = io::Stdin::new(hold.control.clone());
    let mut taken = 0;
    while let Some(count) = poll_immediate(stdin.write(&[b'x'; 1 << 20])).await {
        taken += count.unwrap();
    }
    // What lies in the process's pipe, and one piece on its way.
    assert_eq!(taken, 2 * (64 << 10));
    assert!(poll_immediate(stdin.flush()).await.is_none());
    assert!(poll_immediate(stdin.shutdown()).await.is_none());
}

#[tokio::test]
async fn a_write_that_fails_is_an_error_with_its_cause() {
    let server = Scripted::start(|_, mut peer| async move {
        peer.request().await;
        peer.send(format!("{RUN_HEAD}{{\"process_id\":\"p\",\"stream_id\":\"1\"}}")).await;
        peer.rest().await;
    });
    let process = server.client().run("c1", process("cat")).await.unwrap();
    let mut stdin = io::Stdin::new(process.control.clone());
    // It carries text only: see `binary_stdin_is_refused_and_never_damaged`.
    stdin.write_all(b"\xff").await.unwrap();
    let error = stdin.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(matches!(error.downcast::<Error>(), Ok(Error::Invalid { field: "data", .. })));
    // It is told once.
    stdin.flush().await.unwrap();
}
