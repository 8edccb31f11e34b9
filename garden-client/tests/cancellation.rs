//! A future that is dropped, at whatever point, leaves no task and no connection.
//!
//! The server is on threads of its own, so that every task of the runtime is the client's.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use garden_client::{
    Backend, ByteStream, Client, ContainerSpec, FilesQuery, ProcessSpec,
    protocol::{NetOutRule, Signal},
};
use support::RealServer;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep},
};

const LIMIT: Duration = Duration::from_secs(30);

/// Says the beginning of an answer to each request's head, and then only listens.
struct Server {
    directory: TempDir,
    open: Arc<AtomicUsize>,
    /// Told each time when the beginning was said.
    said: Arc<Notify>,
    /// Told when the server is to read what comes behind a head.
    listen: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    open: std::sync::Mutex<bool>,
    opened: std::sync::Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
    }
}

impl Server {
    fn saying(beginning: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s.sock")).unwrap();
        let (open, said, listen) =
            (Arc::<AtomicUsize>::default(), Arc::<Notify>::default(), Arc::<Gate>::default());
        let server = Server { directory, open: open.clone(), said: said.clone(), listen: listen.clone() };
        // Ends with the test's process: nothing tells a thread in accept to go.
        thread::spawn(move || {
            for stream in listener.incoming() {
                open.fetch_add(1, Ordering::SeqCst);
                let (open, said, listen) = (open.clone(), said.clone(), listen.clone());
                thread::spawn(move || {
                    converse(stream.unwrap(), beginning, &said, &listen);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    fn client(&self) -> Client {
        Client::new(&format!("unix:{}/s.sock", self.directory.path().display())).unwrap()
    }

    /// Fails unless the client's tasks and connections are gone within the limit. Tasks must go also while the
    /// server reads nothing.
    async fn sees_nothing_left(&self, after: &str) {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let deadline = Instant::now() + LIMIT;
        while tasks() > 0 {
            assert!(Instant::now() < deadline, "{after}: {} tasks are left", tasks());
            sleep(Duration::from_millis(1)).await;
        }
        self.listen.open();
        while self.open.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "{after}: a connection is left");
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn converse(mut stream: UnixStream, beginning: &str, said: &Notify, listen: &Gate) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let _ = stream.write_all(beginning.as_bytes());
    said.notify_one();
    listen.pass();
    while matches!(stream.read(&mut [0; 4096]), Ok(count) if count > 0) {}
}

/// Polls `work` until the server has said its part and it was heard, and drops it.
async fn drop_midway(server: &Server, work: impl Future) {
    let mut work = pin!(work);
    tokio::select! {
        _ = &mut work => panic!("it came to an end"),
        () = server.said.notified() => {}
    }
    for _ in 0..100 {
        tokio::select! {
            biased;
            _ = &mut work => panic!("it came to an end"),
            () = tokio::task::yield_now() => {}
        }
    }
}

const NOTHING: &str = "";
const HALF_A_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Le";
const HALF_AN_ERROR: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\n{";
const HALF_A_TAR: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntar";
const PROCESS: &str = concat!(
    "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n",
    r#"{"process_id":"p","stream_id":"1"}"#
);

fn cat() -> ProcessSpec {
    ProcessSpec { path: "cat".into(), ..ProcessSpec::default() }
}

type Work<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Each operation with another way over the wire.
fn operations(client: &Client) -> Vec<(&'static str, Work<'_>)> {
    let large = vec![NetOutRule::default(); 200_000];
    let endless: ByteStream = Box::pin(stream::repeat_with(|| Ok(Bytes::from(vec![0; 1 << 20]))));
    let silent: ByteStream = Box::pin(stream::pending());
    vec![
        ("ping", Box::pin(async move { drop(client.ping().await) })),
        ("create", Box::pin(async move { drop(client.create(ContainerSpec::default()).await) })),
        ("destroy", Box::pin(async move { drop(client.destroy("c").await) })),
        ("net_out, larger than what the kernel holds", {
            Box::pin(async move { drop(client.net_out("c", large).await) })
        }),
        ("stream_in of an endless tar", {
            Box::pin(async move { drop(client.stream_in("c", FilesQuery::default(), endless).await) })
        }),
        ("stream_in of a tar that does not come", {
            Box::pin(async move { drop(client.stream_in("c", FilesQuery::default(), silent).await) })
        }),
        ("stream_out", {
            Box::pin(async move { drop(client.stream_out("c", FilesQuery::default()).await) })
        }),
        ("run", Box::pin(async move { drop(client.run("c", cat()).await) })),
        ("run with classic streams", {
            let client = client.clone().with_classic_streams();
            Box::pin(async move { drop(client.run("c", cat()).await) })
        }),
        ("attach with classic streams", {
            let client = client.clone().with_classic_streams();
            Box::pin(async move { drop(client.attach("c", "p").await) })
        }),
        ("run_and_collect", Box::pin(async move { drop(client.run_and_collect("c", cat()).await) })),
    ]
}

#[tokio::test]
async fn whatever_is_dropped_at_whatever_point_leaves_nothing() {
    for beginning in [NOTHING, HALF_A_HEAD, HALF_AN_ERROR] {
        let count = operations(&Client::new("unix:/nowhere").unwrap()).len();
        for at in 0..count {
            let server = Server::saying(beginning);
            let client = server.client();
            let (name, work) = operations(&client).swap_remove(at);
            drop_midway(&server, work).await;
            server.sees_nothing_left(&format!("{name}, dropped behind {beginning:?}")).await;
        }
    }
}

#[tokio::test]
async fn what_is_dropped_after_its_first_step_leaves_nothing() {
    let server = Server::saying(NOTHING);
    let client = server.client();
    for (name, work) in operations(&client) {
        assert!(work.now_or_never().is_none(), "{name}");
        server.sees_nothing_left(name).await;
    }
}

#[tokio::test]
async fn a_dropped_tar_leaves_nothing() {
    let server = Server::saying(HALF_A_TAR);
    let client = server.client();
    let mut tar = client.stream_out("c", FilesQuery::default()).await.unwrap();
    assert_eq!(tar.next().await.unwrap().unwrap(), "tar");
    assert!(tar.next().now_or_never().is_none());
    drop(tar);
    server.sees_nothing_left("a tar").await;
}

#[tokio::test]
async fn a_dropped_process_leaves_nothing() {
    let server = Server::saying(PROCESS);
    let client = server.client().with_classic_streams();
    let process = client.run("c", cat()).await.unwrap();
    let mut stdout = process.stdout.open();
    stdout.next().await.unwrap().unwrap();
    // Nobody reads it: the write is on its way when everything is dropped.
    let input = Bytes::from(vec![b'x'; 16 << 20]);
    assert!(process.control.write_stdin(input).now_or_never().is_none());
    assert!(process.control.signal(Signal::Kill).now_or_never().is_none());
    tokio::task::yield_now().await;
    drop((process, stdout));
    server.sees_nothing_left("a process with an output").await;
}

#[tokio::test]
async fn a_dropped_process_over_a_websocket_leaves_nothing() {
    // On a runtime of its own, whose tasks are not counted here.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.spawn(RealServer::start()).await.unwrap();
    let client = server.client();
    client.create(ContainerSpec { handle: "c".into(), ..ContainerSpec::default() }).await.unwrap();
    let script = "echo out; echo err >&2; sleep 10000";
    let process = client.run("c", ProcessSpec::new("sh", ["-c", script])).await.unwrap();
    let (mut stdout, stderr) = (process.stdout.open(), process.stderr.open());
    assert_eq!(stdout.next().await.unwrap().unwrap(), "out\n");
    let input = Bytes::from(vec![b'x'; 16 << 20]);
    assert!(process.control.write_stdin(input).now_or_never().is_none());
    tokio::task::yield_now().await;
    drop((process, stdout, stderr, client));

    let tasks = || Handle::current().metrics().num_alive_tasks();
    let deadline = Instant::now() + LIMIT;
    // Its own connection is one.
    while tasks() > 0 || connections(&server).await > 1 {
        assert!(Instant::now() < deadline, "{} tasks, {} connections", tasks(), connections(&server).await);
        sleep(Duration::from_millis(1)).await;
    }
    drop(server);
    runtime.shutdown_background();
}

/// The connections that the server has, by its own count.
async fn connections(server: &RealServer) -> u32 {
    let address = server.address();
    let path = address.strip_prefix("unix:").unwrap();
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let counted = answer.lines().find_map(|line| line.strip_prefix("garden_connections "));
    counted.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_keeps_a_connection_for_its_next_question_and_drops_it_with_itself() {
    let server = Server::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    let client = server.client();
    client.ping().await.unwrap();
    assert_eq!((server.open.load(Ordering::SeqCst), Handle::current().metrics().num_alive_tasks()), (1, 1));
    drop(client);
    server.sees_nothing_left("a client").await;
}
