//! Standard input and output as streams.

use std::io;

use futures_util::StreamExt;
use garden_client::ByteStream;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Standard input. The runtime's thread that reads it may wait for ever, and nobody waits for that.
pub fn stdin() -> ByteStream {
    garden_client::io::stream(tokio::io::stdin())
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
