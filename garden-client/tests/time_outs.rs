//! Servers that let time pass: virtual time, which goes on when both ends wait.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use garden_client::{Backend, ByteStream, Client, ContainerSpec, Error, FilesQuery, ProcessSpec};
use support::{LIMIT, Peer, Scripted};
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};

const SHORT: Duration = Duration::from_secs(1);

fn timed_out(server: &Scripted, operation: &'static str, perhaps_done: bool) -> Error {
    Error::TimedOut { operation, address: server.address(), after: SHORT, perhaps_done }
}

/// Takes a request and never answers.
async fn mute(_: usize, mut peer: Peer) {
    peer.request().await;
    peer.rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_ordinary_request_is_given_up_and_says_whether_it_may_have_been_done() {
    let server = Scripted::start(mute);
    let client = server.client().with_request_timeout(SHORT);
    let error = client.ping().await.unwrap_err();
    assert_eq!(error, timed_out(&server, "ping", false));
    let text = format!("ping: nothing from {} within 1s; try again", server.address());
    assert_eq!(error.to_string(), text);

    let error = client.create(ContainerSpec::default()).await.unwrap_err();
    assert_eq!(error, timed_out(&server, "create", true));
    assert!(error.to_string().ends_with("may have been done all the same: look before trying again"));

    let error = client.run("c1", ProcessSpec::default()).await.unwrap_err();
    assert_eq!(error, timed_out(&server, "run", true));
    assert_eq!(client.attach("c1", "p").await.unwrap_err(), timed_out(&server, "attach", false));
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_request_covers_its_attempts() {
    let server = Scripted::start(|_, mut peer| async move { drop(peer.request().await) });
    let client = server.client().with_request_timeout(SHORT).with_retries_for(LIMIT);
    assert_eq!(client.ping().await.unwrap_err(), timed_out(&server, "ping", false));
    assert!(server.connections() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_come_about_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    // The kernel takes connections for a listener that accepts none until its queue is full.
    let mut waiting = Vec::new();
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => waiting.push(stream),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let address = format!("unix:{}", path.display());
    let client = Client::new(&address).unwrap().with_connect_timeout(SHORT);
    let error = client.ping().await.unwrap_err();
    let wanted = Error::TimedOut { operation: "connect", address, after: SHORT, perhaps_done: false };
    assert_eq!(error, wanted);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_server_does_not_take_is_given_up() {
    let server = Scripted::start(|_, mut peer| async move {
        peer.request().await;
        // Open, and read no further.
        std::future::pending::<()>().await;
    });
    let client = server.client().with_stream_idle_timeout(SHORT);
    let endless: ByteStream = Box::pin(stream::repeat_with(|| Ok(Bytes::from(vec![0; 1 << 20]))));
    let error = timeout(LIMIT, client.stream_in("c1", FilesQuery::default(), endless)).await.unwrap();
    assert_eq!(error.unwrap_err(), timed_out(&server, "stream_in", true));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_not_answered_is_given_up() {
    let server = Scripted::start(|_, mut peer| async move { drop(peer.rest().await) });
    let client = server.client().with_stream_idle_timeout(SHORT);
    let tar: ByteStream = Box::pin(stream::iter([Ok(Bytes::from_static(b"tar"))]));
    let error = timeout(LIMIT, client.stream_in("c1", FilesQuery::default(), tar)).await.unwrap();
    assert_eq!(error.unwrap_err(), timed_out(&server, "stream_in", true));
}

#[tokio::test(start_paused = true)]
async fn a_slow_source_is_not_the_server_s_fault() {
    let server = Scripted::start(|_, mut peer| async move {
        peer.until("0\r\n\r\n").await;
        peer.send(support::answer("200 OK", "{}")).await;
    });
    let client = server.client().with_stream_idle_timeout(SHORT);
    let slow: ByteStream = Box::pin(stream::iter(0..3).then(|_| async {
        tokio::time::sleep(SHORT).await;
        Ok(Bytes::from_static(b"tar"))
    }));
    timeout(LIMIT, client.stream_in("c1", FilesQuery::default(), slow)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_download_is_given_up_before_its_head_and_in_its_middle() {
    let server = Scripted::start(|number, mut peer| async move {
        peer.request().await;
        if number > 0 {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntar").await;
        }
        peer.rest().await;
    });
    let client = server.client().with_stream_idle_timeout(SHORT);
    let error = client.stream_out("c1", FilesQuery::default()).await.err().unwrap();
    assert_eq!(error, timed_out(&server, "stream_out", false));

    let mut tar = client.stream_out("c1", FilesQuery::default()).await.unwrap();
    assert_eq!(tar.next().await.unwrap().unwrap(), "tar");
    let error = timeout(LIMIT, tar.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(error.downcast::<Error>().unwrap(), timed_out(&server, "stream_out", false));
    assert!(tar.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn without_limits_a_slow_server_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::new(&format!("unix:{}", path.display())).unwrap();
    let asked = tokio::spawn(async move { client.create(ContainerSpec::default()).await });
    let mut peer = Peer::new(listener.accept().await.unwrap().0);
    peer.request().await;
    tokio::time::sleep(Duration::from_secs(86400)).await;
    assert!(!asked.is_finished());
    peer.send(support::answer("200 OK", r#"{"handle":"c1"}"#)).await;
    assert_eq!(asked.await.unwrap().unwrap(), "c1");
}
