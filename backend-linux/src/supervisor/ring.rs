//! The ring that holds what a process has written to one of its outputs.
//!
//! A memfd: one page of counters, then the bytes. The supervisor writes, the server reads by offset from the
//! process's first byte, and both survive the other. Nothing is ever removed: the writer overwrites the oldest bytes,
//! which a reader notices by the counters. While a reader holds the ring, the writer stops instead when it is full.
//!
//! The server may limit a ring to less than its capacity. Then the pages of the oldest bytes go back to the system.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytes::{Bytes, BytesMut};
use rustix::{
    fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fstat, ftruncate, memfd_create},
    pipe::{SpliceFlags, splice},
};

use crate::sys::SharedWords;

/// How many bytes a ring holds. Memory is taken as it is used.
pub const RING_CAPACITY_BYTES: u64 = 16 * 1024 * 1024;
/// How little it can be limited to.
pub const MIN_RING_BYTES: u64 = PAGE_BYTES;
const PAGE_BYTES: u64 = 4096;
const DATA_AT: u64 = PAGE_BYTES;

/// Indexes of the counters. The supervisor writes the first five, the server the others.
mod word {
    pub const WRITTEN: usize = 0;
    pub const OLDEST: usize = 1;
    pub const CLOSED: usize = 2;
    pub const DROPPED: usize = 3;
    pub const FULL: usize = 4;
    pub const DELIVERED: usize = 8;
    pub const HOLD: usize = 9;
    /// How many bytes the ring may hold. Zero: as many as it can.
    pub const LIMIT: usize = 10;
}

/// Nobody holds the ring.
const NO_HOLD: u64 = u64::MAX;

/// Positions are kept below this, so that no arithmetic on what the other side wrote can overflow.
const MAX_POSITION: u64 = 1 << 62;

/// The supervisor's side.
pub struct RingWriter {
    memfd: OwnedFd,
    words: SharedWords,
    written: u64,
    oldest: u64,
    /// No page lies wholly before this.
    released: u64,
    /// How many bytes it may hold: what the server said at the last look. It may say otherwise at any time, also
    /// between the answer of [`room_bytes`](Self::room_bytes) and the bytes that fill that room.
    limit_bytes: u64,
}

impl RingWriter {
    /// A new, empty ring.
    pub fn new(name: &str) -> io::Result<RingWriter> {
        let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, DATA_AT + RING_CAPACITY_BYTES)?;
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let words = SharedWords::map(&memfd)?;
        words.store(word::HOLD, NO_HOLD);
        let limit_bytes = RING_CAPACITY_BYTES;
        Ok(RingWriter { memfd, words, written: 0, oldest: 0, released: 0, limit_bytes })
    }

    fn look_at_limit(&mut self) {
        self.limit_bytes = match self.words.load(word::LIMIT) {
            0 => RING_CAPACITY_BYTES,
            limit => limit.clamp(MIN_RING_BYTES, RING_CAPACITY_BYTES),
        };
    }

    /// What somebody still wants the bytes from; none: nobody does. `held` is false when nobody who could hold the
    /// ring is there any more.
    fn hold(&self, held: bool) -> Option<u64> {
        let hold = if held { self.words.load(word::HOLD) } else { NO_HOLD };
        // A position outside of what the ring holds cannot be held.
        (hold < MAX_POSITION).then(|| hold.max(self.oldest).min(self.written))
    }

    /// How many bytes may be written now, and still may when the limit changes afterwards. `held` is false when nobody
    /// who could hold the ring is there any more.
    pub fn room_bytes(&mut self, held: bool) -> u64 {
        self.look_at_limit();
        let limit = self.limit_bytes;
        self.hold(held).map_or(limit, |hold| (hold + limit).saturating_sub(self.written))
    }

    /// Says whether the writer waits for room.
    pub fn set_full(&self, full: bool) {
        self.words.store(word::FULL, u64::from(full));
    }

    /// Lets go of the oldest bytes that are more than the limit allows and that nobody holds.
    pub fn keep_to_limit(&mut self, held: bool) {
        self.look_at_limit();
        let within = self.written.saturating_sub(self.limit_bytes);
        self.forget_before(self.hold(held).map_or(within, |hold| within.min(hold)));
    }

    fn forget_before(&mut self, oldest: u64) {
        if oldest > self.oldest {
            let delivered = self.words.load(word::DELIVERED).min(self.written);
            let lost = oldest.saturating_sub(delivered.max(self.oldest));
            self.words.store(word::DROPPED, self.words.load(word::DROPPED) + lost);
            // Before the bytes go, so that a reader that sees it unchanged afterwards has read what it asked for.
            self.words.store(word::OLDEST, oldest);
            self.oldest = oldest;
        }
        if self.limit_bytes < RING_CAPACITY_BYTES {
            self.release_pages();
        }
    }

    /// Gives the pages before the oldest byte back to the system.
    fn release_pages(&mut self) {
        let end = self.oldest / PAGE_BYTES * PAGE_BYTES;
        // What is a whole round older lies where newer bytes are.
        let round_ago = self.written.saturating_sub(RING_CAPACITY_BYTES).next_multiple_of(PAGE_BYTES);
        let mut from = self.released.max(round_ago);
        while from < end {
            let at = from % RING_CAPACITY_BYTES;
            let length = (end - from).min(RING_CAPACITY_BYTES - at);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // It takes memory away only: without it the ring is right, and larger.
            let _ = fallocate(&self.memfd, flags, DATA_AT + at, length);
            from += length;
        }
        self.released = self.released.max(end);
    }

    /// Makes room for `length` bytes, at most [`room_bytes`](Self::room_bytes), at the expense of the oldest ones
    /// where there is no other.
    fn reserve(&mut self, length: u64) {
        self.forget_before((self.written + length).saturating_sub(self.limit_bytes));
    }

    fn commit(&mut self, length: u64) {
        self.written += length;
        self.words.store(word::WRITTEN, self.written);
    }

    /// Adds bytes, at most [`room_bytes`](Self::room_bytes) of them, over the oldest ones where there is no other
    /// room.
    pub fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.reserve(data.len() as u64);
        let at = self.written % RING_CAPACITY_BYTES;
        let (first, second) = data.split_at(data.len().min((RING_CAPACITY_BYTES - at) as usize));
        write_all_at(self.memfd.as_fd(), first, DATA_AT + at)?;
        write_all_at(self.memfd.as_fd(), second, DATA_AT)?;
        self.commit(data.len() as u64);
        Ok(())
    }

    /// Adds `length` bytes that are in `pipe`, at most [`room_bytes`](Self::room_bytes) of them, as
    /// [`append`](Self::append) does, but without a buffer between. Fewer at the ring's seam.
    pub fn append_from(&mut self, pipe: impl AsFd, length: u64) -> io::Result<()> {
        let at = self.written % RING_CAPACITY_BYTES;
        let length = length.min(RING_CAPACITY_BYTES - at);
        self.reserve(length);
        let mut offset = DATA_AT + at;
        let moved =
            splice(pipe, None, &self.memfd, Some(&mut offset), length as usize, SpliceFlags::NONBLOCK)?;
        self.commit(moved as u64);
        Ok(())
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        self.words.store(word::CLOSED, 1);
    }
}

