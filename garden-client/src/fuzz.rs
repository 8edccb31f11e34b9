//! Fuzz targets: what a server answers and sends on a process's stream, and what users write as its address.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt;
use protocol::ProcessPayload;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    address::Address,
    payload::{PayloadBuffer, TextBuffer},
    raw::Reader,
};

/// A target's name, its function, and where it has seeds besides its own: see `tests/fuzz/seeds.rs`.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// The targets.
pub const TARGETS: &[Target] = &[
    ("client-payload", messages, &["wire/golden/stream-"]),
    ("client-answer", answer, &[]),
    ("client-address", address, &[]),
];

/// A process's stream from the server: the same messages however the bytes arrive.
fn messages(bytes: &[u8]) {
    let whole = read_messages(bytes, bytes.len().max(1));
    for piece_bytes in [1, 2, 7] {
        assert_eq!(read_messages(bytes, piece_bytes), whole, "in pieces of {piece_bytes}");
    }
    // Standard input goes the other way, as text: whole characters, and all of them.
    for piece_bytes in [1, 2, 3, 7] {
        let mut buffer = TextBuffer::default();
        let pieces = bytes.chunks(piece_bytes);
        let sent: Result<String, _> =
            pieces.map(|piece| buffer.push(Bytes::copy_from_slice(piece))).collect();
        let sent = sent.and_then(|sent| buffer.finish().map(|()| sent));
        assert_eq!(sent.ok().as_deref(), std::str::from_utf8(bytes).ok());
    }
}

/// The messages, and whether an error ended them.
fn read_messages(bytes: &[u8], piece_bytes: usize) -> (Vec<ProcessPayload>, bool) {
    let mut buffer = PayloadBuffer::default();
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        buffer.push(piece);
        loop {
            match buffer.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
    }
    (messages, false)
}

/// An answer's head and body: the same however the bytes arrive.
fn answer(bytes: &[u8]) {
    let whole = read_answer(bytes, bytes.len().max(1));
    // Beyond that what arrived at once may be taken, and what trickles in is too long.
    if bytes.len() < 16 << 10 {
        assert_eq!(read_answer(bytes, 3), whole, "in pieces");
    }
    if let Some((_, Some(body))) = whole {
        assert!(body.len() <= 1 << 20);
    }
}

/// The status, and the body if it is whole.
fn read_answer(bytes: &[u8], piece_bytes: usize) -> Option<(u16, Option<Bytes>)> {
    let mut reader = Reader::new(Pieces { rest: bytes, piece_bytes });
    let read = async {
        let head = reader.head().await.ok()?;
        Some((head.status, reader.body(&head).await.ok()))
    };
    read.now_or_never().expect("all bytes are there: nothing to wait for")
}

/// Gives a few bytes at a time, then the end.
struct Pieces<'a> {
    rest: &'a [u8],
    piece_bytes: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.rest.len().min(self.piece_bytes).min(into.remaining());
        let (piece, rest) = self.rest.split_at(length);
        into.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// What is an address reads back as it is shown.
fn address(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse::<Address>().ok(), Some(address));
    }
}

#[cfg(test)]
#[path = "../../tests/fuzz/brief.rs"]
mod brief;

#[test]
fn no_seed_and_no_mutation_breaks_a_promise() {
    brief::run(TARGETS, 2_000);
}
