//! Standard input of a process: a pipe that holds one piece.

use std::{future::poll_fn, sync::Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::sync::lock;

/// The most that one piece holds, as a pipe does.
const PIECE_BYTES: usize = 64 * 1024;

pub(crate) struct Stdin {
    /// None once it has been closed.
    sender: Mutex<Option<mpsc::Sender<Bytes>>>,
    receiver: Mutex<mpsc::Receiver<Bytes>>,
}

impl Stdin {
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Stdin { sender: Mutex::new(Some(sender)), receiver: Mutex::new(receiver) }
    }

    /// Writes all of `data`, waiting for the process to read. Without effect after the end of either side.
    pub async fn write(&self, mut data: Bytes) {
        let Some(sender) = lock(&self.sender).clone() else { return };
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_BYTES));
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    }

    /// Ends the input, after the writes that still wait.
    pub fn close(&self) {
        lock(&self.sender).take();
    }

    /// The next piece; none at the end.
    pub async fn read(&self) -> Option<Bytes> {
        poll_fn(|context| lock(&self.receiver).poll_recv(context)).await
    }

    /// Says that the process reads no more.
    pub fn abandon(&self) {
        let mut receiver = lock(&self.receiver);
        receiver.close();
        while receiver.try_recv().is_ok() {}
    }
}
