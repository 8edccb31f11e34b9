//! Descriptors in tokio's event loop.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor.
pub fn async_fd(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays the same open descriptor for as long as the AsyncFd owns it, and AsyncFd gives out no
    // way to replace it but `into_inner`, which ends the registration first.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}
