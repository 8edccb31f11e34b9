//! Running a process to its end in one call.

use futures_util::StreamExt;
use protocol::{Backend, ByteStream, Error, Process, ProcessSpec, Result};

use crate::Client;

/// A process that has ended, and everything that it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// Its id.
    pub process_id: String,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// As a shell gives it: the code, or 128 + n for signal n.
    pub exit_status: i32,
}

impl Client {
    /// Runs a process without standard input, and waits for its end. Its output is held in memory: for one that may
    /// write without limit use [`Backend::run`] and read the streams.
    pub async fn run_and_collect(&self, handle: &str, spec: ProcessSpec) -> Result<Collected> {
        let Process { id, stdout, stderr, control, exit } = self.run(handle, spec).await?;
        // The outputs are read from the start: a process whose pipe is full would never end.
        let (_, stdout, stderr, exit_status) =
            tokio::try_join!(control.close_stdin(), read(stdout.open()), read(stderr.open()), exit)?;
        Ok(Collected { process_id: id, stdout, stderr, exit_status })
    }
}

async fn read(mut stream: ByteStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|error| {
            // What the server said, or else what became of the connection.
            error.downcast().unwrap_or_else(|error| Error::Connection {
                message: format!("the process's output was cut short: {error}"),
            })
        })?;
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}
