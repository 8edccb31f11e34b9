//! The archive as a stream of entries. It holds one header at a time, and never more than a bounded part of it.

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{
    Error,
    error::lossy,
    pax::{self, Pax, Segment, Xattr},
};

const BLOCK_BYTES: u64 = 512;
/// Extended headers and long names beyond this are refused: xattrs have 64 KiB at most, paths 4 KiB.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// An entry, but for its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// Permission bits, setuid and the like included.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub device_major: u32,
    pub device_minor: u32,
    pub xattrs: Vec<Xattr>,
    /// A file's size with its holes.
    pub size: u64,
    /// A file's pieces that have data, in the order of the data.
    pub segments: Vec<Segment>,
}

/// Reads entries from a stream.
pub(super) struct Archive<R> {
    input: R,
    /// What is left of the current entry's data, and what fills its last block.
    data_left: u64,
    padding: u64,
    /// Whether a header has been seen: until then anything wrong means that this is no archive at all.
    begun: bool,
    /// Whether the input ended without a block of zeros.
    pub unmarked_end: bool,
}

/// Extension entries seen before the entry that they belong to.
#[derive(Default)]
struct Extensions {
    pax: Pax,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    pub fn new(input: R) -> Self {
        Archive { input, data_left: 0, padding: 0, begun: false, unmarked_end: false }
    }

