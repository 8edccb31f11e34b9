//! A server that says exactly what a test wants, byte by byte; and the real one over the fake backend.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backend_fake::{FakeBackend, FakeOptions};
use garden_client::Client;
use garden_server::{Config, Listener, UnixSocketOptions, serve};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};

/// No test waits for anything that takes this long.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A scripted server; it ends when this is dropped.
pub struct Scripted {
    directory: TempDir,
    task: JoinHandle<()>,
    connections: Arc<AtomicUsize>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// Each connection is given to `script`, with its number and nothing read yet.
    pub fn start<F, W>(script: F) -> Self
    where
        F: Fn(usize, Peer) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s.sock")).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(number, Peer::new(stream)));
            }
        });
        Scripted { directory, task, connections }
    }

    /// Every connection is read a request from, gets `answer` in two writes, cut at `at`, and is closed.
    pub fn answering(answer: Vec<u8>, at: usize) -> Self {
        Scripted::start(move |_, mut peer| {
            let answer = answer.clone();
            async move {
                peer.request().await;
                let (one, two) = answer.split_at(at.min(answer.len()));
                peer.send(one).await;
                tokio::task::yield_now().await;
                peer.send(two).await;
            }
        })
    }

    pub fn address(&self) -> String {
        format!("unix:{}", self.directory.path().join("s.sock").display())
    }

    /// Of classic streams, which is what scripts speak.
    pub fn client(&self) -> Client {
        Client::new(&self.address()).unwrap().with_classic_streams()
    }

    /// How many connections there were so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A client's connection, seen from the server.
pub struct Peer {
    pub stream: UnixStream,
    unread: Vec<u8>,
}

impl Peer {
    pub fn new(stream: UnixStream) -> Self {
        Peer { stream, unread: Vec::new() }
    }

    /// Reads until `end` has arrived, and answers with everything up to there; what comes behind it stays.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end.as_bytes()) {
                let rest = self.unread.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned();
            }
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }

    /// Reads a request: its head, and a body that has a length.
    pub async fn request(&mut self) -> String {
        let mut request = self.until("\r\n\r\n").await;
        let length = request
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        while self.unread.len() < length.unwrap_or(0) {
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the request's body ended early");
            self.unread.extend_from_slice(&buffer[..count]);
        }
        request.extend(self.unread.drain(..length.unwrap_or(0)).map(char::from));
        request
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.unread);
        let _ = self.stream.read_to_end(&mut rest).await;
        rest
    }

    /// Sends; a client that is gone is none of a script's business.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }
}

/// Bytes without a pattern, the same each time.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// The head behind which a process's messages come.
pub const RUN_HEAD: &str =
    "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
/// The head behind which an output's bytes come, or a process's messages after an attach.
pub const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// An ordinary answer.
pub fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The bytes with which the reference server answered in a capture.
pub fn captured(name: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/wire/captures")).join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let (_, response) = text.split_once("<< response").unwrap();
    let lines = response.lines().skip(1).filter_map(|line| line.strip_prefix("    "));
    lines.flat_map(unescape).collect()
}

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            byte => byte,
        });
    }
    bytes
}

/// The real server, in this process, over the fake backend.
pub struct RealServer {
    directory: TempDir,
    pub fake: Arc<FakeBackend>,
    tcp: std::net::SocketAddr,
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RealServer {
    pub async fn start() -> Self {
        Self::with(FakeOptions::default()).await
    }

    pub async fn with(options: FakeOptions) -> Self {
        Self::before(Arc::new(FakeBackend::with_options(options))).await
    }

    /// A server before a backend that may have served another one.
    pub async fn before(fake: Arc<FakeBackend>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("garden.sock");
        let listener = Listener::unix(&path, UnixSocketOptions::default()).await.unwrap();
        let tcp = Listener::tcp(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let tcp_address = tcp.tcp_address().unwrap();
        let backend = fake.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(vec![listener, tcp], backend, Config::default(), stopped).await.unwrap();
        });
        RealServer { directory, fake, tcp: tcp_address, task, stop: Some(stop) }
    }

    /// As SIGTERM does; resolves when it has stopped, and answers with its backend.
    pub async fn stop(mut self) -> Arc<FakeBackend> {
        drop(self.stop.take());
        tokio::time::timeout(LIMIT, &mut self.task).await.unwrap().unwrap();
        self.fake.clone()
    }

    /// How many requests of this route there were.
    pub async fn requests(&self, route: &str) -> u64 {
        let mut stream = UnixStream::connect(self.directory.path().join("garden.sock")).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let begin = "garden_http_requests_total{";
        let lines = text.lines().filter(|line| line.starts_with(begin));
        let lines = lines.filter(|line| line.contains(&format!("route=\"{route}\"")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub fn address(&self) -> String {
        format!("unix:{}", self.directory.path().join("garden.sock").display())
    }

    pub fn client(&self) -> Client {
        Client::new(&self.address()).unwrap()
    }

    /// One client for each kind of socket.
    pub fn clients(&self) -> [Client; 2] {
        [self.client(), Client::new(&format!("tcp:{}", self.tcp)).unwrap()]
    }
}
