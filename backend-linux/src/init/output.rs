//! One output of a process on its way from the pipe into the ring.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use backend_linux::supervisor::RingWriter;
use rustix::io::{Errno, read};

/// How many blocks are read in a row before others get their turn.
const BLOCKS: usize = 16;
const BLOCK_BYTES: usize = 64 * 1024;

/// Where an output stands after it was drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// There may be more at once.
    More,
    /// There is nothing in the pipe now.
    Empty,
    /// The ring is full and somebody holds it.
    Full,
    /// There will never be more.
    Ended,
}

/// A pipe (or terminal) and its ring.
pub struct Output {
    source: Option<OwnedFd>,
    ring: RingWriter,
    full: bool,
}

impl Output {
    pub fn new(source: Option<OwnedFd>, name: &str) -> io::Result<Output> {
        let ring = RingWriter::new(name)?;
        if source.is_none() {
            ring.close();
        }
        Ok(Output { source, ring, full: false })
    }

    /// What to wait for, if there is any point.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().filter(|_| !self.full).map(AsFd::as_fd)
    }

    pub fn is_full(&self) -> bool {
        self.full
    }

    pub fn ring_fd(&self) -> io::Result<OwnedFd> {
        self.ring.as_fd().try_clone_to_owned()
    }

    /// Moves what is there. Says where it stands, and whether anything was moved.
    pub fn drain(&mut self, held: bool) -> (Drained, bool) {
        let mut block = [0; BLOCK_BYTES];
        let mut moved = false;
        for _ in 0..BLOCKS {
            let Some(source) = &self.source else { return (Drained::Ended, moved) };
            let room = self.ring.room_bytes(held).min(BLOCK_BYTES as u64) as usize;
            self.full = room == 0;
            self.ring.set_full(self.full);
            if self.full {
                // Looked at again, in case room was made between the look and the word that it is wanted.
                self.full = self.ring.room_bytes(held) == 0;
                return (if self.full { Drained::Full } else { Drained::More }, moved);
            }
            match read(source, &mut block[..room]) {
                // A ring that cannot take bytes (no memory) is at its end: the process must not be blocked by it.
                Ok(n) if n > 0 && self.ring.append(&block[..n]).is_ok() => moved = true,
                Err(Errno::AGAIN) => return (Drained::Empty, moved),
                Err(Errno::INTR) => {}
                // A terminal answers EIO once it has ended.
                Ok(_) | Err(_) => {
                    self.close();
                    return (Drained::Ended, true);
                }
            }
        }
        (Drained::More, moved)
    }

    /// Ends the stream, whatever may still be in the pipe.
    pub fn close(&mut self) {
        self.source = None;
        self.full = false;
        self.ring.set_full(false);
        self.ring.close();
    }
}
