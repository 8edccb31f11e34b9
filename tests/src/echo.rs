//! A server process with one container, and a `cat` in it, over the wire by hand.

#![allow(clippy::expect_used)]

use std::{
    io::{BufRead, Write},
    path::Path,
    time::{Duration, Instant},
};

use protocol::{Backend, ContainerSpec};

use crate::{
    killable::Killable,
    raw::{Process, Stream, ask},
};

/// A server with one container.
pub async fn server_with(handle: &str, server: Killable) -> Killable {
    let mut server = server;
    let client = server.start(None).await;
    let spec = ContainerSpec { handle: handle.to_owned(), ..ContainerSpec::default() };
    client.create(spec).await.expect("create");
    server
}

/// Sends input, as JSON text without quotes.
pub fn send(process: &Process, text: &str) {
    let payload = format!("{{\"source\":0,\"data\":\"{text}\"}}");
    process.input().write_all(payload.as_bytes()).expect("send input");
}

/// Says that no more input comes.
pub fn end_input(process: &Process) {
    process.input().write_all(b"{\"source\":0}").expect("end the input");
}

/// Reads a line.
pub fn line(from: &mut Stream) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    line
}

/// The value of a metric, named with its labels.
pub fn metric(socket: &Path, name: &str) -> u64 {
    let mut metrics = ask(socket, "GET", "/metrics", "").expect("metrics");
    loop {
        let line = line(&mut metrics);
        assert!(!line.is_empty(), "no metric {name}");
        if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')) {
            return value.trim().parse::<f64>().expect("a number") as u64;
        }
    }
}

/// A `cat`, and what it gives back.
pub struct Echo {
    /// The process.
    pub process: Process,
    /// What comes back.
    pub stdout: Stream,
}

impl Echo {
    /// Starts it.
    pub fn start(socket: &Path, handle: &str) -> Echo {
        let process = Process::run(socket, handle, &["cat"]).expect("run cat");
        let stdout = process.output(socket, "stdout").expect("its output");
        Echo { process, stdout }
    }

    /// How long a line is under way.
    pub fn round_trip(&mut self) -> Duration {
        let begun = Instant::now();
        send(&self.process, "ping\\n");
        assert_eq!(line(&mut self.stdout), "ping\n");
        begun.elapsed()
    }

    /// Ends its input, and sees it end.
    pub fn end(mut self) {
        end_input(&self.process);
        assert_eq!(self.process.exit_status().expect("its end"), 0);
    }
}