impl AsFd for RingWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

fn write_all_at(file: BorrowedFd<'_>, mut data: &[u8], mut at: u64) -> io::Result<()> {
    while !data.is_empty() {
        let n = rustix::io::pwrite(file, data, at)?;
        data = &data[n..];
        at += n as u64;
    }
    Ok(())
}

/// What a reader finds at a position.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// These bytes, which begin at `position` (later than asked for if older ones are gone).
    Data {
        /// Where they begin.
        position: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Nothing yet.
    Empty,
    /// Nothing, and nothing will come.
    End,
}

/// The server's side.
pub struct RingReader {
    memfd: OwnedFd,
    words: SharedWords,
}

impl RingReader {
    /// Takes a ring that a supervisor sent. Refused unless it has all of its bytes: [`read`](Self::read) would look
    /// for missing ones without end.
    pub fn new(memfd: OwnedFd) -> io::Result<RingReader> {
        // Before its size: from then on it cannot shrink.
        let words = SharedWords::map(&memfd)?;
        if u64::try_from(fstat(&memfd)?.st_size).unwrap_or(0) < DATA_AT + RING_CAPACITY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a file that is too small for a ring"));
        }
        Ok(RingReader { memfd, words })
    }

    /// How many bytes were ever written.
    pub fn written(&self) -> u64 {
        self.words.load(word::WRITTEN).min(MAX_POSITION)
    }

    /// How many bytes it holds now.
    pub fn held_bytes(&self) -> u64 {
        self.written().saturating_sub(self.words.load(word::OLDEST)).min(RING_CAPACITY_BYTES)
    }

    /// Whether nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.words.load(word::CLOSED) != 0
    }

    /// How many bytes were overwritten before any client got them.
    pub fn dropped(&self) -> u64 {
        self.words.load(word::DROPPED)
    }

    /// Whether the writer waits for room.
    pub fn is_full(&self) -> bool {
        self.words.load(word::FULL) != 0
    }

    /// How far the furthest client ever got.
    pub fn delivered(&self) -> u64 {
        self.words.load(word::DELIVERED).min(self.written())
    }

    /// Says that a client has everything up to `position`.
    pub fn set_delivered(&self, position: u64) {
        // At once: of two readers that say it together, the further one counts.
        self.words.raise(word::DELIVERED, position);
    }

    /// Keeps the writer from overwriting what lies behind `position`; none: lets it.
    pub fn hold(&self, position: Option<u64>) {
        self.words.store(word::HOLD, position.unwrap_or(NO_HOLD));
    }

    /// Sets how many bytes it may hold. The writer keeps to it from its next look on.
    pub fn set_limit_bytes(&self, limit: u64) {
        self.words.store(word::LIMIT, limit);
    }

    /// Reads at most `limit` bytes at `position`, into `buffer`'s memory if the chunk before is gone.
    pub fn read(&self, position: u64, limit: usize, buffer: &mut BytesMut) -> io::Result<Chunk> {
        loop {
            // In this order: closed and then empty is the end, empty and then closed may have missed the last bytes.
            let closed = self.is_closed();
            let written = self.written();
            let start = position.max(self.words.load(word::OLDEST));
            if start >= written {
                return Ok(if closed { Chunk::End } else { Chunk::Empty });
            }
            let at = start % RING_CAPACITY_BYTES;
            let length = (written - start).min(RING_CAPACITY_BYTES - at).min(limit as u64) as usize;
            buffer.clear();
            buffer.resize(length, 0);
            let read = rustix::io::pread(&self.memfd, &mut buffer[..], DATA_AT + at)?;
            buffer.truncate(read);
            if self.words.load(word::OLDEST) <= start && read > 0 {
                return Ok(Chunk::Data { position: start, bytes: buffer.split().freeze() });
            }
            // Overwritten while it was read: again, from where the ring begins now.
        }
    }
}

#[cfg(test)]
mod tests;
