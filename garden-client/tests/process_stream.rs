//! Processes over a hijacked connection, against a server that says exactly what the test wants.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use garden_client::{
    Backend, ByteStream, Error, ProcessSpec,
    protocol::{Signal, TtySpec, WindowSize},
};
use support::{LIMIT, RUN_HEAD, STREAM_HEAD, Scripted, answer, captured};
use tokio::{sync::Notify, time::timeout};

const FIRST: &str = "{\"process_id\":\"p\",\"stream_id\":\"1\"}\n";

async fn read(mut stream: ByteStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}

#[tokio::test]
async fn the_answer_may_arrive_in_any_two_pieces() {
    let bytes = captured("38-run-exit7.txt");
    for at in 0..=bytes.len() {
        let server = Scripted::answering(bytes.clone(), at);
        let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
        assert_eq!(process.id, "proc-1", "cut at {at}");
        assert_eq!(process.exit.await, Ok(7), "cut at {at}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_anywhere_is_a_lost_connection() {
    let bytes = captured("38-run-exit7.txt");
    // Without the last newline the message is complete.
    for length in 0..bytes.len() - 1 {
        let server = Scripted::answering(bytes[..length].to_vec(), 0);
        let error = match server.client().run("c1", ProcessSpec::default()).await {
            Ok(process) => process.exit.await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(&error, Error::Connection { .. }), "cut at {length}: {error:?}");
        if length >= bytes.len() - 40 {
            assert!(
                error.to_string().ends_with("connection: decode failed: EOF"),
                "cut at {length}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn errors_come_with_their_types() {
    let run = |capture| async move {
        let server = Scripted::answering(captured(capture), 100);
        server.client().run("c1", ProcessSpec::default()).await.unwrap_err()
    };
    let missing = Error::ExecutableNotFound { message: "executable 'missing' not found".into() };
    assert_eq!(run("29-run-missing-exe.txt").await, missing);
    assert_eq!(run("30-attach-unknown.txt").await, Error::process_not_found("zzz"));
    assert_eq!(run("34-delete-unknown.txt").await, captured_error("34-delete-unknown.txt"));

    let server = Scripted::answering(captured("39-waiterr.txt"), 0);
    let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
    assert_eq!(process.exit.await, Err(Error::Failed { message: "boom".into() }));

    let text = run("12-404.txt").await.to_string();
    assert!(text.contains("answered run with 404 Not Found: 404 page not found"), "{text}");
}

fn captured_error(capture: &str) -> Error {
    let bytes = captured(capture);
    let body = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    garden_client::protocol::json::decode::<garden_client::protocol::ErrorBody>(&bytes[body..])
        .unwrap()
        .into_error()
}

#[tokio::test]
async fn messages_in_real_chunks_are_an_error_not_a_process() {
    let chunked = format!("{RUN_HEAD}{:x}\r\n{FIRST}\r\n", FIRST.len());
    let server = Scripted::answering(chunked.into_bytes(), 0);
    let error = server.client().run("c1", ProcessSpec::default()).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn stdin_is_carried_as_whole_characters_and_slowly_read() {
    let text = "aé€😀\"\\<".repeat(20_000);
    let wanted = text.clone();
    let server = Scripted::start(move |_, mut peer| {
        let wanted = wanted.clone();
        async move {
            let request = peer.request().await;
            assert!(request.starts_with("POST /containers/a%2Fb/processes HTTP/1.1\r\n"), "{request}");
            peer.send(format!("{RUN_HEAD}{FIRST}")).await;
            let mut got = String::new();
            loop {
                // One message at a time, and others in between.
                tokio::task::yield_now().await;
                let line = peer.until("\n").await;
                let message: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!((&message["process_id"], &message["source"]), (&"p".into(), &0.into()));
                match message.get("data") {
                    Some(data) => got.push_str(data.as_str().unwrap()),
                    None => break,
                }
            }
            assert_eq!(got, wanted);
            peer.send("{\"process_id\":\"p\",\"exit_status\":0}\n").await;
        }
    });
    let process = server.client().run("a/b", ProcessSpec::default()).await.unwrap();
    for chunk in text.as_bytes().chunks(70_001) {
        process.control.write_stdin(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    process.control.close_stdin().await.unwrap();
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(0));
}

#[tokio::test]
async fn binary_stdin_is_refused_and_never_damaged() {
    let server = Scripted::start(|_, mut peer| async move {
        peer.request().await;
        peer.send(format!("{RUN_HEAD}{FIRST}")).await;
        peer.rest().await;
    });
    let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
    process.control.write_stdin(Bytes::from_static(b"text")).await.unwrap();
    let error = process.control.write_stdin(Bytes::from_static(b"\x7fELF\xff")).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { field: "data", .. }), "{error}");
    assert!(error.to_string().contains("not UTF-8 at byte 8"), "{error}");
}

#[tokio::test]
async fn writing_to_a_process_that_has_ended_is_no_error() {
    let server = Scripted::answering(captured("38-run-exit7.txt"), 0);
    let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
    assert_eq!(process.exit.await, Ok(7));
    for _ in 0..3 {
        process.control.write_stdin(Bytes::from_static(b"too late")).await.unwrap();
    }
    process.control.signal(Signal::Kill).await.unwrap();
    process.control.set_tty(TtySpec::default()).await.unwrap();
    process.control.close_stdin().await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn signals_and_sizes_go_over_the_process_s_own_stream() {
    let server = Scripted::start(|_, mut peer| async move {
        peer.request().await;
        peer.send(format!("{RUN_HEAD}{FIRST}")).await;
        assert_eq!(peer.until("\n").await, "{\"process_id\":\"p\",\"signal\":0}\n");
        let size = "{\"process_id\":\"p\",\"tty\":{\"window_size\":{\"columns\":9,\"rows\":8}}}\n";
        assert_eq!(peer.until("\n").await, size);
        peer.send("{\"process_id\":\"p\",\"exit_status\":143}").await;
    });
    let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
    process.control.signal(Signal::Terminate).await.unwrap();
    let window_size = Some(WindowSize { columns: 9, rows: 8 });
    process.control.set_tty(TtySpec { window_size }).await.unwrap();
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(143));
}

#[tokio::test]
async fn a_signal_overtakes_input_that_nobody_reads() {
    let killed = Arc::new(Notify::new());
    let begun = Arc::new(Notify::new());
    let reading = begun.clone();
    let server = Scripted::start(move |number, mut peer| {
        let (killed, reading) = (killed.clone(), reading.clone());
        async move {
            let request = peer.request().await;
            if number == 0 {
                peer.send(format!("{RUN_HEAD}{FIRST}")).await;
                // Reads no more of the input than this.
                peer.until("xxx").await;
                reading.notify_one();
                killed.notified().await;
                peer.send("{\"process_id\":\"p\",\"exit_status\":137}").await;
            } else {
                assert!(request.starts_with("GET /containers/c1/processes/p HTTP/1.1\r\n"), "{request}");
                peer.send(format!("{STREAM_HEAD}{FIRST}")).await;
                assert_eq!(peer.until("\n").await, "{\"process_id\":\"p\",\"signal\":1}\n");
                killed.notify_one();
            }
        }
    });
    let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
    let control = process.control.clone();
    let writing = tokio::spawn(async move { control.write_stdin(Bytes::from(vec![b'x'; 16 << 20])).await });
    begun.notified().await;
    process.control.signal(Signal::Kill).await.unwrap();
    assert_eq!(timeout(LIMIT, process.exit).await.unwrap(), Ok(137));
    timeout(LIMIT, writing).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn dropping_everything_detaches() {
    let gone = Arc::new(Notify::new());
    let seen = gone.clone();
    let server = Scripted::start(move |_, mut peer| {
        let seen = seen.clone();
        async move {
            peer.request().await;
            peer.send(format!("{RUN_HEAD}{FIRST}")).await;
            assert_eq!(peer.rest().await, b"");
            seen.notify_one();
        }
    });
    let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
    drop(process);
    timeout(LIMIT, gone.notified()).await.unwrap();
}

#[tokio::test]
async fn outputs_are_opened_when_they_are_asked_for_and_hold_raw_bytes() {
    // Looks like a chunk, which it is not; then every byte there is, many times.
    let output: Vec<u8> =
        b"5\r\nhello\r\n0\r\n\r\n".iter().copied().chain((0..=255).cycle().take(3 << 20)).collect();
    let sent = output.clone();
    let server = Scripted::start(move |_, mut peer| {
        let sent = sent.clone();
        async move {
            let request = peer.request().await;
            let path = request.split(' ').nth(1).unwrap();
            match path {
                "/containers/c1/processes" => {
                    peer.send(format!("{RUN_HEAD}{FIRST}{{\"process_id\":\"p\",\"exit_status\":0}}\n")).await;
                }
                "/containers/c1/processes/p/attaches/1/stdout" => {
                    peer.send([STREAM_HEAD.as_bytes(), &sent].concat()).await;
                }
                "/containers/c1/processes/p/attaches/1/stderr" => {
                    peer.send(answer("404 Not Found", "gone for a minute")).await;
                }
                path => panic!("{path}"),
            }
        }
    });
    let process = server.client().run("c1", ProcessSpec::default()).await.unwrap();
    assert_eq!(process.exit.await, Ok(0));
    assert_eq!(server.connections(), 1);
    assert_eq!(timeout(LIMIT, read(process.stdout.open())).await.unwrap().unwrap(), output);
    assert_eq!(timeout(LIMIT, read(process.stdout.open())).await.unwrap().unwrap(), output);
    let error = read(process.stderr.open()).await.unwrap_err().to_string();
    assert!(error.contains("answered stderr with 404 Not Found: gone for a minute"), "{error}");
}
