//! Gzip, where it is.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

const MAGIC: [u8; 2] = [0x1f, 0x8b];
const BUFFER_BYTES: usize = 128 * 1024;

/// What [`maybe_gunzip`] gives.
#[derive(Debug)]
pub enum MaybeGunzip<R: Read> {
    /// It was not compressed.
    Plain(Replayed<R>),
    /// It was.
    Gunzip(MultiGzDecoder<Replayed<R>>),
}

/// The bytes that were looked at, and the rest.
type Replayed<R> = io::Chain<io::Cursor<Vec<u8>>, BufReader<R>>;

/// Uncompresses `input` if it begins as gzip does. A compressed stream that is cut short or damaged is an error at
/// the point of the damage, the checksum at its end included.
pub fn maybe_gunzip<R: Read>(input: R) -> io::Result<MaybeGunzip<R>> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    // A first read may give one byte only.
    let mut head = Vec::with_capacity(MAGIC.len());
    input.by_ref().take(MAGIC.len() as u64).read_to_end(&mut head)?;
    let compressed = head == MAGIC;
    let replayed = io::Cursor::new(head).chain(input);
    Ok(if compressed {
        MaybeGunzip::Gunzip(MultiGzDecoder::new(replayed))
    } else {
        MaybeGunzip::Plain(replayed)
    })
}

impl<R: Read> Read for MaybeGunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            MaybeGunzip::Plain(plain) => plain.read(buffer),
            MaybeGunzip::Gunzip(gunzip) => gunzip.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    /// Gives one byte at a time, as a slow client does.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let one = buffer.len().min(1);
            self.0.read(&mut buffer[..one])
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        maybe_gunzip(Trickle(bytes))?.read_to_end(&mut out)?;
        Ok(out)
    }

    proptest! {
        #[test]
        fn compressed_or_not_the_same_bytes_come_out(bytes: Vec<u8>) {
            prop_assert_eq!(&read(&gzip(&bytes)).unwrap(), &bytes);
            if !bytes.starts_with(&MAGIC) {
                prop_assert_eq!(&read(&bytes).unwrap(), &bytes);
            }
        }

        #[test]
        fn a_compressed_stream_cut_short_is_an_error(bytes: Vec<u8>, missing in 1_usize..8) {
            let whole = gzip(&bytes);
            prop_assert!(read(&whole[..whole.len() - missing]).is_err());
        }
    }
}
