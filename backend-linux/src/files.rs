//! Files in and out: the server passes bytes on, a child in the container does the rest.

use std::{io, os::fd::AsFd};

use bytes::Bytes;
use futures_util::StreamExt;
use protocol::{ByteStream, Error, FilesQuery, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
};

use crate::{
    process::{Error as SupervisorError, Supervisor},
    supervisor::Request,
};

const CHUNK_BYTES: usize = 64 * 1024;

fn failed(what: &str, cause: &dyn std::error::Error) -> Error {
    Error::Failed { message: format!("{what}: {}", Error::failed(cause)) }
}

/// Unpacks a tar in the container.
pub async fn stream_in(supervisor: &Supervisor, query: FilesQuery, mut tar: ByteStream) -> Result<()> {
    let error = |cause: &dyn std::error::Error| failed("error streaming in", cause);
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| error(&e))?;
    let request = Request::StreamIn { user: query.user, path: query.path };
    let unpacking = async {
        let done = supervisor.command_with(&request, &[reader.as_fd()]).await;
        drop(reader);
        done
    };
    let feeding = async {
        let mut writer = pipe::Sender::from_owned_fd(writer)?;
        while let Some(chunk) = tar.next().await {
            // The container's side has had enough, and says why by itself.
            if writer.write_all(&chunk?).await.is_err() {
                return Ok(());
            }
        }
        io::Result::Ok(())
    };
    tokio::pin!(unpacking, feeding);
    tokio::select! {
        done = &mut unpacking => done.map_err(|e| error(&e)),
        fed = &mut feeding => {
            // Also after a source that was cut short: its end closes the pipe, and the container's side finishes.
            let done = unpacking.await;
            fed.map_err(|e| error(&e))?;
            done.map_err(|e| error(&e))
        }
    }
}

/// Packs a tar in the container.
pub async fn stream_out(supervisor: &Supervisor, query: FilesQuery) -> Result<ByteStream> {
    let error = |cause: &dyn std::error::Error| failed("error streaming out", cause);
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| error(&e))?;
    let request = Request::StreamOut { user: query.user, path: query.path };
    let supervisor = supervisor.clone();
    let packing = tokio::spawn(async move {
        let done = supervisor.command_with(&request, &[writer.as_fd()]).await;
        drop(writer);
        done
    });
    let reader = pipe::Receiver::from_owned_fd(reader).map_err(|e| error(&e))?;
    let mut output = Packed { reader, packing: Some(packing) };
    // What goes wrong before the first byte is an error of the call.
    let first = match output.next().await {
        Some(first) => first.map_err(|e| error(&e))?,
        None => Bytes::new(),
    };
    let rest = futures_util::stream::unfold(output, |mut output| async move {
        let chunk = output.next().await?;
        Some((chunk, output))
    });
    Ok(Box::pin(futures_util::stream::iter([Ok(first)]).chain(rest)))
}

struct Packed {
    reader: pipe::Receiver,
    packing: Option<tokio::task::JoinHandle<std::result::Result<(), SupervisorError>>>,
}

impl Packed {
    /// The next bytes; at their end the word of the container's side on whether that was all.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut chunk = vec![0; CHUNK_BYTES];
        match self.reader.read(&mut chunk).await {
            Ok(0) => {}
            Ok(n) => {
                chunk.truncate(n);
                return Some(Ok(Bytes::from(chunk)));
            }
            Err(error) => return Some(Err(error)),
        }
        match self.packing.take()?.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(io::Error::other(error))),
            Err(error) => Some(Err(io::Error::other(error))),
        }
    }
}
