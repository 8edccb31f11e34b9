//! Readers of a process's output: each at its own pace, none in the way of another.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use protocol::OutputReader;
use tokio::{sync::watch, time::Instant};

use super::budget::{OutputBudget, Share};
use crate::supervisor::{Chunk, RingReader};

/// How much is read at once: about what a socket takes.
const CHUNK_BYTES: usize = 256 * 1024;

/// A reader that gets nothing done for this long no longer holds the process up.
const STALL_LIMIT: Duration = Duration::from_secs(5);

/// What readers wait for.
#[derive(Debug, Clone, Copy, Default)]
pub struct News {
    /// Grows with every piece of news.
    count: u64,
    /// The supervisor will write no more, even if it could not say so.
    over: bool,
}

/// One output of a process.
pub struct Channel {
    ring: Arc<RingReader>,
    share: Share,
    room: Arc<OwnedFd>,
    news: watch::Sender<News>,
    readers: Mutex<Readers>,
    /// Shared with every [`Awaited`].
    awaited: Arc<()>,
}

/// A client that has yet to open its reader, for as long as this lives.
pub struct Awaited {
    _counted: Arc<()>,
}

#[derive(Default)]
struct Readers {
    next_key: u64,
    by_key: BTreeMap<u64, Reader>,
}

struct Reader {
    position: u64,
    /// Since when it has had something to read and has got nothing done; none: it has everything.
    behind_since: Option<Instant>,
    stalled: bool,
}

impl Reader {
    fn at(position: u64, written: u64) -> Reader {
        let mut reader = Reader { position, behind_since: None, stalled: false };
        reader.look(written);
        reader
    }

    /// Notices that there is something to read.
    fn look(&mut self, written: u64) {
        if self.position < written {
            self.behind_since.get_or_insert_with(Instant::now);
        }
    }

    fn has_stalled(&self) -> bool {
        self.behind_since.is_some_and(|since| since.elapsed() >= STALL_LIMIT)
    }
}

impl Channel {
    pub fn new(ring: OwnedFd, room: Arc<OwnedFd>, budget: &Arc<OutputBudget>) -> io::Result<Channel> {
        let ring = Arc::new(RingReader::new(ring)?);
        // An earlier server's readers are gone.
        ring.hold(None);
        let share = budget.join(Arc::clone(&ring), Arc::clone(&room));
        let news = watch::Sender::new(News::default());
        Ok(Channel { ring, share, room, news, readers: Mutex::default(), awaited: Arc::default() })
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        // The map is whole whatever happened to a thread that had it.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the readers that there may be something new.
    pub fn tell_news(&self) {
        let written = self.ring.written();
        self.readers().by_key.values_mut().for_each(|reader| reader.look(written));
        self.news.send_modify(|news| news.count += 1);
    }

    /// Tells the readers that nothing more will come.
    pub fn tell_over(&self) {
        self.share.ended();
        self.news.send_modify(|news| news.over = true);
    }

    /// Bytes that were overwritten before any client got them.
    pub fn dropped_bytes(&self) -> u64 {
        self.ring.dropped()
    }

    /// Whether the process waits for a reader.
    pub fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    /// Whether a client has all that it holds, and nobody is there to read it again.
    pub fn is_unwanted(&self) -> bool {
        let written = self.ring.written();
        let awaited = written > 0 && Arc::strong_count(&self.awaited) > 1;
        self.ring.delivered() == written && !awaited && !self.has_readers()
    }

    /// Counts a client that may open a reader.
    pub fn awaited(&self) -> Awaited {
        Awaited { _counted: Arc::clone(&self.awaited) }
    }

    pub fn has_readers(&self) -> bool {
        !self.readers().by_key.is_empty()
    }

    /// Where somebody who attaches now begins: where the last client stopped, or, while one reads, at what comes next.
    pub fn attach_position(&self) -> u64 {
        if self.has_readers() { self.ring.written() } else { self.ring.delivered() }
    }

    /// No longer lets readers hold the process up that got nothing done for too long. Says whether there were any.
    pub fn give_up_on_stalled(&self) -> bool {
        let mut readers = self.readers();
        let written = self.ring.written();
        let mut some = false;
        for reader in readers.by_key.values_mut() {
            reader.look(written);
            let stalled = reader.has_stalled();
            some |= stalled && !reader.stalled;
            reader.stalled = stalled;
        }
        self.update_hold(&readers);
        some
    }

    fn update_hold(&self, readers: &Readers) {
        let active = readers.by_key.values().filter(|reader| !reader.stalled);
        self.ring.hold(active.map(|reader| reader.position).min());
        if self.ring.is_full() {
            // It can only be full of the same word already.
            let _ = rustix::io::write(&*self.room, &1u64.to_ne_bytes());
        }
    }

    fn register(&self, position: u64) -> u64 {
        let mut readers = self.readers();
        readers.next_key += 1;
        let key = readers.next_key;
        readers.by_key.insert(key, Reader::at(position, self.ring.written()));
        self.update_hold(&readers);
        key
    }

    /// The reader has passed on everything before `position`.
    fn advance(&self, key: u64, position: u64) {
        self.ring.set_delivered(position);
        let mut readers = self.readers();
        if let Some(reader) = readers.by_key.get_mut(&key) {
            *reader = Reader::at(position, self.ring.written());
        }
        self.update_hold(&readers);
    }

    fn unregister(&self, key: u64) {
        let mut readers = self.readers();
        readers.by_key.remove(&key);
        self.update_hold(&readers);
    }

    /// A reader that begins at `position`.
    pub fn reader(self: &Arc<Self>, position: u64) -> OutputReader {
        let place = Arc::new(Place {
            channel: Arc::clone(self),
            key: self.register(position),
            passed_on: AtomicU64::new(position),
        });
        let reading = Reading { place: Arc::clone(&place), position, buffer: BytesMut::new() };
        let stream = futures_util::stream::unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            Some((chunk, reading))
        });
        OutputReader::new(Box::pin(stream), move |bytes| place.passed_on(bytes as u64))
    }
}

/// How far a reader is; it leaves the list of readers when dropped.
struct Place {
    channel: Arc<Channel>,
    key: u64,
    passed_on: AtomicU64,
}

impl Place {
    fn passed_on(&self, bytes: u64) {
        let position = self.passed_on.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.channel.advance(self.key, position);
    }

    fn passed_on_until(&self, position: u64) {
        if self.passed_on.swap(position, Ordering::Relaxed) != position {
            self.channel.advance(self.key, position);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.channel.unregister(self.key);
    }
}

/// A reader at work.
struct Reading {
    place: Arc<Place>,
    position: u64,
    /// Memory that is used again for each chunk.
    buffer: BytesMut,
}

impl Reading {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let channel = &self.place.channel;
        // Asked again: what was given last time has been passed on.
        self.place.passed_on_until(self.position);
        let mut news = channel.news.subscribe();
        loop {
            let over = news.borrow_and_update().over;
            match channel.ring.read(self.position, CHUNK_BYTES, &mut self.buffer) {
                Ok(Chunk::Data { position, bytes }) => {
                    // Later than it was asked for, if a stalled reader lost some.
                    self.place.passed_on.store(position, Ordering::Relaxed);
                    self.position = position + bytes.len() as u64;
                    return Some(Ok(bytes));
                }
                Ok(Chunk::End) => return None,
                Ok(Chunk::Empty) if over => return None,
                Ok(Chunk::Empty) => news.changed().await.ok()?,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
