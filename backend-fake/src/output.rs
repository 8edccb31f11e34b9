//! One output stream of a process: a ring of bytes with offsets, and its readers.
//!
//! While a reader makes progress a full ring makes the writer wait, as a pipe does. With no reader, or one that has
//! stalled for [`STALL`], the oldest bytes go, counted: a process that nobody reads never blocks.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use protocol::{Output, OutputReader};
use tokio::{sync::Notify, time::Instant};

use crate::sync::lock;

/// How long a reader may leave a full ring untouched before it loses bytes.
const STALL: Duration = Duration::from_secs(5);

/// The most that one chunk holds.
const CHUNK_BYTES: usize = 64 * 1024;

pub(crate) struct Ring {
    capacity_bytes: usize,
    /// Bytes that went unread, of all rings of the backend.
    dropped_bytes: Arc<AtomicU64>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    held: VecDeque<u8>,
    /// Offset of the first byte held.
    start: u64,
    ended: bool,
    readers: BTreeMap<u64, Mark>,
    next_reader: u64,
    /// Where the last reader stopped.
    resume: u64,
}

/// How far a reader has come.
struct Mark {
    passed_on: u64,
    /// Since when it has had something to read.
    progressed_at: Instant,
}

impl State {
    fn end(&self) -> u64 {
        self.start + self.held.len() as u64
    }

    /// Lets the oldest bytes go; answers with how many of them somebody still wanted.
    fn evict(&mut self, new_start: u64) -> u64 {
        let read = self.readers.values().map(|mark| mark.passed_on).min().unwrap_or(self.resume);
        let unread = new_start.saturating_sub(read.max(self.start));
        self.held.drain(..(new_start - self.start) as usize);
        self.start = new_start;
        unread
    }
}

impl Ring {
    pub fn new(capacity_bytes: usize, dropped_bytes: Arc<AtomicU64>) -> Arc<Ring> {
        Arc::new(Ring {
            capacity_bytes: capacity_bytes.max(1),
            dropped_bytes,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Appends all of `data`, waiting for readers as long as they move.
    pub async fn write(&self, mut data: &[u8]) {
        while !data.is_empty() {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(stalled_at) = self.write_some(&mut data) {
                // Either a reader moved or it has stalled: look again.
                let _ = tokio::time::timeout_at(stalled_at, changed).await;
            }
        }
    }

    /// Appends what fits; if nothing does, answers with the time from when the slowest reader counts as stalled.
    fn write_some(&self, data: &mut &[u8]) -> Option<Instant> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.held.len() == self.capacity_bytes {
            let moving = state.readers.values().filter(|mark| mark.progressed_at + STALL > now);
            let slowest = moving.min_by_key(|mark| mark.passed_on);
            let removable = slowest.map_or(state.end(), |mark| mark.passed_on);
            let wanted = state.start + data.len().min(self.capacity_bytes) as u64;
            let new_start = wanted.min(removable);
            if new_start <= state.start {
                return slowest.map(|mark| mark.progressed_at + STALL);
            }
            let unread = state.evict(new_start);
            self.dropped_bytes.fetch_add(unread, Ordering::Relaxed);
        }
        let end = state.end();
        for mark in state.readers.values_mut().filter(|mark| mark.passed_on == end) {
            mark.progressed_at = now;
        }
        let (fits, rest) = data.split_at(data.len().min(self.capacity_bytes - state.held.len()));
        state.held.extend(fits);
        *data = rest;
        drop(state);
        self.changed.notify_waiters();
        None
    }

    /// Says that nothing more comes.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_waiters();
    }

    /// The output as the client that started the process sees it.
    pub fn from_start(self: &Arc<Self>) -> Output {
        self.output_at(0)
    }

    /// The output for a client that attaches now: from where the last reader stopped, or, while others read, from
    /// now on.
    pub fn from_now(self: &Arc<Self>) -> Output {
        let state = lock(&self.state);
        let position = if state.readers.is_empty() { state.resume } else { state.end() };
        drop(state);
        self.output_at(position)
    }

    fn output_at(self: &Arc<Self>, position: u64) -> Output {
        let ring = self.clone();
        Output::with_progress(move || ring.open(position))
    }

    fn open(self: &Arc<Self>, position: u64) -> OutputReader {
        let mut state = lock(&self.state);
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, Mark { passed_on: position, progressed_at: Instant::now() });
        drop(state);
        let reader = Reader { ring: self.clone(), id, position };
        let stream = futures_util::stream::unfold(reader, |mut reader| async move {
            reader.next().await.map(|chunk| (Ok(chunk), reader))
        });
        let ring = self.clone();
        OutputReader::new(Box::pin(stream), move |bytes| {
            ring.passed_on(id, |mark| mark.passed_on += bytes as u64);
        })
    }

