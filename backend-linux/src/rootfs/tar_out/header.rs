//! An entry's headers as bytes.

use std::io::{self, Write};

use tar::{EntryType, Header};

const BLOCK_BYTES: u64 = 512;

/// What the headers of one entry say.
pub(super) struct Meta<'a> {
    pub kind: EntryType,
    /// With a slash at the end if it is a directory.
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub size: u64,
    pub device_major: u32,
    pub device_minor: u32,
    /// PAX records for what the header cannot say.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Writes the headers; the data, and [`fill`], come behind.
pub(super) fn write(out: &mut impl Write, meta: &Meta<'_>) -> io::Result<()> {
    let mut records = Vec::new();
    for (key, value) in meta.xattrs {
        let key = [b"SCHILY.xattr.", &key[..]].concat();
        push_record(&mut records, &key, value);
    }
    if meta.mtime_seconds < 0 {
        push_record(&mut records, b"mtime", meta.mtime_seconds.to_string().as_bytes());
    }
    if !records.is_empty() {
        extension(out, b'x', b"././@PaxHeader", &records)?;
    }
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    for (kind, text, field) in [(b'L', meta.name, &mut old.name), (b'K', meta.link, &mut old.linkname)] {
        if text.len() > field.len() {
            // Their data ends with a NUL.
            extension(out, kind, b"././@LongLink", &[text, b"\0"].concat())?;
        }
        let short = text.len().min(field.len());
        field[..short].copy_from_slice(&text[..short]);
    }
    header.set_entry_type(meta.kind);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid.into());
    header.set_gid(meta.gid.into());
    header.set_mtime(u64::try_from(meta.mtime_seconds).unwrap_or(0));
    header.set_size(meta.size);
    if matches!(meta.kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(meta.device_major)?;
        header.set_device_minor(meta.device_minor)?;
    }
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// Fills the last block of `size` bytes of data.
pub(super) fn fill(out: &mut impl Write, size: u64) -> io::Result<()> {
    let missing = (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES;
    zeros(out, missing)
}

/// The two blocks of zeros that end an archive.
pub(super) fn end(out: &mut impl Write) -> io::Result<()> {
    zeros(out, 2 * BLOCK_BYTES)
}

fn zeros(out: &mut impl Write, count: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), count), out).map(drop)
}

/// An entry that says something about the next one.
fn extension(out: &mut impl Write, kind: u8, name: &[u8], data: &[u8]) -> io::Result<()> {
    // PAX headers belong to ustar, long names to GNU's format.
    let mut header = if kind == b'x' { Header::new_ustar() } else { Header::new_gnu() };
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    out.write_all(data)?;
    fill(out, data.len() as u64)
}

/// Appends `length key=value\n`, where the length counts itself.
fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // A space, an equals sign and a newline.
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}
