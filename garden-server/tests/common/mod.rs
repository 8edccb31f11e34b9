//! A server of our own over real sockets, and a client that sees every byte.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

pub mod websocket;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backend_fake::{FakeBackend, FakeOptions};
use garden_server::{Config, Listener, UnixSocketOptions, serve};
use protocol::{Backend, ContainerSpec};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and the backend behind it.
pub struct Server {
    pub fake: Arc<FakeBackend>,
    pub socket: PathBuf,
    pub tcp: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(FakeBackend::new(), Config::default()).await
    }

    pub async fn with_options(options: FakeOptions) -> Self {
        Self::with(FakeBackend::with_options(options), Config::default()).await
    }

    pub async fn with(fake: FakeBackend, config: Config) -> Self {
        Self::before(Arc::new(fake), config).await
    }

    /// A server before a backend that may have served another one.
    pub async fn before(fake: Arc<FakeBackend>, config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("garden.sock");
        let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = tcp.tcp_address().unwrap();
        let listeners = vec![Listener::unix(&socket, UnixSocketOptions::default()).await.unwrap(), tcp];
        let (stop, stopped) = oneshot::channel::<()>();
        let backend = fake.clone();
        let served = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(listeners, backend, config, stopped).await.unwrap();
        });
        Server { fake, socket, tcp: address, stop: Some(stop), served, _folder: folder }
    }

    /// A server with a container `c1`.
    pub async fn with_container() -> Self {
        let server = Self::start().await;
        server.create("c1").await;
        server
    }

    pub async fn create(&self, handle: &str) {
        let spec = ContainerSpec { handle: handle.to_owned(), ..ContainerSpec::default() };
        self.fake.create(spec).await.unwrap();
    }

    pub async fn connect(&self) -> Raw {
        Raw::over(UnixStream::connect(&self.socket).await.unwrap())
    }

    pub async fn connect_tcp(&self) -> Raw {
        Raw::over(TcpStream::connect(self.tcp).await.unwrap())
    }

    /// One connection of each kind.
    pub async fn both_kinds(&self) -> [Raw; 2] {
        [self.connect().await, self.connect_tcp().await]
    }

    /// Sends one request on a connection of its own.
    pub async fn request(&self, head: &str, body: &str) -> Response {
        self.connect().await.request(head, body).await
    }

    /// Starts a process; the connection is behind the first payload, which has `stream_id`.
    pub async fn run(&self, spec: &str) -> (Raw, String) {
        let mut raw = self.connect().await;
        let response = raw.request("POST /containers/c1/processes", spec).await;
        assert_eq!(response.status, 201, "{}", response.text());
        let first = raw.payload().await;
        (raw, first["stream_id"].as_str().unwrap().to_owned())
    }

    /// How many connections to the unix socket the server has.
    fn connections(&self) -> usize {
        let path = self.socket.to_str().unwrap();
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        // One of them is the listener.
        sockets.lines().filter(|line| line.ends_with(path)).count() - 1
    }

    /// Waits until the server has no connection to the unix socket.
    pub async fn until_unconnected(&self) {
        within(async {
            while self.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Asks the server to stop; resolves when it has.
    pub async fn stop(mut self) {
        self.ask_to_stop();
        within(&mut self.served).await.unwrap();
    }

    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub async fn stopped(mut self) {
        within(&mut self.served).await.unwrap();
    }
}

/// Fails the test rather than let it hang.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that hides nothing.
pub struct Raw {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// An answer; of a hijacked one only the head.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub fn is_hijacked(&self) -> bool {
        matches!(self.status, 200 | 201)
            && self.header("transfer-encoding") == Some("chunked")
            && self.header("content-type") != Some("application/octet-stream")
    }
}

impl Raw {
    pub fn over(stream: impl Stream + 'static) -> Self {
        Raw { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends what the server takes: it may close the connection before it has read everything.
    pub async fn send_some(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within(self.stream.write_all(bytes.as_ref())).await;
    }

    pub async fn half_close(&mut self) {
        within(self.stream.shutdown()).await.unwrap();
    }

    /// `head` is method and path.
    pub async fn request(&mut self, head: &str, body: &str) -> Response {
        let length = body.len();
        self.send(format!("{head} HTTP/1.1\r\nHost: api\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        self.response().await
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match within(self.stream.read(&mut piece)).await {
            Ok(0) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return self.buffer.drain(..at + end.len()).collect();
            }
            assert!(self.fill().await, "the connection ended: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill().await, "the connection ended: {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads once, at most this much; says how much.
    pub async fn some(&mut self, most: usize) -> usize {
        let mut piece = vec![0; most];
        match self.buffer.is_empty() {
            true => within(self.stream.read(&mut piece)).await.unwrap(),
            false => self.buffer.drain(..most.min(self.buffer.len())).count(),
        }
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// One payload of a process's stream.
    pub async fn payload(&mut self) -> serde_json::Value {
        let line = self.until(b"\n").await;
        serde_json::from_slice(&line).unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&line)))
    }

    /// A head as it came.
    pub async fn raw_head(&mut self) -> Vec<u8> {
        self.until(b"\r\n\r\n").await
    }

    pub async fn head(&mut self) -> Response {
        let head = String::from_utf8(self.raw_head().await).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let mut status_line = lines.next().unwrap().splitn(3, ' ');
        let version = status_line.next().unwrap().to_owned();
        let status = status_line.next().unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        });
        Response { status, version, headers: headers.collect(), body: Vec::new() }
    }

    pub async fn response(&mut self) -> Response {
        let mut response = self.head().await;
        if let Some(length) = response.header("content-length") {
            let length = length.parse().unwrap();
            response.body = self.bytes(length).await;
        } else if response.header("transfer-encoding").is_some() && !response.is_hijacked() {
            response.body = self.chunks().await.expect("whole chunks");
        }
        response
    }

    /// A chunked body; an error if it is broken off.
    pub async fn chunks(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let mut body = Vec::new();
        loop {
            while !self.buffer.windows(2).any(|window| window == b"\r\n") {
                if !self.fill().await {
                    return Err(body);
                }
            }
            let size = String::from_utf8(self.until(b"\r\n").await).unwrap();
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            while self.buffer.len() < size + 2 {
                if !self.fill().await {
                    return Err(body);
                }
            }
            body.extend(self.bytes(size).await);
            self.bytes(2).await;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// The folder of the recorded conversations.
pub fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/wire/captures")
}
