//! The client: keep-alive connections on which requests follow one another.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
};

use crate::{Failure, Outcome};

/// Connections at once: as many as keep two cores busy with the server and its clients.
const CONNECTIONS: usize = 4;

/// Sends so many requests and reads each answer, which has a known length.
pub fn requests(socket: &Path, path: &str, answer_bytes: usize, count: usize) -> Outcome {
    let request = request(path);
    let one_client = || -> Outcome {
        let mut connection = UnixStream::connect(socket)?;
        let mut answer = vec![0; answer_bytes];
        for _ in 0..count / CONNECTIONS {
            connection.write_all(&request)?;
            connection.read_exact(&mut answer)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(one_client)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| Failure::from("a client panicked"))?)
    })
}

/// The whole answer, head and body.
pub fn answer(socket: &Path, path: &str) -> Outcome<Vec<u8>> {
    let mut connection = UnixStream::connect(socket)?;
    connection.write_all(&request(path))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = connection.read(&mut buffer)?;
        if read == 0 {
            return Err(format!("{path}: the answer ends early").into());
        }
        answer.extend_from_slice(&buffer[..read]);
        if let Some((head, body)) = split(&answer) {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.ok_or_else(|| format!("{path}: no length"))?.trim().parse()?;
            if body.len() >= length {
                return Ok(answer);
            }
        }
    }
}

/// The body of an answer.
pub fn body(answer: &[u8]) -> &[u8] {
    split(answer).map_or(&[], |(_, body)| body)
}

/// An answer as lines of its head, in order of the alphabet and without the date, and its body.
pub fn undated(answer: &[u8]) -> (Vec<String>, &[u8]) {
    let (head, body) = split(answer).unwrap_or_default();
    let mut lines: Vec<String> =
        head.lines().filter(|line| !line.starts_with("Date: ")).map(str::to_owned).collect();
    lines.sort();
    (lines, body)
}

fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]))
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: api\r\nUser-Agent: bench\r\nAccept-Encoding: gzip\r\n\r\n")
        .into_bytes()
}
