//! A client that vanishes in the middle of an operation, on a real kernel: the operation happens whole or not at all,
//! and nothing is left behind.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant},
};

use garden_client::Client;
use protocol::{Backend, ContainerSpec, Error, ProcessSpec, Properties};
use tests::{
    killable::{Killable, can_make_containers, supervisors_left},
    patience::patience,
};

/// How long things may take that nobody waits for.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(20));

/// How long the client stays, in microseconds: from not at all to longer than the operation takes.
const STAYS_US: [u64; 9] = [0, 200, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000];

struct Scene {
    server: Killable,
    client: Client,
    socket: PathBuf,
    prefix: String,
}

impl Scene {
    async fn open(name: &str) -> Scene {
        let mut server = Killable::new();
        let client = server.start(None).await;
        let socket = server.path("socket");
        Scene { server, client, socket, prefix: format!("vanish-{name}-{}", std::process::id()) }
    }

    async fn create(&self, name: &str) -> String {
        let handle = format!("{}-{name}", self.prefix);
        let spec = ContainerSpec { handle: handle.clone(), ..ContainerSpec::default() };
        self.client.create(spec).await.expect("create")
    }

    async fn status(&self, handle: &str, script: &str) -> i32 {
        let process = self.client.run(handle, sh(script)).await.expect("run");
        process.exit.await.expect("exit status")
    }

    /// Destroys what there is, and looks for what is left.
    async fn close(self) {
        let handles = self.client.list(&Properties::new()).await.expect("list");
        for handle in handles.iter() {
            match self.client.destroy(handle).await {
                // A destroy that nobody waits for may still be at it.
                Ok(()) | Err(Error::ContainerNotFound { .. } | Error::DestroyInProgress { .. }) => {}
                Err(error) => panic!("destroy {handle}: {error}"),
            }
        }
        eventually("no container is left", async || {
            self.client.list(&Properties::new()).await.expect("list").is_empty()
        })
        .await;
        assert_eq!(supervisors_left(&self.prefix).await, Vec::<String>::new());
        assert_eq!(self.server.left_behind().await, Vec::<String>::new());
        assert_eq!(self.server.clean_up().await, Vec::<String>::new());
    }
}

