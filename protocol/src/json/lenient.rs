//! Makes typed values of a parsed document, with Go's leniency.

use std::fmt;

use serde::{
    de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::Number;

use super::node::Node;

/// A parsed value that knows where in the document it stands.
pub(super) struct Lenient {
    pub(super) node: Node,
    pub(super) path: String,
}

#[derive(Debug)]
pub(super) struct DecodeError(pub(super) String);

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
    fn mismatch(&self, wanted: &str) -> DecodeError {
        let value = match &self.node {
            Node::Number(number) => format!("number {number}"),
            node => node.kind().to_owned(),
        };
        let place = if self.path.is_empty() { "a value".to_owned() } else { format!("field {}", self.path) };
        DecodeError(format!("json: cannot unmarshal {value} into {place} of type {wanted}"))
    }

    /// Reads a scalar: null is `zero`; errors of the visitor (a number out of range) get the field's name.
    fn scalar<'de, V: Visitor<'de>>(
        self,
        zero: Node,
        wanted: &str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let mismatch = self.mismatch(wanted);
        let node = if self.node == Node::Null { zero.clone() } else { self.node };
        if node.kind() != zero.kind() {
            return Err(mismatch);
        }
        match node {
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Number(number) => visit_number(&number, visitor).map_err(|_: DecodeError| mismatch),
            Node::String(text) => visitor
                .visit_string(text)
                .map_err(|DecodeError(cause)| DecodeError(format!("{mismatch}: {cause}"))),
            Node::Null | Node::Array(_) | Node::Object(_) => Err(mismatch),
        }
    }
}

fn visit_number<'de, V: Visitor<'de>>(number: &Number, visitor: V) -> Result<V::Value, DecodeError> {
    if let Some(natural) = number.as_u64() {
        visitor.visit_u64(natural)
    } else if let Some(integer) = number.as_i64() {
        visitor.visit_i64(integer)
    } else {
        match number.as_f64() {
            // The parser makes a float of `-0`, which is an integer to Go.
            Some(zero) if zero == 0.0 && zero.is_sign_negative() => visitor.visit_i64(0),
            float => visitor.visit_f64(float.unwrap_or(f64::NAN)),
        }
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
        deserialize_bool Node::Bool(false), "bool";
        deserialize_i8 Node::Number(0.into()), "int8";
        deserialize_i16 Node::Number(0.into()), "int16";
        deserialize_i32 Node::Number(0.into()), "int32";
        deserialize_i64 Node::Number(0.into()), "int64";
        deserialize_u8 Node::Number(0.into()), "uint8";
        deserialize_u16 Node::Number(0.into()), "uint16";
        deserialize_u32 Node::Number(0.into()), "uint32";
        deserialize_u64 Node::Number(0.into()), "uint64";
        deserialize_str Node::String(String::new()), "string";
        deserialize_string Node::String(String::new()), "string";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Number(number) => visit_number(&number, visitor),
            Node::String(text) => visitor.visit_string(text),
            Node::Array(_) => self.deserialize_seq(visitor),
            Node::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node == Node::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node {
            Node::Null => visitor.visit_seq(Elements { rest: Vec::new().into_iter(), path: self.path }),
            Node::Array(elements) => {
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
        self.members(name, Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.node {
            Node::Null => visitor.visit_enum("".into_deserializer()),
            Node::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(self.mismatch("string")),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl Lenient {
    fn members<'de, V: Visitor<'de>>(
        self,
        wanted: &str,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let members = match self.node {
            Node::Null => Vec::new(),
            Node::Object(members) => members,
            _ => return Err(self.mismatch(wanted)),
        };
        let members = match fields {
            Some(fields) => to_fields(fields, members),
            None => members,
        };
        let is_document = self.path.is_empty() && fields.is_some();
        let path = if is_document { wanted.to_owned() } else { self.path };
        visitor.visit_map(Members { rest: members.into_iter(), value: None, path })
    }
}

/// The members that are fields of a struct, each once, under the field's own name.
fn to_fields(fields: &'static [&'static str], members: Vec<(String, Node)>) -> Vec<(String, Node)> {
    let mut known: Vec<(String, Node)> = Vec::with_capacity(fields.len());
    for (key, node) in members {
        let Some(field) = fields.iter().find(|field| equal_in_any_case(field, &key)) else { continue };
        match known.iter_mut().find(|(name, _)| name == field) {
            Some((_, earlier)) => earlier.read_again(node),
            None => known.push(((*field).to_owned(), node)),
        }
    }
    known
}

/// Go folds case as Unicode does: the long s and the Kelvin sign are the only letters beyond ASCII that fold into it.
fn equal_in_any_case(field: &str, key: &str) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(field.chars().map(|c| c.to_ascii_lowercase()))
}

struct Elements {
    rest: std::vec::IntoIter<Node>,
    path: String,
}

impl<'de> SeqAccess<'de> for Elements {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Lenient { node, path: self.path.clone() }).map(Some)
    }
}

struct Members {
    rest: std::vec::IntoIter<(String, Node)>,
    value: Option<Lenient>,
    path: String,
}

impl<'de> MapAccess<'de> for Members {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some(Lenient { node, path: format!("{}.{key}", self.path) });
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
