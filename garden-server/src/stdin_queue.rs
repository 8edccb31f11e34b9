//! Input on its way from a client to a process.
//!
//! What the client sends is read before the process takes it, up to a bound: as long as there is room for more, the
//! signals behind it are seen.

use std::sync::Arc;

use bytes::Bytes;
use protocol::{ProcessControl, extension::INPUT_MESSAGE_COST_BYTES};
use tokio::sync::{Semaphore, mpsc, watch};

/// How much waits for the process at most.
pub(crate) const STDIN_QUEUE_BYTES: u32 = 1024 * 1024;

/// Passes the client's input on. Ends with the client's, or when the process takes no more.
pub(crate) async fn write_stdin(mut pieces: StdinPieces, control: &dyn ProcessControl) {
    let mut open = true;
    while let Some(piece) = pieces.next().await {
        let written = match piece {
            _ if !open => Ok(()),
            Piece::Data(data) => control.write_stdin(data).await,
            Piece::End => {
                open = false;
                control.close_stdin().await
            }
        };
        if let Err(error) = written {
            tracing::debug!(%error, "cannot write to a process's input");
            open = false;
        }
    }
}

/// A piece of input.
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// The writing end of a queue that is bounded in bytes.
pub(crate) struct StdinQueue {
    room: Arc<Semaphore>,
    sender: mpsc::UnboundedSender<(Piece, u32)>,
}

/// The reading end.
pub(crate) struct StdinPieces {
    room: Arc<Semaphore>,
    receiver: mpsc::UnboundedReceiver<(Piece, u32)>,
    /// What the piece that was taken last occupies.
    taken: u32,
    /// What the pieces occupied that are written, all together.
    freed: watch::Sender<u64>,
}

impl StdinQueue {
    pub(crate) fn new() -> (StdinQueue, StdinPieces) {
        let room = Arc::new(Semaphore::new(STDIN_QUEUE_BYTES as usize));
        let (sender, receiver) = mpsc::unbounded_channel();
        (
            StdinQueue { room: room.clone(), sender },
            StdinPieces { room, receiver, taken: 0, freed: watch::Sender::new(0) },
        )
    }

    /// Waits for room. Afterwards the piece is dropped if nobody takes pieces any more.
    pub(crate) async fn push(&self, piece: Piece) {
        let data_bytes = match &piece {
            Piece::Data(data) => u32::try_from(data.len()).unwrap_or(u32::MAX),
            Piece::End => 0,
        };
        let cost = data_bytes.saturating_add(INPUT_MESSAGE_COST_BYTES).min(STDIN_QUEUE_BYTES);
        if let Ok(room) = self.room.acquire_many(cost).await {
            room.forget();
            let piece = match piece {
                // A slice would keep all of the buffer that it was read into.
                Piece::Data(data) => Piece::Data(Bytes::copy_from_slice(&data)),
                Piece::End => Piece::End,
            };
            let _ = self.sender.send((piece, cost));
        }
    }
}

impl StdinPieces {
    /// Tells how much room there was made, all together, as pieces were written.
    pub(crate) fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    async fn next(&mut self) -> Option<Piece> {
        // The piece before has been written.
        self.room.add_permits(self.taken as usize);
        let taken = u64::from(std::mem::take(&mut self.taken));
        self.freed.send_modify(|freed| *freed += taken);
        let (piece, cost) = self.receiver.recv().await?;
        self.taken = cost;
        Some(piece)
    }
}

impl Drop for StdinPieces {
    fn drop(&mut self) {
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_keeps_nothing_of_the_buffer_that_it_was_read_into() {
        let (queue, mut pieces) = StdinQueue::new();
        let read = Bytes::from(vec![b'x'; 4096]);
        queue.push(Piece::Data(read.slice(1..3))).await;
        assert!(read.is_unique());
        assert!(matches!(pieces.next().await, Some(Piece::Data(data)) if data == "xx"));
    }
}