    /// Notes that a reader's client has taken something.
    fn passed_on(&self, id: u64, change: impl FnOnce(&mut Mark)) {
        if let Some(mark) = lock(&self.state).readers.get_mut(&id) {
            change(mark);
            mark.progressed_at = Instant::now();
        }
        self.changed.notify_waiters();
    }
}

struct Reader {
    ring: Arc<Ring>,
    id: u64,
    position: u64,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        let ring = self.ring.clone();
        // Asked again: everything read so far has reached its client.
        ring.passed_on(self.id, |mark| mark.passed_on = self.position);
        loop {
            let mut changed = pin!(ring.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = lock(&ring.state);
                self.position = self.position.max(state.start);
                let at = (self.position - state.start) as usize;
                let until = state.held.len().min(at + CHUNK_BYTES);
                let chunk: Bytes = state.held.range(at.min(until)..until).copied().collect();
                if !chunk.is_empty() {
                    if let Some(mark) = state.readers.get_mut(&self.id) {
                        // Later than it was, if a stalled reader lost some.
                        mark.passed_on = self.position;
                    }
                    self.position += chunk.len() as u64;
                    return Some(chunk);
                }
                if state.ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = lock(&self.ring.state);
        if let Some(mark) = state.readers.remove(&self.id) {
            state.resume = mark.passed_on;
        }
        drop(state);
        self.ring.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn ring(capacity_bytes: usize) -> (Arc<Ring>, Arc<AtomicU64>) {
        let dropped = Arc::new(AtomicU64::new(0));
        (Ring::new(capacity_bytes, dropped.clone()), dropped)
    }

    async fn rest(stream: protocol::ByteStream) -> Vec<u8> {
        let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
        chunks.concat()
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_reader_the_oldest_bytes_go_and_are_counted() {
        let (ring, dropped) = ring(4);
        ring.write(b"abcdef").await;
        ring.end();
        assert_eq!(rest(ring.from_start().open()).await, b"cdef");
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_moves_makes_the_writer_wait_and_loses_nothing() {
        let (ring, dropped) = ring(4);
        let mut reader = ring.from_start().open();
        let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let writer = tokio::spawn({
            let (ring, data) = (ring.clone(), data.clone());
            async move {
                ring.write(&data).await;
                ring.end();
            }
        });
        let mut read = Vec::new();
        while let Some(chunk) = reader.next().await {
            read.extend(chunk.unwrap());
            tokio::time::sleep(STALL / 2).await;
        }
        writer.await.unwrap();
        assert_eq!(read, data);
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stalls_holds_the_writer_for_five_seconds_only() {
        let (ring, dropped) = ring(4);
        let mut reader = ring.from_start().open();
        ring.write(b"abcd").await;
        assert_eq!(reader.next().await.unwrap().unwrap(), "abcd");
        let begun = Instant::now();
        ring.write(b"ef").await;
        assert_eq!(begun.elapsed(), STALL);
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_passes_a_chunk_on_slowly_does_not_stall() {
        let (ring, dropped) = ring(4);
        let mut reader = ring.from_start().reader();
        ring.write(b"abcd").await;
        assert_eq!(reader.next().await.unwrap().unwrap(), "abcd");
        let writer = tokio::spawn({
            let ring = ring.clone();
            async move {
                ring.write(b"efgh").await;
                ring.end();
            }
        });
        for _ in 0..4 {
            tokio::time::sleep(STALL * 4 / 5).await;
            reader.passed_on(1);
        }
        let rest: Vec<_> = reader.map(|chunk| chunk.unwrap()).collect().await;
        assert_eq!(rest.concat(), b"efgh");
        writer.await.unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attached_client_begins_where_the_last_one_stopped() {
        let (ring, _) = ring(100);
        ring.write(b"one ").await;
        let mut first = ring.from_start().open();
        assert_eq!(first.next().await.unwrap().unwrap(), "one ");
        assert!(first.next().now_or_never().is_none());
        ring.write(b"two ").await;
        let beside = ring.from_now();
        drop(first);
        let after = ring.from_now();
        ring.write(b"three").await;
        ring.end();
        assert_eq!(rest(beside.open()).await, b"three");
        assert_eq!(rest(after.open()).await, b"two three");
        assert_eq!(rest(ring.from_start().open()).await, b"one two three");
    }
}
