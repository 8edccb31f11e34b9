//! Tars, made and taken apart in memory.

use std::{collections::BTreeMap, io::Read};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use protocol::ByteStream;

/// Content and mode of the files in a tar, by path without a leading `./` or a trailing slash; a directory has no
/// content.
pub type Unpacked = BTreeMap<String, (Option<Vec<u8>>, u32)>;

/// A tar of these files, owned by root, with mode 0640.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        builder.append_data(&mut header, path, *content).expect("a tar in memory");
    }
    builder.into_inner().expect("a tar in memory")
}

/// What is in a tar.
pub fn untar(tar: &[u8]) -> Unpacked {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("entries of a tar");
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("an entry of a tar");
        let path = entry.path().expect("an entry's path").display().to_string();
        let mode = entry.header().mode().expect("an entry's mode") & 0o7777;
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("an entry's content");
        let content = entry.header().entry_type().is_file().then_some(content);
        let path = path.trim_start_matches("./").trim_end_matches('/');
        (if path.is_empty() { "." } else { path }.to_owned(), (content, mode))
    };
    entries.map(read).collect()
}

/// A body that arrives in pieces of 1000 bytes, which fit no tar block.
pub fn body(bytes: Vec<u8>) -> ByteStream {
    let pieces: Vec<_> = bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

/// Everything that a stream brings.
pub async fn collect(mut stream: ByteStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}
