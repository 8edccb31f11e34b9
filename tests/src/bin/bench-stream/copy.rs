//! The floor: a pipe, a buffer, a socket.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{Outcome, WRITER, flow};

/// As large as a pipe is by default.
const BUFFER_BYTES: usize = 64 * 1024;

/// Starts the writer, has its output copied, and answers with how long that took.
pub fn stream() -> Outcome<Duration> {
    let mut command = Command::new("busybox");
    let mut writer = command.args(WRITER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let go = writer.stdin.take().ok_or("a writer without input")?;
    let mut from = writer.stdout.take().ok_or("a writer without output")?;
    let (mut to, client) = UnixStream::pair()?;
    let copying = thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match from.read(&mut buffer)? {
                0 => return to.shutdown(Shutdown::Write),
                read => to.write_all(&buffer[..read])?,
            }
        }
    });
    let took = flow(go, "go\n", client)?;
    copying.join().map_err(|_| "the copying thread panicked")??;
    writer.wait()?;
    Ok(took)
}
