//! JSON as Go's `encoding/json` writes and reads it, since that is what the protocol's users send and expect.
//!
//! Written: `< > &` and U+2028/9 are escaped inside strings, and a document ends in a newline. Read: the first value
//! only; unknown fields are ignored; keys of structs match in any case, and of one that is there twice the later value
//! counts; null is the zero value; an array is not a struct; numbers with a fraction or an exponent are no integers;
//! bytes that are not UTF-8, and lone surrogates, become U+FFFD.
//!
//! Not as Go does it: values nested more than 127 deep are refused (Go: 10,000), a negative duration is, and so is the
//! number of a mode, scope or protocol that does not exist.

mod lenient;
mod node;
mod text;

use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use self::{
    lenient::{DecodeError, Lenient},
    node::Node,
    text::{replace_lone_surrogates, to_utf8},
};
use crate::{Error, Result};

/// Most documents are no larger.
const USUAL_BYTES: usize = 1024;

/// Writes one document, with its newline.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(USUAL_BYTES);
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, GoFormatter))
        .map_err(|error| Error::Failed { message: format!("cannot write the answer as JSON: {error}") })?;
    out.push(b'\n');
    Ok(out)
}

/// Go's escapes, on top of those that JSON demands.
struct GoFormatter;

impl serde_json::ser::Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // E2 begins U+2028 and U+2029, and other characters. No early exit: so it is done many bytes at a time.
        let suspicious = |byte: u8| matches!(byte, b'<' | b'>' | b'&' | 0xe2);
        if !fragment.bytes().fold(false, |any, byte| any | suspicious(byte)) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (before, special) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = special.chars();
            if let Some(character) = characters.next() {
                write!(writer, "\\u{:04x}", character as u32)?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Reads the first value of a document.
pub fn decode<T: DeserializeOwned>(document: &[u8]) -> Result<T> {
    let text = replace_lone_surrogates(to_utf8(document));
    if text.trim_ascii().is_empty() {
        return Err(malformed("EOF"));
    }
    let node = Node::deserialize(&mut serde_json::Deserializer::from_str(&text)).map_err(|error| {
        malformed(&if error.is_eof() {
            "unexpected EOF".to_owned()
        } else {
            format!("invalid JSON: {error}")
        })
    })?;
    T::deserialize(Lenient { node, path: String::new() }).map_err(|DecodeError(reason)| malformed(&reason))
}

fn malformed(reason: &str) -> Error {
    Error::Malformed { reason: reason.to_owned() }
}

/// Durations as Go has them: integers in nanoseconds.
pub mod duration_ns {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _, ser::Error as _};

    #[allow(missing_docs)]
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let ns = i64::try_from(duration.as_nanos()).map_err(|_| {
            S::Error::custom(format!("{duration:?} is too long for the protocol (292 years)"))
        })?;
        serializer.serialize_i64(ns)
    }

    #[allow(missing_docs)]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let ns = i64::deserialize(deserializer)?;
        let ns = u64::try_from(ns)
            .map_err(|_| D::Error::custom(format!("a duration cannot be negative: {ns} ns")))?;
        Ok(Duration::from_nanos(ns))
    }
}

/// A bare duration as a whole document: the body of `PUT /containers/:handle/grace_time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationNs(#[serde(with = "duration_ns")] pub std::time::Duration);
