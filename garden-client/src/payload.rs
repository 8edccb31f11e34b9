//! Messages on a process's stream: finding where one ends, and text that chunk borders do not damage.

use bytes::{Buf, Bytes, BytesMut};
use protocol::{Error, ProcessPayload, Result, json};

/// The largest message from a server. Its longest ones carry an error's text.
const PAYLOAD_MAX_BYTES: usize = 1 << 20;

/// Cuts a stream of JSON objects into messages, in linear time however the bytes arrive. Nothing need stand between
/// two of them.
#[derive(Default)]
pub(crate) struct PayloadBuffer {
    bytes: BytesMut,
    /// Bytes that were looked at.
    seen: usize,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl PayloadBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is complete.
    pub fn next(&mut self) -> Result<Option<ProcessPayload>> {
        while let Some(&byte) = self.bytes.get(self.seen) {
            self.seen += 1;
            match (byte, self.in_string) {
                _ if self.escaped => self.escaped = false,
                (b'\\', true) => self.escaped = true,
                (b'"', _) if self.depth > 0 => self.in_string = !self.in_string,
                (_, true) => {}
                (b'{' | b'[', _) => self.depth += 1,
                (b'}' | b']', _) if self.depth > 1 => self.depth -= 1,
                (b'}' | b']', _) if self.depth == 1 => {
                    self.depth = 0;
                    let message = self.bytes.split_to(std::mem::take(&mut self.seen));
                    return json::decode(&message).map(Some);
                }
                (b' ' | b'\n' | b'\r' | b'\t', _) if self.depth == 0 => {
                    self.bytes.advance(1);
                    self.seen = 0;
                }
                _ if self.depth > 0 => {}
                (byte, _) => {
                    let byte = byte.escape_ascii();
                    return Err(Error::Malformed {
                        reason: format!("the process stream has {byte} where a message should begin"),
                    });
                }
            }
        }
        if self.bytes.len() > PAYLOAD_MAX_BYTES {
            let reason = format!("the process stream has a message of over {PAYLOAD_MAX_BYTES} bytes");
            return Err(Error::Malformed { reason });
        }
        Ok(None)
    }
}

/// Standard input as the protocol can carry it: whole characters. The first bytes of one that is cut by a chunk's end
/// wait here for the rest.
#[derive(Default)]
pub(crate) struct TextBuffer {
    held: Bytes,
    carried_bytes: u64,
}

impl TextBuffer {
    /// What can be sent of the text so far; an error if it can never be.
    pub fn push(&mut self, data: Bytes) -> Result<String> {
        let data =
            if self.held.is_empty() { data } else { Bytes::from([&self.held[..], &data[..]].concat()) };
        let whole = match std::str::from_utf8(&data) {
            Ok(_) => data.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(error) => return Err(self.binary(error.valid_up_to())),
        };
        self.held = data.slice(whole..);
        self.carried_bytes += whole as u64;
        // Never replaces anything: these bytes were just found to be UTF-8.
        Ok(String::from_utf8_lossy(&data[..whole]).into_owned())
    }

    /// The end: nothing may be left.
    pub fn finish(&mut self) -> Result<()> {
        if std::mem::take(&mut self.held).is_empty() { Ok(()) } else { Err(self.binary(0)) }
    }

    fn binary(&self, offset: usize) -> Error {
        let byte = self.carried_bytes + offset as u64;
        let reason = format!(
            "standard input is not UTF-8 at byte {byte}: the process stream carries text only; stream binary data \
             in as a file"
        );
        Error::Invalid { field: "data", reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        r#"{"process_id":"a}{\"\\","stream_id":"1"}"#,
        "\n \r\n\t",
        r#"{"process_id":"é","tty":{"window_size":{"columns":1}}}{"process_id":"p","exit_status":7}"#,
    );

    fn messages(parts: &[&[u8]]) -> Vec<ProcessPayload> {
        let mut buffer = PayloadBuffer::default();
        let mut messages = Vec::new();
        for part in parts {
            buffer.push(part);
            while let Some(message) = buffer.next().unwrap() {
                messages.push(message);
            }
        }
        messages
    }

    #[test]
    fn messages_do_not_depend_on_how_the_bytes_arrive() {
        let stream = STREAM.as_bytes();
        let whole = messages(&[stream]);
        assert_eq!(whole.len(), 3);
        assert_eq!((whole[0].process_id.as_str(), whole[0].stream_id.as_str()), ("a}{\"\\", "1"));
        assert_eq!(whole[2].exit_status, Some(7));
        for at in 0..stream.len() {
            assert_eq!(messages(&[&stream[..at], &stream[at..]]), whole, "cut at {at}");
        }
        assert_eq!(messages(&stream.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for text in ["27\r\n{", "[]x", "\"a\"", "}", "{\"exit_status\":\"x\"}", "{]"] {
            let mut buffer = PayloadBuffer::default();
            buffer.push(text.as_bytes());
            let result = std::iter::from_fn(|| buffer.next().transpose()).find(Result::is_err);
            assert!(result.is_some(), "{text}");
        }
    }

    #[test]
    fn a_message_is_bounded() {
        let mut buffer = PayloadBuffer::default();
        buffer.push(b"{\"error\":\"");
        let endless = vec![b'x'; 64 << 10];
        let error = (0..100).find_map(|_| {
            buffer.push(&endless);
            buffer.next().err()
        });
        assert!(error.is_some_and(|error| error.to_string().contains("over 1048576 bytes")));
    }

    #[test]
    fn chunk_borders_do_not_damage_text() {
        let text = "aé€😀z".repeat(3);
        for size in 1..text.len() {
            let mut buffer = TextBuffer::default();
            let sent: String = text
                .as_bytes()
                .chunks(size)
                .map(|chunk| buffer.push(Bytes::copy_from_slice(chunk)).unwrap())
                .collect();
            assert_eq!(sent, text, "chunks of {size}");
            buffer.finish().unwrap();
        }
    }

    #[test]
    fn binary_input_is_refused_with_its_place() {
        let mut buffer = TextBuffer::default();
        assert_eq!(buffer.push(Bytes::from_static(b"ab\xc3")).unwrap(), "ab");
        let error = buffer.push(Bytes::from_static(b"(")).unwrap_err();
        assert!(error.to_string().contains("not UTF-8 at byte 2"), "{error}");

        let mut buffer = TextBuffer::default();
        assert_eq!(buffer.push(Bytes::from_static(b"a\xe2\x82")).unwrap(), "a");
        assert!(buffer.finish().unwrap_err().to_string().contains("at byte 1"));
    }
}
