//! Amounts of memory as people write them.

/// The least that makes sense for any of them.
const MIN_BYTES: u64 = 1 << 20;

/// Bytes, or K, M or G of 1024, 1024² or 1024³ of them.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write 1073741824, 1024M or 1G");
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    if bytes < MIN_BYTES { Err(format!("{text:?} is less than 1M")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1048576", 1 << 20), ("2048K", 2 << 20), ("3m", 3 << 20), ("4G", 4 << 30)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1T", "-1M", "1.5G", "99999999999G", "1000K", "1ü"] {
            parse(text).expect_err(text);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_size_is_what_its_bytes_are(mebibytes in 1u64..1 << 40) {
            let bytes = mebibytes << 20;
            proptest::prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
            proptest::prop_assert_eq!(parse(&format!("{mebibytes}M")), Ok(bytes));
        }

        #[test]
        fn any_text_is_a_size_or_an_error(text in ".{0,12}") {
            proptest::prop_assert!(parse(&text).is_ok_and(|bytes| bytes >= MIN_BYTES) || parse(&text).is_err());
        }
    }
}