    /// The next entry; none at the end. What the caller left of the last one's data is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let left = self.data_left + self.padding;
        self.skip(left)?;
        (self.data_left, self.padding) = (0, 0);
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.header_block()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            self.check(header)?;
            let size = number(&header.as_old().size)?;
            match header.as_old().linkflag[0] {
                b'x' => extensions.pax = pax::parse(&self.extension(size)?)?,
                b'L' => extensions.gnu_path = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => extensions.gnu_link = Some(until_nul(&self.extension(size)?).to_vec()),
                // Global headers carry comments; volume labels are no files.
                b'g' | b'V' => {
                    let padded = size.checked_add(padding(size)).ok_or(Error::Damaged("a size overflows"))?;
                    self.skip(padded)?;
                }
                _ => return self.entry(header, size, extensions).map(Some),
            }
        }
    }

    /// Reads on after the end: the rest is of no interest, but must be there and undamaged.
    pub fn drain(&mut self) -> Result<(), Error> {
        io::copy(&mut self.input, &mut io::sink()).map_err(Error::input)?;
        Ok(())
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry, Error> {
        let old = header.as_old();
        let Extensions { mut pax, gnu_path, gnu_link } = extensions;
        let path = (pax.sparse.name.take().or(pax.path.take()).or(gnu_path))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.link.take().or(gnu_link).unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        let gnu_sparse = old.linkflag[0] == b'S';
        let kind = match old.linkflag[0] {
            // Before ustar a directory was a file with a slash at the end.
            b'\0' | b'0' if path.ends_with(b"/") => Kind::Directory,
            b'\0' | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            kind => return Err(Error::UnknownType { entry: lossy(&path), kind: kind.into() }),
        };
        // Only files have data, and GNU's dump directories; for others the size is a remark.
        if kind == Kind::File || matches!(old.linkflag[0], b'\0' | b'0' | b'D') {
            self.data_left = pax.size.unwrap_or(size);
            self.padding = padding(self.data_left);
            // So that the sum of both cannot overflow.
            if self.data_left > u64::MAX - BLOCK_BYTES {
                return Err(Error::Damaged("a size overflows"));
            }
        }
        let (real_size, segments) = if gnu_sparse {
            self.gnu_map(header)?
        } else if pax.sparse.map_before_data {
            (pax.sparse.real_size.unwrap_or(0), self.map_before_data()?)
        } else if let Some(real_size) = pax.sparse.real_size {
            (real_size, pax.sparse.map)
        } else {
            (self.data_left, vec![Segment { offset: 0, length: self.data_left }])
        };
        if kind == Kind::File {
            pax::check_segments(&segments, real_size, self.data_left)?;
        }
        let (device_major, device_minor) =
            match header.as_ustar().map(|ustar| (ustar.dev_major, ustar.dev_minor)) {
                Some(device) => device,
                None => header.as_gnu().map_or(([0; 8], [0; 8]), |gnu| (gnu.dev_major, gnu.dev_minor)),
            };
        let id = |value: u64| u32::try_from(value).map_err(|_| Error::Damaged("an owner's id is too large"));
        let device = |field: &[u8]| {
            u32::try_from(number(field)?).map_err(|_| Error::Damaged("a device number is too large"))
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Entry {
            kind,
            mode: u32::try_from(number(&old.mode)? & 0o7777).unwrap_or(0),
            uid: id(pax.uid.map_or_else(|| number(&old.uid), Ok)?)?,
            gid: id(pax.gid.map_or_else(|| number(&old.gid), Ok)?)?,
            mtime: pax.mtime.map_or_else(|| seconds(&old.mtime), Ok)?,
            device_major: if is_device { device(&device_major)? } else { 0 },
            device_minor: if is_device { device(&device_minor)? } else { 0 },
            path,
            link,
            xattrs: pax.xattrs,
            size: real_size,
            segments,
        })
    }

    /// The map in a GNU sparse header and the blocks that continue it.
    fn gnu_map(&mut self, header: &Header) -> Result<(u64, Vec<Segment>), Error> {
        let gnu = header.as_gnu().ok_or(Error::Damaged("a sparse file has no GNU header"))?;
        let mut segments = Vec::new();
        collect_segments(&gnu.sparse, &mut segments)?;
        let mut continued = gnu.isextended[0] == 1;
        while continued {
            let mut block = GnuExtSparseHeader::new();
            self.input.read_exact(block.as_mut_bytes()).map_err(Error::input)?;
            collect_segments(&block.sparse, &mut segments)?;
            continued = block.isextended[0] == 1;
        }
        Ok((number(&gnu.realsize)?, segments))
    }

    /// The map that PAX 1.0 puts before the data: lines of numbers, filled up to a block.
    fn map_before_data(&mut self) -> Result<Vec<Segment>, Error> {
        let mut read = 0;
        let count = self.map_number(&mut read)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let segment =
                Segment { offset: self.map_number(&mut read)?, length: self.map_number(&mut read)? };
            segments.push(segment);
            pax::check_count(segments.len())?;
        }
        let mut filler = [0; BLOCK_BYTES as usize];
        let length = usize::try_from(padding(read)).unwrap_or(0);
        self.read_data_exact(&mut filler[..length])?;
        Ok(segments)
    }

    fn map_number(&mut self, read: &mut u64) -> Result<u64, Error> {
        const DIGITS_MAX: usize = 20;
        let mut digits = Vec::new();
        loop {
            let mut byte = [0];
            self.read_data_exact(&mut byte)?;
            *read += 1;
            if byte == *b"\n" {
                return pax::decimal(&digits).ok_or(Error::Damaged("the map of a sparse file is no number"));
            }
            if digits.len() >= DIGITS_MAX {
                return Err(Error::Damaged("the map of a sparse file is no number"));
            }
            digits.push(byte[0]);
        }
    }

    fn read_data_exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.data_left = (self.data_left.checked_sub(buffer.len() as u64))
            .ok_or(Error::Damaged("the map of a sparse file is longer than its data"))?;
        self.input.read_exact(buffer).map_err(Error::input)
    }

    /// The next header; none at a block of zeros or at the end of the input.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES as usize]>, Error> {
        let mut block = [0; BLOCK_BYTES as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => {
                    self.unmarked_end = true;
                    return Ok(None);
                }
                Ok(0) if self.begun => return Err(Error::CutShort),
                Ok(0) => return Err(Error::NotTar),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::input(error)),
            }
        }
        Ok(block.iter().any(|&byte| byte != 0).then_some(block))
    }

    fn check(&mut self, header: &Header) -> Result<(), Error> {
        let bytes = header.as_bytes();
        let counts_as_space = 148..156;
        let byte = |(index, &byte): (usize, &u8)| if counts_as_space.contains(&index) { b' ' } else { byte };
        let sum: u64 = bytes.iter().enumerate().map(byte).map(u64::from).sum();
        let matches = number(&header.as_old().cksum).is_ok_and(|stated| stated == sum);
        match (matches, self.begun) {
            (true, _) => {
                self.begun = true;
                Ok(())
            }
            (false, true) => Err(Error::Damaged("a header's checksum is wrong")),
            (false, false) => Err(Error::NotTar),
        }
    }

    /// The data of an extension entry.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENSION_BYTES_MAX {
            return Err(Error::Damaged("an extended header is too long"));
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(size).read_to_end(&mut bytes).map_err(Error::input)?;
        if (bytes.len() as u64) < size {
            return Err(Error::CutShort);
        }
        self.skip(padding(size))?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        let skipped = io::copy(&mut self.input.by_ref().take(bytes), &mut io::sink());
        if skipped.map_err(Error::input)? == bytes { Ok(()) } else { Err(Error::CutShort) }
    }

    /// Reads some of the current entry's data into `buffer`; fewer bytes than asked for are an error, none are not.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let wanted = buffer.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            match self.input.read(&mut buffer[..wanted]) {
                Ok(0) => return Err(Error::CutShort),
                Ok(read) => {
                    self.data_left -= read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::input(error)),
            }
        }
    }
}

