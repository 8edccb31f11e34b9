//! The raw stream of one of a process's outputs.

use std::time::Duration;

use futures_util::StreamExt;
use protocol::OutputReader;

use crate::connection::Hijacked;

/// How long a client may take to take the last bytes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Writes the output to its end, and tells the backend at once what is in the kernel: should this server be killed, the
/// next one goes on behind that. What the client sends is read and forgotten.
pub(crate) async fn serve(hijacked: Hijacked, mut chunks: OutputReader) {
    let Hijacked { socket, mut shutdown, .. } = hijacked;
    let passed_on = async {
        while let Some(chunk) = chunks.next().await {
            let written = match chunk {
                Ok(chunk) => socket.write_all_counted(&chunk, |bytes| chunks.passed_on(bytes)).await,
                Err(error) => {
                    tracing::warn!(%error, "a process's output was cut short");
                    return false;
                }
            };
            if let Err(error) = written {
                tracing::debug!(%error, "a reader of a process's output left");
                return false;
            }
        }
        true
    };
    let whole = tokio::select! {
        biased;
        () = shutdown.requested() => false,
        whole = passed_on => whole,
        () = socket.discard_input() => false,
    };
    if whole {
        tokio::select! {
            () = shutdown.requested() => {}
            () = socket.close(CLOSE_PATIENCE) => {}
        }
    }
}
