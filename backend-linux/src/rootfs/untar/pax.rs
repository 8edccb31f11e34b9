//! PAX records and the maps of sparse files: bytes to values.

use super::Error;

/// A sparse file may have this many pieces: what a map takes of memory stays below 16 MiB.
const SEGMENTS_MAX: usize = 1 << 20;

/// A piece of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub offset: u64,
    pub length: u64,
}

/// A name and its value, any bytes both.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// What PAX records say of the entry that follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<Xattr>,
    pub sparse: PaxSparse,
}

/// What PAX records say of a sparse file; the formats 0.0, 0.1 and 1.0 together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// The map, unless it stands before the data (1.0).
    pub map: Vec<Segment>,
    pub map_before_data: bool,
}

/// Reads the records of one `x` entry.
pub(super) fn parse(mut rest: &[u8]) -> Result<Pax, Error> {
    let damaged = Error::Damaged("an extended header does not add up");
    let mut pax = Pax::default();
    while !rest.is_empty() {
        let Some((key, value, tail)) = record(rest) else { return Err(damaged) };
        rest = tail;
        // An empty value takes back what a global header said.
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            continue;
        }
        if set(&mut pax, key, value).is_none() {
            return Err(Error::Damaged("an extended header has a bad number"));
        }
        check_count(pax.sparse.map.len())?;
    }
    Ok(pax)
}

/// Splits `length key=value\n` off; the length counts all of it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let body = bytes.get(space + 1..length)?;
    let (body, newline) = body.split_at_checked(body.len().checked_sub(1)?)?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    (newline == b"\n").then_some((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

fn set(pax: &mut Pax, key: &[u8], value: &[u8]) -> Option<()> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        pax.xattrs.push((name.to_vec(), value.to_vec()));
        return Some(());
    }
    match key {
        b"path" => pax.path = Some(value.to_vec()),
        b"linkpath" => pax.link = Some(value.to_vec()),
        b"size" => pax.size = Some(decimal(value)?),
        b"uid" => pax.uid = Some(decimal(value)?),
        b"gid" => pax.gid = Some(decimal(value)?),
        b"mtime" => pax.mtime = Some(time(value)?),
        b"GNU.sparse.name" => pax.sparse.name = Some(value.to_vec()),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => pax.sparse.real_size = Some(decimal(value)?),
        b"GNU.sparse.major" => pax.sparse.map_before_data = decimal(value)? >= 1,
        b"GNU.sparse.offset" => pax.sparse.map.push(Segment { offset: decimal(value)?, length: 0 }),
        b"GNU.sparse.numbytes" => pax.sparse.map.last_mut()?.length = decimal(value)?,
        b"GNU.sparse.map" => {
            let mut numbers = value.split(|&byte| byte == b',').map(decimal);
            while let Some(offset) = numbers.next() {
                pax.sparse.map.push(Segment { offset: offset?, length: numbers.next()?? });
            }
        }
        _ => {}
    }
    Some(())
}

/// Seconds with a fraction, before or after 1970, to seconds rounded down and nanoseconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let point = value.iter().position(|&byte| byte == b'.').unwrap_or(value.len());
    let seconds = i64::try_from(decimal(&value[..point])?).ok()?;
    let mut nanoseconds = 0;
    let mut digits = value[point..].iter().skip(1);
    for _ in 0..9 {
        let digit = digits.next().copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// A decimal number, nothing else around it.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Refuses a map that would take too much memory.
pub(super) fn check_count(segments: usize) -> Result<(), Error> {
    if segments > SEGMENTS_MAX { Err(Error::Damaged("a sparse file has too many pieces")) } else { Ok(()) }
}

/// Whether the pieces of a sparse file are in order, do not overlap, lie within the file, and have just the data that
/// the archive holds for it.
pub(super) fn check_segments(segments: &[Segment], real_size: u64, data_bytes: u64) -> Result<(), Error> {
    let damaged = || Error::Damaged("the map of a sparse file does not add up");
    let (mut end, mut total) = (0, 0_u64);
    for segment in segments {
        let after = segment.offset.checked_add(segment.length).ok_or_else(damaged)?;
        if segment.offset < end || after > real_size {
            return Err(damaged());
        }
        end = after;
        total += segment.length;
    }
    if total == data_bytes { Ok(()) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_records() {
        let pax = parse(b"11 path=a=\n19 mtime=1.5000000\n27 SCHILY.xattr.user.k=a\nb\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a="[..]));
        assert_eq!(pax.mtime, Some((1, 500_000_000)));
        assert_eq!(pax.xattrs, [(b"user.k".to_vec(), b"a\nb".to_vec())]);
    }

    #[test]
    fn a_record_that_does_not_add_up_is_damage() {
        for bytes in [
            &b"99 path=a\n"[..],
            b"1 path=a\n",
            b"path=a\n",
            b"10 path=ab",
            b"9 path:a\n",
            b"18446744073709551615 ",
        ] {
            assert!(matches!(parse(bytes), Err(Error::Damaged(_))), "{bytes:?}");
        }
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1.x"), None);
    }

    #[test]
    fn pieces_must_be_in_order_and_inside() {
        let segment = |offset, length| Segment { offset, length };
        assert!(check_segments(&[segment(0, 5), segment(10, 5)], 20, 10).is_ok());
        assert!(check_segments(&[segment(10, 5), segment(0, 5)], 20, 10).is_err());
        assert!(check_segments(&[segment(0, 5), segment(4, 5)], 20, 10).is_err());
        assert!(check_segments(&[segment(0, 5)], 4, 5).is_err());
        assert!(check_segments(&[segment(0, 5)], 5, 4).is_err());
        assert!(check_segments(&[segment(u64::MAX, 2)], u64::MAX, 2).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(key in "[a-z.]{1,20}", value: Vec<u8>) {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while length != body + length.to_string().len() {
                length = body + length.to_string().len();
            }
            let mut bytes = format!("{length} {key}=").into_bytes();
            bytes.extend(&value);
            bytes.push(b'\n');
            let (read_key, read_value, rest) = record(&bytes).unwrap();
            prop_assert_eq!((read_key, read_value, rest), (key.as_bytes(), &value[..], &b""[..]));
        }
    }
}