fn collect_segments(headers: &[GnuSparseHeader], segments: &mut Vec<Segment>) -> Result<(), Error> {
    for header in headers {
        // Unused places are empty; a file that ends in a hole has a piece of no length at its end.
        if header.offset[0] != 0 {
            segments.push(Segment { offset: number(&header.offset)?, length: number(&header.numbytes)? });
        }
    }
    pax::check_count(segments.len())
}

/// How many bytes fill the last block of `size`.
fn padding(size: u64) -> u64 {
    (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A time without a fraction; before 1970 only in base 256.
fn seconds(field: &[u8]) -> Result<(i64, u32), Error> {
    Ok((number(field)?.cast_signed(), 0))
}

/// A number: octal digits, or, with the highest bit set, base 256 (of which the lowest 64 bits). Nothing is 0.
fn number(field: &[u8]) -> Result<u64, Error> {
    let bad = Error::Damaged("a header has a bad number");
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        let mut value = 0;
        for (index, &byte) in field.iter().enumerate() {
            // The highest bit is the mark; below it, a negative number is filled up with ones.
            let byte = if index == 0 { if byte == 0xff { 0xff } else { byte & 0x7f } } else { byte };
            value = (value << 8) | u64::from(byte);
        }
        return Ok(value);
    }
    let text = std::str::from_utf8(until_nul(field)).unwrap_or("?").trim();
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\0").unwrap(), 256);
        assert_eq!(seconds(&[0xff; 12]).unwrap(), (-1, 0));
        assert!(number(b"8\0").is_err());
        assert!(number(b"-1\0").is_err());
    }

    proptest! {
        #[test]
        fn no_stream_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut archive = Archive::new(&bytes[..]);
            while let Ok(Some(_)) = archive.next_entry() {}
        }

        #[test]
        fn no_header_with_a_right_checksum_makes_the_reader_panic(
            mut block in proptest::collection::vec(any::<u8>(), 512),
            kind in proptest::sample::select(b"\x000123456789xgLKSVD".to_vec()),
            rest in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            block[156] = kind;
            block[124..136].copy_from_slice(b"00000001000\0");
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            block.extend(rest);
            let mut archive = Archive::new(&block[..]);
            while let Ok(Some(_)) = archive.next_entry() {}
        }
    }
}
