//! Processes over websockets, against the real server over the fake backend.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use backend_fake::{Context, FakeOptions};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join};
use garden_client::{
    Backend, ByteStream, Client, ContainerSpec, Error, ProcessSpec,
    protocol::{Signal, TtySpec, WindowSize},
};
use support::{LIMIT, RealServer, noise};
use tokio::time::timeout;

const MIB: usize = 1 << 20;

/// A server with a container `c1` that has a few more programs.
async fn server() -> RealServer {
    let mut options = FakeOptions { ring_bytes: 16 * MIB, ..FakeOptions::default() };
    // 8 MiB on each output, in turns.
    options.programs.insert("chatter", |context: Context| async move {
        for _ in 0..128 {
            context.print_error(vec![b'e'; 64 << 10]).await;
            context.print(vec![b'o'; 64 << 10]).await;
        }
        Ok(3)
    });
    // A line for each piece of input.
    options.programs.insert("lines", |context: Context| async move {
        let mut line = 0;
        while context.read_stdin().await.is_some() {
            context.print(format!("line {line}\n")).await;
            line += 1;
        }
        Ok(0)
    });
    let server = RealServer::with(options).await;
    create(&server.client()).await;
    server
}

async fn create(client: &Client) {
    let spec = ContainerSpec { handle: "c1".into(), ..ContainerSpec::default() };
    client.create(spec).await.unwrap();
}

async fn read(mut stream: ByteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = timeout(LIMIT, stream.next()).await.unwrap() {
        all.extend_from_slice(&bytes.unwrap());
    }
    all
}

