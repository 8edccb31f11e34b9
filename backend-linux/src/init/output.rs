//! One output of a process on its way from the pipe into the ring.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use backend_linux::supervisor::RingWriter;
use rustix::{
    io::{Errno, ioctl_fionread, read},
    pipe::fcntl_setpipe_size,
};

/// How many blocks are moved in a row before others get their turn.
const BLOCKS: usize = 4;
/// What a pipe holds at once, where the system allows that much: the less often the process and the supervisor wait
/// for each other, the faster output flows.
const PIPE_BYTES: usize = 256 * 1024;
/// What is read of a terminal at once.
const BLOCK_BYTES: usize = 4096;

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
    source: Option<Source>,
    ring: RingWriter,
    full: bool,
}

/// Where a process writes to.
pub enum Source {
    Pipe(OwnedFd),
    Terminal(OwnedFd),
}

impl Source {
    /// The reading end of a pipe, which is made as large as is good for it.
    pub fn pipe(pipe: OwnedFd) -> Source {
        // A smaller one is slower, and as good.
        let _ = fcntl_setpipe_size(&pipe, PIPE_BYTES);
        Source::Pipe(pipe)
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Pipe(fd) | Source::Terminal(fd) => fd.as_fd(),
        }
    }
}

impl Output {
    pub fn new(source: Option<Source>, name: &str) -> io::Result<Output> {
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
        self.ring.keep_to_limit(held);
        let mut moved = false;
        for _ in 0..BLOCKS {
            let Some(source) = &self.source else { return (Drained::Ended, moved) };
            let room = self.ring.room_bytes(held);
            self.full = room == 0;
            self.ring.set_full(self.full);
            if self.full {
                // Looked at again, in case room was made between the look and the word that it is wanted.
                self.full = self.ring.room_bytes(held) == 0;
                return (if self.full { Drained::Full } else { Drained::More }, moved);
            }
            match move_some(source, &mut self.ring, room) {
                Ok(true) => moved = true,
                Err(Errno::AGAIN) => return (Drained::Empty, moved),
                Err(Errno::INTR) => {}
                // The end. A terminal answers EIO once it has ended. A ring that cannot take bytes (no memory) is at
                // its end too: the process must not be blocked by it.
                Ok(false) | Err(_) => {
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

/// Moves what is there, as far as there is room. False at the end.
fn move_some(source: &Source, ring: &mut RingWriter, room: u64) -> Result<bool, Errno> {
    let in_ring =
        |moved: io::Result<()>| moved.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    if let Source::Pipe(pipe) = source {
        let there = ioctl_fionread(pipe)?;
        if there > 0 {
            in_ring(ring.append_from(pipe, there.min(room)))?;
            return Ok(true);
        }
    }
    // Empty or at its end: only a read can tell.
    let mut block = [0; BLOCK_BYTES];
    let read = read(source, &mut block[..room.min(BLOCK_BYTES as u64) as usize])?;
    in_ring(ring.append(&block[..read]))?;
    Ok(read > 0)
}
