//! What is tried again, against a server that dies at each point of a request; and what never is.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use garden_client::{Backend, Client, ContainerSpec, Error, FilesQuery, ProcessSpec};
use support::{Peer, Scripted, answer};
use tokio::net::UnixListener;

const OK: &str = "{}\n";

/// Dies at one point after the other, a connection for each; then it answers.
async fn die_later_each_time(number: usize, mut peer: Peer) {
    let whole = answer("200 OK", OK);
    let (head, body) = whole.split_at(whole.len() - OK.len());
    match number {
        // With the request unread.
        0 => {}
        // Behind the request.
        1 => drop(peer.request().await),
        2 => {
            peer.request().await;
            peer.send(&head[..20]).await;
        }
        3 => {
            peer.request().await;
            peer.send(head).await;
        }
        4 => {
            peer.request().await;
            peer.send(format!("{head}{}", &body[..1])).await;
        }
        _ => {
            peer.request().await;
            peer.send(whole).await;
        }
    }
}

#[tokio::test]
async fn a_question_survives_a_server_that_dies_at_any_point() {
    let server = Scripted::start(die_later_each_time);
    server.client().with_retries_for(support::LIMIT).ping().await.unwrap();
    assert_eq!(server.connections(), 6);
}

#[tokio::test]
async fn what_changes_something_is_sent_once_wherever_the_server_dies() {
    for point in 0..5 {
        let server = Scripted::start(move |_, peer| die_later_each_time(point, peer));
        let client = server.client().with_retries_for(support::LIMIT);
        let error = client.create(ContainerSpec::default()).await.unwrap_err();
        assert!(matches!(&error, Error::Connection { .. }), "dead at {point}: {error:?}");
        assert!(error.to_string().contains("may have been done"), "dead at {point}: {error}");
        assert_eq!(server.connections(), 1, "dead at {point}");
    }
}

#[tokio::test]
async fn a_process_is_asked_for_once() {
    let server = Scripted::start(|_, mut peer| async move { drop(peer.request().await) });
    // How it is with websockets is in `discovery`.
    let client = server.client().with_retries_for(support::LIMIT).with_classic_streams();
    let error = client.run("c1", ProcessSpec::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Connection { .. }), "{error:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_download_is_asked_for_again_only_before_its_first_byte() {
    let server = Scripted::start(|number, mut peer| async move {
        peer.request().await;
        if number > 0 {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntar\r\n").await;
        }
    });
    let mut tar = server.client().stream_out("c1", FilesQuery::default()).await.unwrap();
    assert_eq!(tar.next().await.unwrap().unwrap(), "tar");
    let error = tar.next().await.unwrap().unwrap_err();
    assert!(matches!(error.downcast::<Error>(), Ok(Error::Connection { .. })));
    assert!(tar.next().await.is_none());
    assert_eq!(server.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_being_restarted_is_waited_for_by_every_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    // Its file is there, and nobody listens.
    drop(UnixListener::bind(&path).unwrap());
    let client = Client::new(&format!("unix:{}", path.display())).unwrap();
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.create(ContainerSpec::default()).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished());
    let listener = UnixListener::bind(&path).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut peer = Peer::new(stream);
    assert!(peer.request().await.starts_with("POST /containers "));
    peer.send(answer("200 OK", r#"{"handle":"c1"}"#)).await;
    assert_eq!(asked.await.unwrap().unwrap(), "c1");
}

#[tokio::test(start_paused = true)]
async fn what_a_dying_server_never_accepted_is_lost_and_only_a_question_is_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let old = UnixListener::bind(&path).unwrap();
    let client = Client::new(&format!("unix:{}", path.display())).unwrap();
    let question = tokio::spawn({
        let client = client.clone();
        async move { client.ping().await }
    });
    let change = tokio::spawn(async move { client.destroy("c1").await });
    // Passes when both wait for an answer: there is nothing else to do then.
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(old);
    std::fs::remove_file(&path).unwrap();
    let new = UnixListener::bind(&path).unwrap();
    let lost = change.await.unwrap().unwrap_err();
    assert!(matches!(&lost, Error::Connection { .. }), "{lost:?}");
    let mut peer = Peer::new(new.accept().await.unwrap().0);
    assert!(peer.request().await.starts_with("GET /ping "));
    peer.send(answer("200 OK", OK)).await;
    question.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_end_in_time_and_without_retries_there_is_one() {
    let client = Client::new("unix:/nowhere/garden.sock").unwrap();
    for (limit, took_ms) in [(Duration::from_secs(1), 800..=1000), (Duration::ZERO, 0..=1)] {
        let client = client.clone().with_retries_for(limit);
        let begun = tokio::time::Instant::now();
        let error = client.ping().await.unwrap_err();
        assert!(matches!(&error, Error::CannotConnect { .. }), "{error:?}");
        let elapsed_ms = begun.elapsed().as_millis();
        assert!(took_ms.contains(&elapsed_ms), "{elapsed_ms} ms with retries for {limit:?}");
    }
}

#[tokio::test]
async fn what_the_server_says_is_not_asked_again() {
    let body =
        r#"{"Type":"ServiceUnavailableError","Message":"later","Handle":"","ProcessID":"","Binary":""}"#;
    let server = Scripted::answering(answer("500 Internal Server Error", body).into_bytes(), 0);
    let error = server.client().ping().await.unwrap_err();
    assert_eq!(error, Error::ServiceUnavailable { message: "later".into() });
    assert_eq!(server.connections(), 1);
}