fn sh(script: &str) -> ProcessSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    ProcessSpec { path: "/bin/sh".to_owned(), args, ..ProcessSpec::default() }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < *PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a request, stays for a while, and is gone.
async fn send_and_vanish(socket: &Path, request: String, stay: Duration) {
    let socket = socket.to_owned();
    let send = move || {
        let mut stream = UnixStream::connect(socket).expect("connect");
        stream.write_all(request.as_bytes()).expect("send");
        std::thread::sleep(stay);
    };
    tokio::task::spawn_blocking(send).await.expect("a client");
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_create() {
    if !can_make_containers() {
        return;
    }
    let scene = Scene::open("create").await;
    for (n, stay) in STAYS_US.into_iter().enumerate() {
        let handle = format!("{}-create-{n}", scene.prefix);
        let body = format!(r#"{{"handle":"{handle}"}}"#);
        send_and_vanish(&scene.socket, request("POST", "/containers", &body), Duration::from_micros(stay))
            .await;
    }
    // Each of them is there and works, or was never made.
    let mut all = Properties::new();
    all.insert("garden.state".into(), "all".into());
    eventually("every create has ended", async || {
        scene.client.list(&all).await.expect("list")
            == scene.client.list(&Properties::new()).await.expect("list")
    })
    .await;
    for handle in scene.client.list(&Properties::new()).await.expect("list").iter() {
        assert_eq!(scene.status(handle, "exit 3").await, 3, "{handle}");
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_run_and_of_its_streams() {
    if !can_make_containers() {
        return;
    }
    let scene = Scene::open("run").await;
    let handle = scene.create("run").await;
    let path = format!("/containers/{handle}/processes");
    for (n, stay) in STAYS_US.into_iter().enumerate() {
        let body =
            format!(r#"{{"id":"p{n}","path":"sh","args":["-c","sleep 0.2; touch /done-{n}; exit 4"]}}"#);
        send_and_vanish(&scene.socket, request("POST", &path, &body), Duration::from_micros(stay)).await;
    }
    // Whoever started it has gone, and it runs to its end all the same.
    for n in 0..STAYS_US.len() {
        let id = format!("p{n}");
        let begun = Instant::now();
        let process = loop {
            match scene.client.attach(&handle, &id).await {
                Ok(process) => break Some(process),
                // The server may have read that the client was gone before it read what it wanted.
                Err(Error::ProcessNotFound { .. }) if begun.elapsed() > Duration::from_secs(1) => break None,
                Err(Error::ProcessNotFound { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("attach: {error}"),
            }
        };
        if let Some(process) = process {
            assert_eq!(process.exit.await.expect("exit status"), 4, "{id}");
            assert_eq!(scene.status(&handle, &format!("test -e /done-{n}")).await, 0, "{id}");
        }
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_stream_in() {
    if !can_make_containers() {
        return;
    }
    let scene = Scene::open("in").await;
    let handle = scene.create("in").await;
    // A header that announces a megabyte, and a bit of it.
    let mut header = tar::Header::new_ustar();
    header.set_path("file").unwrap();
    header.set_size(1 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    for (n, stay) in STAYS_US.into_iter().enumerate() {
        let socket = scene.socket.clone();
        let head = format!(
            "PUT /containers/{handle}/files?user=&destination=/in-{n} HTTP/1.1\r\nHost: api\r\n\
             Transfer-Encoding: chunked\r\n\r\n200\r\n"
        );
        let header = header.as_bytes().to_vec();
        let send = move || {
            let mut stream = UnixStream::connect(socket).expect("connect");
            stream.write_all(head.as_bytes()).expect("send");
            stream.write_all(&header).expect("send");
            stream.write_all(b"\r\n5\r\nbytes\r\n").expect("send");
            std::thread::sleep(Duration::from_micros(stay));
        };
        tokio::task::spawn_blocking(send).await.expect("a client");
    }
    // Such a child has the name of the supervisor that it was forked from, as init has.
    eventually("every unpacking child has ended", async || {
        scene.status(&handle, "[ $(ps -o comm | grep -c garden-init) -eq 1 ]").await == 0
    })
    .await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_stream_out() {
    if !can_make_containers() {
        return;
    }
    let scene = Scene::open("out").await;
    let handle = scene.create("out").await;
    assert_eq!(scene.status(&handle, "head -c 20000000 /dev/zero > /big").await, 0);
    for stay in STAYS_US {
        let socket = scene.socket.clone();
        let get = request("GET", &format!("/containers/{handle}/files?user=&source=/big"), "");
        let receive = move || {
            let mut stream = UnixStream::connect(socket).expect("connect");
            stream.write_all(get.as_bytes()).expect("send");
            std::thread::sleep(Duration::from_micros(stay));
            let _ = stream.read(&mut [0; 1000]);
        };
        tokio::task::spawn_blocking(receive).await.expect("a client");
    }
    eventually("every packing child has ended", async || {
        scene.status(&handle, "[ $(ps -o comm | grep -c garden-init) -eq 1 ]").await == 0
    })
    .await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_stop_and_of_a_destroy() {
    if !can_make_containers() {
        return;
    }
    let scene = Scene::open("end").await;
    for (n, stay) in STAYS_US.into_iter().enumerate() {
        let stay = Duration::from_micros(stay);
        let handle = scene.create(&format!("end-{n}")).await;
        let process = scene.client.run(&handle, sh("sleep 1000")).await.expect("run");
        let stop = request("PUT", &format!("/containers/{handle}/stop"), r#"{"kill":true}"#);
        send_and_vanish(&scene.socket, stop, stay).await;
        let destroy = request("DELETE", &format!("/containers/{handle}"), "");
        send_and_vanish(&scene.socket, destroy, stay).await;
        drop(process);
    }
    scene.close().await;
}
