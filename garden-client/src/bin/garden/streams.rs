//! Standard input and output as streams.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use garden_client::ByteStream;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

const CHUNK_BYTES: usize = 64 << 10;

/// Standard input, read by a thread of its own: one that may wait for input for ever and that nobody waits for.
pub fn stdin() -> ByteStream {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let chunk = match io::stdin().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    Box::pin(stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }))
}

/// Which end of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    From(io::Error),
    To(io::Error),
}

/// Passes bytes on as they come.
pub async fn copy(mut from: ByteStream, mut to: impl AsyncWrite + Unpin) -> Result<(), CopyError> {
    while let Some(chunk) = from.next().await {
        let chunk = chunk.map_err(CopyError::From)?;
        to.write_all(&chunk).await.map_err(CopyError::To)?;
        to.flush().await.map_err(CopyError::To)?;
    }
    Ok(())
}
