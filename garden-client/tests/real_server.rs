//! The library against the real server over the fake backend, over both kinds of sockets.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use backend_fake::Op;
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use garden_client::{Backend, Collected, ContainerSpec, Error, ProcessSpec, Properties, protocol::Signal};
use support::{LIMIT, RealServer};
use tokio::time::timeout;

fn container(handle: &str) -> ContainerSpec {
    ContainerSpec { handle: handle.into(), ..ContainerSpec::default() }
}

fn process(path: &str, args: &[&str]) -> ProcessSpec {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    ProcessSpec { path: path.into(), args, ..ProcessSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_run_and_collected() {
    let server = RealServer::start().await;
    for client in server.clients() {
        client.create(container("c/1 é")).await.unwrap_err();
        client.create(container("c1 é")).await.unwrap();
        let spec = ProcessSpec { id: "p%1".into(), ..process("both", &["out", "err", "3"]) };
        let collected = client.run_and_collect("c1 é", spec).await.unwrap();
        let wanted = Collected {
            process_id: "p%1".into(),
            stdout: b"out".to_vec(),
            stderr: b"err".to_vec(),
            exit_status: 3,
        };
        assert_eq!(collected, wanted);
        client.destroy("c1 é").await.unwrap();
        assert_eq!(client.destroy("c1 é").await, Err(Error::container_not_found("c1 é")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_overtakes_input_that_is_not_read() {
    let server = RealServer::start().await;
    for client in server.clients() {
        client.create(container("c1")).await.unwrap();
        let hold = client.run("c1", process("hold", &[])).await.unwrap();
        let control = hold.control.clone();
        let writing =
            tokio::spawn(async move { control.write_stdin(Bytes::from(vec![b'x'; 32 << 20])).await });
        // The write is on its way, or has filled everything there is: in both cases the kill must get through.
        hold.control.write_stdin(Bytes::from_static(b"x")).now_or_pending().await;
        hold.control.signal(Signal::Kill).await.unwrap();
        assert_eq!(timeout(LIMIT, hold.exit).await.unwrap(), Ok(137));
        timeout(LIMIT, writing).await.unwrap().unwrap().unwrap();
        client.destroy("c1").await.unwrap();
    }
}

/// Polls a future once.
trait NowOrPending: Future + Sized {
    async fn now_or_pending(self) {
        let mut this = std::pin::pin!(self);
        std::future::poll_fn(|context| {
            let _ = this.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
    }
}

impl<F: Future> NowOrPending for F {}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_attached_to_after_its_client_left() {
    let server = RealServer::start().await;
    for client in server.clients() {
        client.create(container("c1")).await.unwrap();
        let cat = client.run("c1", ProcessSpec { id: "cat".into(), ..process("cat", &[]) }).await.unwrap();
        drop(cat);
        let cat = client.attach("c1", "cat").await.unwrap();
        let mut stdout = cat.stdout.open();
        cat.control.write_stdin(Bytes::from_static("still é".as_bytes())).await.unwrap();
        assert_eq!(stdout.next().await.unwrap().unwrap(), "still é");
        cat.control.close_stdin().await.unwrap();
        assert_eq!(timeout(LIMIT, cat.exit).await.unwrap(), Ok(0));
        assert!(stdout.next().await.is_none());
        client.destroy("c1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let server = RealServer::start().await;
    for client in server.clients() {
        let lives = (0..64).map(|number| {
            let client = client.clone();
            async move {
                let handle = format!("c{number}");
                client.create(container(&handle)).await?;
                client.info(&handle).await?;
                let ended = client.run_and_collect(&handle, process("echo", &[&handle])).await?;
                assert_eq!(ended.stdout, format!("{handle}\n").into_bytes());
                client.metrics(&handle).await?;
                Ok::<String, Error>(handle)
            }
        });
        let handles: Vec<String> = join_all(lives).await.into_iter().map(|handle| handle.unwrap()).collect();
        let info = client.bulk_info(&handles).await.unwrap();
        assert!(info.0.len() == 64 && info.0.values().all(|entry| entry.err.is_none()));
        assert!(client.bulk_metrics(&[]).await.unwrap().0.is_empty());
        for destroyed in join_all(handles.iter().map(|handle| client.destroy(handle))).await {
            destroyed.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_create_was_dropped_comes_to_be_and_goes_with_its_grace_time() {
    let server = RealServer::start().await;
    let client = server.client();
    let everything = Properties::from([("garden.state".into(), "all".into())]);
    let hold = server.fake.faults().hold(Op::Create);
    let spec = ContainerSpec { grace_time: Duration::from_millis(50), ..container("c1") };
    tokio::select! {
        _ = client.create(spec) => panic!("it is held"),
        () = hold.arrived(1) => {}
    }
    assert_eq!(*client.list(&everything).await.unwrap(), ["c1"]);
    hold.release();
    timeout(LIMIT, async {
        while !client.list(&everything).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}
