//! What must hold of archives, whatever is in them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use std::{
    fs,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
};

use super::{
    super::fuzz::Pieces,
    End, Error, Options, Owner, Resolve,
    archive::{Archive, Entry, Kind},
    pax, untar,
};

/// The reader: the same entries and data however the bytes arrive, and nothing in them that does not add up.
pub(crate) fn read(bytes: &[u8]) {
    let bytes = &with_checksums(bytes)[..];
    let whole = entries(Pieces { rest: bytes, piece_bytes: bytes.len().max(1) });
    let pieces = entries(Pieces { rest: bytes, piece_bytes: 13 });
    assert_eq!(whole, pieces, "in pieces it is something else");
    // The records of an extended header stand in an archive too deep for mutations to reach often.
    let _ = pax::parse(bytes);
}

/// The bytes with the right checksum in each header, without which a reader would not look at what mutation made of it.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// The entries with their data, and the text of the error that ended them.
fn entries(input: Pieces<'_>) -> (Vec<(Entry, Vec<u8>)>, Option<String>) {
    let input_bytes = input.rest.len();
    let mut archive = Archive::new(input);
    let mut entries = Vec::new();
    let mut entry = || -> Result<Option<(Entry, Vec<u8>)>, Error> {
        let Some(entry) = archive.next_entry()? else { return Ok(None) };
        let mut data = Vec::new();
        let mut buffer = [0; 100];
        while let read @ 1.. = archive.read_data(&mut buffer)? {
            data.extend_from_slice(&buffer[..read]);
        }
        Ok(Some((entry, data)))
    };
    let error = loop {
        match entry() {
            Ok(Some((entry, data))) => {
                if entry.kind == Kind::File {
                    let length: u64 = entry.segments.iter().map(|segment| segment.length).sum();
                    assert_eq!(length, data.len() as u64, "{entry:?}");
                    assert!(entry.segments.iter().all(|s| s.offset + s.length <= entry.size), "{entry:?}");
                }
                assert_eq!(entry.mode & !0o7777, 0);
                // A block for each entry: what is held is bounded by what came.
                let held = entry.path.len() + entry.link.len() + entry.segments.len();
                assert!(held <= input_bytes, "{held} of {input_bytes}");
                entries.push((entry, data));
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    assert!(entries.len() <= input_bytes / 512);
    (entries, error)
}

/// The whole way, into a directory: nothing beside the directory changes.
pub(crate) fn unpack(bytes: &[u8]) {
    // In memory, where there is such a place.
    let place = Path::new("/dev/shm");
    let folder = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
    let folder = folder.expect("a folder");
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir(&root).expect("a directory");
    fs::write(&outside, b"as it was").expect("a file");
    let options = Options { owner: Owner::Caller, resolve: Resolve::Beneath, end: End::MayBeUnmarked };
    let directory = fs::File::open(&root).expect("a directory");
    let summary = untar(&with_checksums(bytes)[..], directory.as_fd(), &options);
    assert_eq!(fs::read(&outside).expect("a file"), b"as it was");
    assert_eq!(fs::read_dir(folder.path()).expect("a directory").count(), 2);
    make_removable(&root);
    if summary.is_ok_and(|summary| summary.entries == 0) {
        assert_eq!(fs::read_dir(&root).expect("a directory").count(), 0);
    }
}

/// An archive can close its directories to their owner.
fn make_removable(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).expect("our own directory");
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}
