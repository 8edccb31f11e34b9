//! JSON as Go's `encoding/json` writes and reads it, since that is what the protocol's users send and expect.
//!
//! Written: `< > &` and U+2028/9 are escaped inside strings, and a document ends in a newline. Read: the first value
//! only; unknown fields are ignored; keys of structs match in any case; null is the zero value; an array is not a
//! struct; bytes that are not UTF-8, and lone surrogates, become U+FFFD.

use std::{borrow::Cow, fmt, io};

use serde::{
    Serialize,
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
        Visitor,
    },
    forward_to_deserialize_any,
};
use serde_json::Value;

use crate::{Error, Result};

/// Writes one document, with its newline.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
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
    let value = match serde_json::Deserializer::from_str(&text).into_iter::<Value>().next() {
        None => return Err(malformed("EOF")),
        Some(Err(error)) if error.is_eof() => return Err(malformed("unexpected EOF")),
        Some(Err(error)) => return Err(malformed(&format!("invalid JSON: {error}"))),
        Some(Ok(value)) => value,
    };
    T::deserialize(Lenient { value, path: String::new() }).map_err(|DecodeError(reason)| malformed(&reason))
}

fn malformed(reason: &str) -> Error {
    Error::Malformed { reason: reason.to_owned() }
}

/// Each byte that is not part of UTF-8 becomes one U+FFFD.
fn to_utf8(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

/// Turns `\ud8xx` escapes without their other half into `\ufffd`, which the parser would refuse.
fn replace_lone_surrogates(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return text;
    }
    let unit = |at: usize| -> Option<u32> {
        let escape = text.get(at..at + 6)?.strip_prefix("\\u")?;
        escape.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(escape, 16).ok())?
    };
    let mut out = String::with_capacity(text.len());
    let (mut copied, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => {
                out.push_str(&text[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            // The backslash and what it escapes, so that `\\ud800` stays what it is.
            _ => at += 2,
        }
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
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
#[derive(Debug, Clone, Copy, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct DurationNs(#[serde(with = "duration_ns")] pub std::time::Duration);

/// A parsed value, read with Go's leniency, that knows where in the document it stands.
struct Lenient {
    value: Value,
    path: String,
}

#[derive(Debug)]
struct DecodeError(String);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        DecodeError(message.to_string())
    }
}

impl Lenient {
    fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }
    }

    fn mismatch(&self, wanted: &str) -> DecodeError {
        let place = if self.path.is_empty() { String::new() } else { format!(" field {}", self.path) };
        DecodeError(format!("json: cannot unmarshal {} into{place} of type {wanted}", self.kind()))
    }

    /// Reads a scalar: null is `zero`; errors of the visitor (a number out of range) get the field's name.
    fn scalar<'de, V: Visitor<'de>>(
        self,
        zero: Value,
        wanted: &str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let error = self.mismatch(wanted);
        let value = if self.value.is_null() { zero.clone() } else { self.value };
        let same_kind = std::mem::discriminant(&value) == std::mem::discriminant(&zero);
        if !same_kind {
            return Err(error);
        }
        let number = value.as_number().map(|n| format!(" {n}"));
        value.deserialize_any(visitor).map_err(|cause| match number {
            Some(number) => DecodeError(error.0.replacen(" number", &format!(" number{number}"), 1)),
            None => DecodeError(format!("{}: {cause}", error.0)),
        })
    }
}

macro_rules! scalars {
    ($($method:ident $zero:expr, $wanted:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.scalar($zero, $wanted, visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = DecodeError;

    scalars! {
        deserialize_bool Value::from(false), "bool";
        deserialize_i8 Value::from(0), "int8";
        deserialize_i16 Value::from(0), "int16";
        deserialize_i32 Value::from(0), "int32";
        deserialize_i64 Value::from(0), "int64";
        deserialize_u8 Value::from(0), "uint8";
        deserialize_u16 Value::from(0), "uint16";
        deserialize_u32 Value::from(0), "uint32";
        deserialize_u64 Value::from(0), "uint64";
        deserialize_f64 Value::from(0), "float64";
        deserialize_str Value::from(""), "string";
        deserialize_string Value::from(""), "string";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.value.deserialize_any(visitor).map_err(de::Error::custom)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_seq(Elements { rest: Vec::new().into_iter(), path: self.path }),
            Value::Array(elements) => {
                visitor.visit_seq(Elements { rest: elements.into_iter(), path: self.path })
            }
            _ => Err(self.mismatch("array")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.members("map", None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let path = if self.path.is_empty() { name.to_owned() } else { self.path };
        Lenient { path, ..self }.members(name, Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Null => visitor.visit_enum("".into_deserializer()),
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(self.mismatch("string")),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl Lenient {
    fn members<'de, V: Visitor<'de>>(
        self,
        wanted: &str,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let object = match self.value {
            Value::Null => serde_json::Map::new(),
            Value::Object(object) => object,
            _ => return Err(self.mismatch(wanted)),
        };
        let mut members: Vec<(String, Value)> = Vec::with_capacity(object.len());
        for (key, value) in object {
            let known = fields.and_then(|fields| {
                let any_case = || fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
                fields.iter().find(|field| **field == key).or_else(any_case)
            });
            let exact = known.is_none_or(|field| *field == key);
            let key = known.map_or(key, |field| (*field).to_owned());
            // Two spellings of one field: the exact one wins.
            match members.iter_mut().find(|(other, _)| fields.is_some() && *other == key) {
                Some((_, other)) if exact => *other = value,
                Some(_) => {}
                None => members.push((key, value)),
            }
        }
        visitor.visit_map(Members { rest: members.into_iter(), value: None, path: self.path })
    }
}

struct Elements {
    rest: std::vec::IntoIter<Value>,
    path: String,
}

impl<'de> SeqAccess<'de> for Elements {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(value) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Lenient { value, path: self.path.clone() }).map(Some)
    }
}

struct Members {
    rest: std::vec::IntoIter<(String, Value)>,
    value: Option<Lenient>,
    path: String,
}

impl<'de> MapAccess<'de> for Members {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(Lenient { value, path: format!("{}.{key}", self.path) });
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let value =
            self.value.take().ok_or_else(|| DecodeError("a value was asked for before its key".into()))?;
        let path = value.path.clone();
        seed.deserialize(value).map_err(|DecodeError(reason)| {
            if reason.contains(&path) {
                DecodeError(reason)
            } else {
                DecodeError(format!("{path}: {reason}"))
            }
        })
    }
}
