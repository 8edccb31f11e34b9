//! A process's end and output as one document, for whoever has only an HTTP client.

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::StreamExt;
use protocol::{Error, Output, Result, extension::ProcessResult};

use crate::sessions::{Ended, end_of};

/// How much of each output is kept for the answer.
const KEPT_MAX_BYTES: usize = 16 << 20;

/// How bytes become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// What is not UTF-8 becomes U+FFFD.
    Text,
    /// Exactly.
    Base64,
}

/// Waits for the process's end, and reads what it writes meanwhile, so that it is not held up.
pub(crate) async fn collect(
    process_id: String,
    mut ended: Ended,
    [stdout, stderr]: [Output; 2],
    encoding: Encoding,
) -> Result<ProcessResult> {
    let exit = async {
        end_of(&mut ended).await.unwrap_or_else(|| {
            let message = format!("the server stops; process {process_id} goes on: ask again for its result");
            Err(Error::ServiceUnavailable { message })
        })
    };
    let (exit_status, stdout, stderr) = tokio::try_join!(exit, keep(stdout), keep(stderr))?;
    Ok(ProcessResult {
        exit_status,
        stdout: encoding.encode(&stdout.bytes),
        stderr: encoding.encode(&stderr.bytes),
        stdout_dropped_bytes: stdout.dropped_bytes,
        stderr_dropped_bytes: stderr.dropped_bytes,
        process_id,
    })
}

impl Encoding {
    fn encode(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Text => String::from_utf8_lossy(bytes).into_owned(),
            Encoding::Base64 => BASE64_STANDARD.encode(bytes),
        }
    }
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    dropped_bytes: u64,
}

async fn keep(output: Output) -> Result<Kept> {
    let mut kept = Kept::default();
    let mut chunks = output.open();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Error::Failed {
            message: format!("the process's output was cut short: {error}"),
        })?;
        let room = KEPT_MAX_BYTES - kept.bytes.len();
        let (fits, rest) = chunk.split_at(chunk.len().min(room));
        kept.bytes.extend_from_slice(fits);
        kept.dropped_bytes += rest.len() as u64;
    }
    Ok(kept)
}