async fn run(client: &Client, path: &str) -> garden_client::Process {
    client.run("c1", ProcessSpec { path: path.into(), ..ProcessSpec::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_goes_both_ways_over_one_connection() {
    let server = server().await;
    let sent: Vec<u8> = (0..=255).chain(noise(8 * MIB)).collect();
    for client in server.clients() {
        let process = run(&client, "cat").await;
        let writing = async {
            for piece in sent.chunks(700_001) {
                process.control.write_stdin(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            process.control.close_stdin().await.unwrap();
        };
        let ((stdout, stderr), ()) =
            join(join(read(process.stdout.open()), read(process.stderr.open())), writing).await;
        assert!(stdout == sent, "what came back is not what was sent");
        assert_eq!((stderr.len(), process.exit.await), (0, Ok(0)));
    }
    assert_eq!((server.requests("process_stream").await, server.requests("ping").await), (2, 2));
    for classic in ["run", "attach", "stdout", "stderr"] {
        assert_eq!(server.requests(classic).await, 0, "{classic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn classic_streams_are_used_where_they_are_wanted() {
    let server = server().await;
    let client = server.client().with_classic_streams();
    let process = run(&client, "cat").await;
    let error = process.control.write_stdin(Bytes::from_static(b"\xff")).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { field: "data", .. }), "{error}");
    assert_eq!((server.requests("process_stream").await, server.requests("run").await), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_opened_and_not_read_holds_nothing_else_up() {
    let server = server().await;
    let process = run(&server.client(), "chatter").await;
    let mut stderr = process.stderr.open();
    let first = stderr.next().await.unwrap().unwrap();
    assert_eq!(read(process.stdout.open()).await.len(), 8 * MIB);
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(3));
    // What was not read is not lost either.
    assert_eq!(first.len() + read(stderr).await.len(), 8 * MIB);
    assert_eq!(server.requests("stderr").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_never_opened_hold_nothing_up() {
    let server = server().await;
    let process = run(&server.client(), "cat").await;
    // More than what is held of an output.
    for _ in 0..40 {
        timeout(LIMIT, process.control.write_stdin(vec![b'x'; MIB].into())).await.unwrap().unwrap();
    }
    process.control.close_stdin().await.unwrap();
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_opening_gets_everything_before_and_after_the_exit() {
    let server = server().await;
    let client = server.client();
    let spec = ProcessSpec::new("both", ["out", "err", "4"]);
    let process = client.run("c1", spec).await.unwrap();
    assert_eq!(read(process.stdout.open()).await, b"out");
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(4));
    for _ in 0..2 {
        assert_eq!(read(process.stdout.open()).await, b"out");
        assert_eq!(read(process.stderr.open()).await, b"err");
    }
    let again = client.attach("c1", &process.id).await.unwrap();
    assert_eq!(timeout(LIMIT, again.exit).await.unwrap(), Ok(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_left_is_one_no_longer() {
    let server = server().await;
    let client = server.client();
    let process = run(&client, "lines").await;
    let mut stdout = process.stdout.open();
    process.control.write_stdin("x".into()).await.unwrap();
    assert_eq!(stdout.next().await.unwrap().unwrap(), "line 0\n");
    drop(stdout);
    // The next client goes on where it stopped, once the server knows: until then it gets what is written from now on,
    // which is the same.
    let attached = client.attach("c1", &process.id).await.unwrap();
    process.control.write_stdin("x".into()).await.unwrap();
    process.control.close_stdin().await.unwrap();
    assert_eq!(read(attached.stdout.open()).await, b"line 1\n");
    assert_eq!(read(process.stdout.open()).await, b"line 0\nline 1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_sizes_arrive_while_input_is_not_read() {
    let server = server().await;
    for signal in [Signal::Terminate, Signal::Kill] {
        let process = run(&server.client(), "hold").await;
        let mut stdout = process.stdout.open();
        let size = TtySpec { window_size: Some(WindowSize { columns: 90, rows: 30 }) };
        process.control.set_tty(size).await.unwrap();
        assert_eq!(stdout.next().await.unwrap().unwrap(), "tty 90x30\n");
        let control = process.control.clone();
        let writing = tokio::spawn(async move { control.write_stdin(vec![b'x'; 16 * MIB].into()).await });
        // However far that has come.
        timeout(LIMIT, process.control.signal(signal)).await.unwrap().unwrap();
        let status = if signal == Signal::Kill { 137 } else { 143 };
        assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(status));
        // What the process did not take is dropped, and so is what comes now.
        timeout(LIMIT, writing).await.unwrap().unwrap().unwrap();
        timeout(LIMIT, process.control.write_stdin(vec![b'x'; 4 * MIB].into())).await.unwrap().unwrap();
        timeout(LIMIT, process.control.close_stdin()).await.unwrap().unwrap();
        process.control.signal(signal).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_stop_of_the_server_nothing_is_lost() {
    let server = server().await;
    let process = run(&server.client(), "lines").await;
    let mut stdout = process.stdout.open();
    process.control.write_stdin("x".into()).await.unwrap();
    assert_eq!(stdout.next().await.unwrap().unwrap(), "line 0\n");
    let fake = server.stop().await;
    let error = timeout(LIMIT, process.exit).await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Connection { .. }), "{text}");
    assert!(text.contains("1001: the server stops") && text.ends_with("decode failed: EOF"), "{text}");
    stdout.next().await.unwrap().unwrap_err();
    assert!(stdout.next().await.is_none());
    // Input to a connection that is gone is dropped.
    process.control.write_stdin("x".into()).await.unwrap();

    let again = RealServer::before(fake).await;
    let process = again.client().attach("c1", &process.id).await.unwrap();
    process.control.write_stdin("x".into()).await.unwrap();
    process.control.close_stdin().await.unwrap();
    assert_eq!(read(process.stdout.open()).await, b"line 1\n");
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_process_is_detached_and_its_input_stays_open() {
    let server = server().await;
    let client = server.client();
    let process = run(&client, "cat").await;
    let (id, stdout, mut exit) = (process.id.clone(), process.stdout.clone(), process.exit);
    process.control.write_stdin("one ".into()).await.unwrap();
    drop((process.control, process.stdout, process.stderr));
    // Whatever is left of it holds the connection.
    assert!((&mut exit).now_or_never().is_none());
    let mut reader = stdout.open();
    assert_eq!(reader.next().await.unwrap().unwrap(), "one ");
    drop((exit, reader, stdout));
    let attached = client.attach("c1", &id).await.unwrap();
    attached.control.write_stdin("two".into()).await.unwrap();
    attached.control.close_stdin().await.unwrap();
    assert_eq!(read(attached.stdout.open()).await, b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_classic_streams() {
    let server = server().await;
    let websocket = server.client();
    let classic = server.client().with_classic_streams();
    let error = async |client: &Client, handle: &str, path: &str| {
        client.run(handle, ProcessSpec { path: path.into(), ..ProcessSpec::default() }).await.unwrap_err()
    };
    for (handle, path) in [("c1", "nosuch"), ("none", "cat"), ("", "cat")] {
        assert_eq!(error(&websocket, handle, path).await, error(&classic, handle, path).await);
    }
    for (handle, id) in [("c1", "none"), ("none", "p"), ("c1", "")] {
        let errors = [&websocket, &classic].map(|client| client.attach(handle, id));
        let [websocket, classic] = futures_util::future::join_all(errors).await.try_into().unwrap();
        assert_eq!(websocket.unwrap_err(), classic.unwrap_err());
    }
    let unwaited = run(&websocket, "waiterr").await;
    assert_eq!(unwaited.exit.await, Err(Error::Failed { message: "boom".into() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_not_waited_for_cuts_no_message() {
    let server = server().await;
    let process = run(&server.client(), "cat").await;
    for _ in 0..50 {
        let write = process.control.write_stdin(vec![b'x'; 300_000].into());
        let _ = timeout(Duration::from_micros(200), write).await;
    }
    process.control.write_stdin("end".into()).await.unwrap();
    process.control.close_stdin().await.unwrap();
    let stdout = timeout(LIMIT, read(process.stdout.open())).await.unwrap();
    assert!(stdout.ends_with(b"xend") || stdout == b"end", "{} bytes", stdout.len());
    assert!(stdout[..stdout.len() - 3].iter().all(|byte| *byte == b'x'));
    assert_eq!(process.exit.await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_but_alive_loses_nothing() {
    let mut options = FakeOptions { ring_bytes: 64 << 10, ..FakeOptions::default() };
    options.programs.insert("much", |context: Context| async move {
        context.read_stdin().await;
        for _ in 0..32 {
            context.print(vec![b'x'; 64 << 10]).await;
        }
        Ok(0)
    });
    let server = RealServer::with(options).await;
    create(&server.client()).await;
    let process = run(&server.client(), "much").await;
    let mut stdout = process.stdout.open();
    assert!(stdout.next().now_or_never().is_none());
    process.control.write_stdin("go".into()).await.unwrap();
    // Together longer than a reader may take nothing, and each less than would be asked for again at once.
    let mut taken = 0;
    for _ in 0..4 {
        taken += stdout.next().await.unwrap().unwrap().len();
        tokio::time::sleep(Duration::from_millis(1700)).await;
    }
    assert!(taken <= 256 << 10, "{taken} bytes in four pieces");
    assert_eq!(taken + read(stdout).await.len(), 2 * MIB);
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(0));
}
