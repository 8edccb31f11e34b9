//! What must hold of images' bytes and names, whatever they are.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use std::{
    io::{self, Cursor, Read},
    path::Component,
};

use super::{busybox, maybe_gunzip, source};

/// More than this of what a stream uncompresses to is not looked at.
const UNCOMPRESSED_MAX_BYTES: u64 = 4 << 20;

/// A stream that may be compressed.
pub(crate) fn gunzip(bytes: &[u8]) {
    let whole = uncompressed(Pieces { rest: bytes, piece_bytes: bytes.len().max(1) });
    let pieces = uncompressed(Pieces { rest: bytes, piece_bytes: 7 });
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => assert!(whole == pieces, "cut into pieces it is something else"),
        (whole, pieces) => assert_eq!(whole.is_ok(), pieces.is_ok()),
    }
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        assert!(whole.is_ok_and(|whole| whole == bytes), "what is not compressed stays as it is");
    }
}

fn uncompressed(pieces: Pieces<'_>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    maybe_gunzip(pieces)?.take(UNCOMPRESSED_MAX_BYTES).read_to_end(&mut out)?;
    Ok(out)
}

/// Gives a few bytes at a time, as a slow client does.
pub(super) struct Pieces<'a> {
    pub(super) rest: &'a [u8],
    pub(super) piece_bytes: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.piece_bytes);
        self.rest.read(&mut buffer[..length])
    }
}

/// A program that may be busybox, and what it says of itself.
pub(crate) fn busybox(bytes: &[u8]) {
    let is_static = |bytes: &[u8]| busybox::is_static(&mut Cursor::new(bytes));
    let found = is_static(bytes);
    if matches!(found, Ok(true)) {
        assert!(bytes.starts_with(b"\x7fELF"));
        // Nothing behind a program makes another of it.
        assert!(is_static(&[bytes, b"more"].concat()).is_ok_and(|is_static| is_static));
    }
    let text = String::from_utf8_lossy(bytes);
    for link in busybox::parse_applets(&text) {
        assert!(link.components().all(|part| matches!(part, Component::Normal(_))), "{}", link.display());
        assert!(link.components().count() >= 2, "{} is in no directory", link.display());
    }
}

/// A root filesystem's URI.
pub(crate) fn uri(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match source::parse(&text) {
        Ok(source::Source::Path(path)) => {
            assert!(path.is_absolute());
            assert!(!text.contains('\0'));
        }
        Ok(source::Source::Busybox) => assert!(text.is_empty()),
        Err(error) => assert!(error.to_string().contains(&format!("{text:?}")), "{error}"),
    }
}
