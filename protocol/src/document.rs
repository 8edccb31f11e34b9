//! A value that is asked for over and over, and written once.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::Serialize;

use crate::{Result, json};

/// A value, and its JSON from when that is first asked for: whoever keeps it saves the writing of each answer but the
/// first.
#[derive(Debug, Default)]
pub struct Document<T> {
    value: T,
    json: OnceLock<Bytes>,
}

impl<T> Document<T> {
    /// The document of a value.
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Document { value, json: OnceLock::new() })
    }

    /// The value itself, copied only if somebody else has the document too.
    pub fn into_value(self: Arc<Self>) -> T
    where
        T: Clone,
    {
        Arc::try_unwrap(self).map_or_else(|shared| shared.value.clone(), |document| document.value)
    }
}

impl<T: Serialize> Document<T> {
    /// The value as [`json::encode`] writes it.
    pub fn json(&self) -> Result<Bytes> {
        match self.json.get() {
            Some(json) => Ok(json.clone()),
            None => {
                let json: Bytes = json::encode(&self.value)?.into();
                Ok(self.json.get_or_init(|| json).clone())
            }
        }
    }
}

impl<T: Serialize> Serialize for Document<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T> Deref for Document<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Document<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortMapping;

    #[test]
    fn a_document_is_its_values_json_and_is_written_once() {
        let value = PortMapping { host_port: 1, container_port: 2 };
        let document = Document::new(value);
        assert_eq!(document.json().unwrap(), json::encode(&value).unwrap());
        assert_eq!(document.json().unwrap().as_ptr(), document.json().unwrap().as_ptr());
        assert_eq!(document.host_port, 1);
    }
}
