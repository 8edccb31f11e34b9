//! Garden's HTTP by hand, over a unix socket and blocking, for the tests and benchmarks to which bytes and times matter.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::LazyLock,
    time::Duration,
};

use crate::patience::patience;

/// How long anything may take before a test gives up.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(60));

/// A connection behind the head of its answer.
pub type Stream = BufReader<UnixStream>;

/// Asks on a connection of its own. `path` begins with a slash. An answer other than 2xx is an error.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Stream> {
    ask_on(UnixStream::connect(socket)?, method, path, body)
}

/// The same on a connection that stands.
pub fn ask_on(mut stream: UnixStream, method: &str, path: &str, body: &str) -> io::Result<Stream> {
    stream.set_read_timeout(Some(*PATIENCE))?;
    stream.set_write_timeout(Some(*PATIENCE))?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 20") {
        return Err(io::Error::other(format!("{method} {path}: {line}")));
    }
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(stream)
}

/// A process's classic stream, and where its outputs are.
pub struct Process {
    stream: Stream,
    id: String,
    /// What its outputs' paths begin with.
    outputs: String,
}

impl Process {
    /// Starts a program, named by itself and its arguments.
    pub fn run(socket: &Path, handle: &str, command: &[&str]) -> io::Result<Process> {
        Process::run_on(UnixStream::connect(socket)?, handle, command)
    }

    /// The same on a connection that stands.
    pub fn run_on(stream: UnixStream, handle: &str, command: &[&str]) -> io::Result<Process> {
        let (path, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let spec = serde_json::json!({ "path": path, "args": args }).to_string();
        let path = format!("/containers/{handle}/processes");
        Process::begin(ask_on(stream, "POST", &path, &spec)?, handle)
    }

    /// Joins a process.
    pub fn attach(socket: &Path, handle: &str, id: &str) -> io::Result<Process> {
        Process::begin(ask(socket, "GET", &format!("/containers/{handle}/processes/{id}"), "")?, handle)
    }

    fn begin(mut stream: Stream, handle: &str) -> io::Result<Process> {
        let first = payload(&mut stream)?;
        let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
        let (id, stream_id) = (text("process_id"), text("stream_id"));
        let outputs = format!("/containers/{handle}/processes/{id}/attaches/{stream_id}");
        Ok(Process { stream, id, outputs })
    }

    /// A connection that brings what it writes to `which`: stdout or stderr.
    pub fn output(&self, socket: &Path, which: &str) -> io::Result<Stream> {
        ask(socket, "GET", &format!("{}/{which}", self.outputs), "")
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where to send payloads.
    pub fn input(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// Waits for the last payload.
    pub fn exit_status(&mut self) -> io::Result<i64> {
        let last = payload(&mut self.stream)?;
        last["exit_status"].as_i64().ok_or_else(|| io::Error::other(format!("no exit status: {last}")))
    }
}

fn payload(stream: &mut Stream) -> io::Result<serde_json::Value> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// Reads to the end and counts.
pub fn count(mut from: impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
    }
}
