//! The ring that holds what a process has written to one of its outputs.
//!
//! A memfd: one page of counters, then the bytes. The supervisor writes, the server reads by offset from the
//! process's first byte, and both survive the other. Nothing is ever removed: the writer overwrites the oldest bytes,
//! which a reader notices by the counters. While a reader holds the ring, the writer stops instead when it is full.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

use crate::sys::SharedWords;

/// How many bytes a ring holds. Memory is taken as it is used.
pub const RING_CAPACITY_BYTES: u64 = 16 * 1024 * 1024;
const DATA_AT: u64 = 4096;

/// Indexes of the counters. The supervisor writes the first five, the server the others.
mod word {
    pub const WRITTEN: usize = 0;
    pub const OLDEST: usize = 1;
    pub const CLOSED: usize = 2;
    pub const DROPPED: usize = 3;
    pub const FULL: usize = 4;
    pub const DELIVERED: usize = 8;
    pub const HOLD: usize = 9;
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
}

impl RingWriter {
    /// A new, empty ring.
    pub fn new(name: &str) -> io::Result<RingWriter> {
        let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, DATA_AT + RING_CAPACITY_BYTES)?;
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let words = SharedWords::map(&memfd)?;
        words.store(word::HOLD, NO_HOLD);
        Ok(RingWriter { memfd, words, written: 0, oldest: 0 })
    }

    /// How many bytes may be written now. `held` is false when nobody who could hold the ring is there any more.
    pub fn room_bytes(&self, held: bool) -> u64 {
        let hold = if held { self.words.load(word::HOLD) } else { NO_HOLD };
        if hold >= MAX_POSITION {
            return RING_CAPACITY_BYTES;
        }
        // A position outside of what the ring holds cannot be held.
        let hold = hold.clamp(self.oldest, self.written);
        (hold + RING_CAPACITY_BYTES).saturating_sub(self.written)
    }

    /// Says whether the writer waits for room.
    pub fn set_full(&self, full: bool) {
        self.words.store(word::FULL, u64::from(full));
    }

    /// Adds bytes, at most [`room_bytes`](Self::room_bytes) of them, over the oldest ones where there is no other
    /// room.
    pub fn append(&mut self, data: &[u8]) -> io::Result<()> {
        let end = self.written + data.len() as u64;
        let oldest = end.saturating_sub(RING_CAPACITY_BYTES).max(self.oldest);
        if oldest > self.oldest {
            let delivered = self.words.load(word::DELIVERED).min(self.written);
            let lost = oldest.saturating_sub(delivered.max(self.oldest));
            self.words.store(word::DROPPED, self.words.load(word::DROPPED) + lost);
            // Before the bytes go, so that a reader that sees it unchanged afterwards has read what it asked for.
            self.words.store(word::OLDEST, oldest);
            self.oldest = oldest;
        }
        let at = self.written % RING_CAPACITY_BYTES;
        let (first, second) = data.split_at(data.len().min((RING_CAPACITY_BYTES - at) as usize));
        write_all_at(self.memfd.as_fd(), first, DATA_AT + at)?;
        write_all_at(self.memfd.as_fd(), second, DATA_AT)?;
        self.written = end;
        self.words.store(word::WRITTEN, end);
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
        bytes: Vec<u8>,
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
        if position > self.words.load(word::DELIVERED) {
            self.words.store(word::DELIVERED, position);
        }
    }

    /// Keeps the writer from overwriting what lies behind `position`; none: lets it.
    pub fn hold(&self, position: Option<u64>) {
        self.words.store(word::HOLD, position.unwrap_or(NO_HOLD));
    }

    /// Reads at most `limit` bytes at `position`.
    pub fn read(&self, position: u64, limit: usize) -> io::Result<Chunk> {
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
            let mut bytes = vec![0; length];
            let read = rustix::io::pread(&self.memfd, &mut bytes, DATA_AT + at)?;
            bytes.truncate(read);
            if self.words.load(word::OLDEST) <= start && read > 0 {
                return Ok(Chunk::Data { position: start, bytes });
            }
            // Overwritten while it was read: again, from where the ring begins now.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> (RingWriter, RingReader) {
        let writer = RingWriter::new("test").unwrap();
        let reader = RingReader::new(writer.memfd.try_clone().unwrap()).unwrap();
        (writer, reader)
    }

    fn data(position: u64, bytes: &[u8]) -> Chunk {
        Chunk::Data { position, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_is_written_is_read_by_offset_and_then_the_end() {
        let (mut writer, reader) = ring();
        assert_eq!(reader.read(0, 10).unwrap(), Chunk::Empty);
        writer.append(b"hello world").unwrap();
        assert_eq!(reader.read(0, 5).unwrap(), data(0, b"hello"));
        assert_eq!(reader.read(5, 100).unwrap(), data(5, b" world"));
        assert_eq!(reader.read(11, 100).unwrap(), Chunk::Empty);
        writer.close();
        assert_eq!(reader.read(11, 100).unwrap(), Chunk::End);
        assert_eq!(reader.read(0, 5).unwrap(), data(0, b"hello"));
    }

    #[test]
    fn without_a_hold_the_oldest_bytes_go_and_are_counted() {
        let (mut writer, reader) = ring();
        let block = vec![7; RING_CAPACITY_BYTES as usize];
        writer.append(&block).unwrap();
        reader.set_delivered(3);
        writer.append(b"12345").unwrap();
        assert_eq!(reader.dropped(), 2, "three of the five had been delivered");
        assert!(matches!(reader.read(0, 1).unwrap(), Chunk::Data { position: 5, .. }));
        assert_eq!(reader.read(RING_CAPACITY_BYTES, 9).unwrap(), data(RING_CAPACITY_BYTES, b"12345"));
    }

    #[test]
    fn a_hold_leaves_room_only_behind_it() {
        let (mut writer, reader) = ring();
        writer.append(&[1; 1000]).unwrap();
        reader.hold(Some(400));
        assert_eq!(writer.room_bytes(true), RING_CAPACITY_BYTES - 600);
        assert_eq!(writer.room_bytes(false), RING_CAPACITY_BYTES);
        reader.hold(Some(u64::MAX - 5));
        assert_eq!(writer.room_bytes(true), RING_CAPACITY_BYTES, "a senseless hold is none");
        reader.hold(Some(1 << 40));
        assert_eq!(writer.room_bytes(true), RING_CAPACITY_BYTES, "nor is one of the future");
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        let memfd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memfd, 1 << 20).unwrap();
        assert!(RingReader::new(memfd).is_err());
    }

    #[test]
    fn a_file_that_is_too_small_is_refused() {
        let memfd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memfd, DATA_AT + RING_CAPACITY_BYTES - 1).unwrap();
        fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
        assert!(RingReader::new(memfd).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_interleaving_reads_what_was_written(
            steps in proptest::collection::vec((0usize..200_000, 1usize..300_000), 1..60)
        ) {
            let (mut writer, reader) = ring();
            let byte_at = |position: u64| (position % 251) as u8;
            let (mut written, mut position) = (0u64, 0u64);
            for (write, limit) in steps {
                let block: Vec<u8> = (0..write as u64).map(|i| byte_at(written + i)).collect();
                writer.append(&block).unwrap();
                written += write as u64;
                if let Chunk::Data { position: start, bytes } = reader.read(position, limit).unwrap() {
                    proptest::prop_assert!(start >= position);
                    proptest::prop_assert!(bytes.iter().enumerate().all(|(i, b)| *b == byte_at(start + i as u64)));
                    position = start + bytes.len() as u64;
                }
            }
        }
    }
}
