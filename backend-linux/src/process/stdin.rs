//! A process's standard input.

use std::{io, os::fd::OwnedFd};

use bytes::Bytes;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Mutex,
};

use crate::sys::async_fd;

/// The server's end of the pipe, or of the terminal. The supervisor has one of its own, so that input does not end
/// when the server does.
pub struct Stdin {
    pipe: Mutex<Option<AsyncFd<OwnedFd>>>,
}

impl Stdin {
    pub fn new(pipe: Option<OwnedFd>) -> io::Result<Stdin> {
        let pipe = pipe.map(|pipe| async_fd(pipe, Interest::WRITABLE)).transpose()?;
        Ok(Stdin { pipe: Mutex::new(pipe) })
    }

    /// Writes all of it, waiting as long as nobody reads. What nobody will ever read is dropped.
    pub async fn write(&self, data: Bytes) {
        // Held while waiting: it is what keeps the bytes of two writers from mixing.
        let mut pipe = self.pipe.lock().await;
        let mut rest = &data[..];
        while let (Some(open), false) = (pipe.as_ref(), rest.is_empty()) {
            let Ok(mut ready) = open.writable().await else { break };
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), rest)?)) {
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // The process has closed its input, or is gone.
                Ok(Err(_)) => *pipe = None,
                Err(_would_block) => {}
            }
        }
    }

    /// Lets go of the server's end, after what is being written.
    pub async fn close(&self) {
        *self.pipe.lock().await = None;
    }

    /// Lets go of the server's end of a process that is gone, unless a writer is just finding that out.
    pub fn drop_if_idle(&self) {
        if let Ok(mut pipe) = self.pipe.try_lock() {
            *pipe = None;
        }
    }
}
