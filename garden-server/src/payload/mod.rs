//! The messages that a client sends on a process's stream, read as they come.
//!
//! A message is a JSON object; nothing need separate one from the next, and its `data` may be 50 MB long. So the
//! parser never holds a message: bytes of a top-level `data` string are decoded piece by piece and handed on at once,
//! and what is left of the message with `""` in the string's place, its *skeleton*, is small. It is decoded when the
//! message ends, by the same rules as every other document (any case of keys, null as zero, types checked).
//!
//! What follows from reading in pieces: of a message that turns out to be broken after its `data`, the data has been
//! delivered; two `data` in one message are both delivered; and data that comes before its `source` waits for it only
//! up to [`HELD_MAX_BYTES`], then it is taken for input.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod text;

use bytes::Bytes;
use protocol::{ProcessPayload, Signal, TtySpec, json};
use text::TextDecoder;

/// The longest message, without its `data`.
const SKELETON_MAX_BYTES: usize = 64 * 1024;
/// How much data waits for the `source` that makes it input.
const HELD_MAX_BYTES: usize = 64 * 1024;
/// A longer key is neither `data` nor `source`.
const KEY_MAX_BYTES: usize = 64;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Standard input; pieces of one message are events of their own.
    Stdin(Bytes),
    /// No more standard input.
    EndOfStdin,
    /// A signal to send.
    Signal(Signal),
    /// A window's new size.
    Tty(TtySpec),
    /// What came is no message: nothing more is read from this client.
    Detach(String),
}

/// Turns bytes into [`Event`]s, however the bytes are cut.
#[derive(Debug, Default)]
pub(crate) struct PayloadParser {
    state: State,
    /// How many brackets of the message are open.
    depth: usize,
    /// Whether the next string at depth 1 is a key.
    expects_key: bool,
    key: Vec<u8>,
    skeleton: Vec<u8>,
    text: TextDecoder,
    /// Decoded data, not handed on yet.
    data: Vec<u8>,
    has_source: bool,
    /// Whether data of this message was handed on.
    delivered: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between messages.
    #[default]
    Outside,
    /// In a top-level `null`, with so many letters read.
    Null(usize),
    /// In a message, outside strings.
    Inside,
    /// In a string of the skeleton.
    String { is_key: bool, escaped: bool },
    /// In a `data` string.
    Data,
    /// After something that makes no sense.
    Broken,
}

impl PayloadParser {
    /// Takes the next bytes of the stream; `events` gets what they complete, in order.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Outside => self.outside(bytes[0]),
                State::Null(read) => self.null(read, bytes[0], events),
                State::Inside => self.inside(bytes[0], events),
                State::String { is_key, escaped } => self.string(bytes, is_key, escaped),
                State::Data => self.data(bytes),
                State::Broken => return,
            };
            match taken {
                Ok(taken) => bytes = &bytes[taken..],
                Err(reason) => {
                    self.state = State::Broken;
                    self.deliver_input(events);
                    events.push(Event::Detach(reason));
                    return;
                }
            }
            if self.data.len() > HELD_MAX_BYTES {
                self.deliver(events);
            }
        }
        self.deliver_input(events);
    }

    fn outside(&mut self, byte: u8) -> Result<usize, String> {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' => {
                self.depth = 1;
                self.expects_key = true;
                self.state = State::Inside;
                self.skeleton.push(byte);
            }
            b'n' => self.state = State::Null(1),
            _ => return Err(format!("a message is a JSON object, and none begins with {:?}", byte as char)),
        }
        Ok(1)
    }

    /// A null is a message that says nothing.
    fn null(&mut self, read: usize, byte: u8, events: &mut Vec<Event>) -> Result<usize, String> {
        if b"null"[read] != byte {
            return Err("a message is a JSON object".to_owned());
        }
        self.state = State::Null(read + 1);
        if read + 1 == b"null".len() {
            self.state = State::Outside;
            events.push(Event::EndOfStdin);
        }
        Ok(1)
    }

    fn inside(&mut self, byte: u8, events: &mut Vec<Event>) -> Result<usize, String> {
        match byte {
            b'"' => {
                let is_key = self.depth == 1 && self.expects_key;
                if is_key {
                    self.key.clear();
                } else if self.depth == 1 && self.key_is("data") {
                    self.skeleton.push(byte);
                    self.state = State::Data;
                    return Ok(1);
                }
                self.state = State::String { is_key, escaped: false };
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            b',' if self.depth == 1 => self.expects_key = true,
            b':' if self.depth == 1 => self.expects_key = false,
            b'0'..=b'9' | b'-' if self.depth == 1 && !self.expects_key && self.key_is("source") => {
                self.has_source = true;
            }
            _ => {}
        }
        self.extend_skeleton(&[byte])?;
        if self.depth == 0 {
            self.end_message(events)?;
        }
        Ok(1)
    }

    /// A string that stays in the skeleton: only its end matters here.
    fn string(&mut self, bytes: &[u8], is_key: bool, escaped: bool) -> Result<usize, String> {
        let taken = if escaped {
            self.state = State::String { is_key, escaped: false };
            1
        } else {
            let run = bytes.iter().position(|b| matches!(b, b'"' | b'\\'));
            match run {
                Some(at) if bytes[at] == b'"' => {
                    self.state = State::Inside;
                    at + 1
                }
                Some(at) => {
                    self.state = State::String { is_key, escaped: true };
                    at + 1
                }
                None => bytes.len(),
            }
        };
        let taken_bytes = &bytes[..taken];
        if is_key && self.key.len() <= KEY_MAX_BYTES {
            let without_quote = match self.state {
                State::Inside => &taken_bytes[..taken - 1],
                _ => taken_bytes,
            };
            self.key.extend_from_slice(&without_quote[..without_quote.len().min(KEY_MAX_BYTES + 1)]);
        }
        self.extend_skeleton(taken_bytes)?;
        Ok(taken)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<usize, String> {
        // One piece at a time, so that `feed` can hand it on before there is too much.
        let piece = &bytes[..bytes.len().min(HELD_MAX_BYTES)];
        let read = self.text.read(piece, &mut self.data)?;
        if read.ended {
            self.skeleton.push(b'"');
            self.state = State::Inside;
        }
        Ok(read.taken)
    }

    fn extend_skeleton(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.skeleton.len() + bytes.len() > SKELETON_MAX_BYTES {
            return Err(format!("a message has more than {SKELETON_MAX_BYTES} bytes besides its data"));
        }
        self.skeleton.extend_from_slice(bytes);
        Ok(())
    }

    fn key_is(&self, name: &str) -> bool {
        if self.key.eq_ignore_ascii_case(name.as_bytes()) {
            return true;
        }
        // Rare: a key with escapes in it.
        self.key.len() <= KEY_MAX_BYTES && self.key.contains(&b'\\') && {
            let (mut text, mut decoder) = (Vec::new(), TextDecoder::default());
            let quoted = [self.key.as_slice(), b"\""].concat();
            decoder.read(&quoted, &mut text).is_ok() && text.eq_ignore_ascii_case(name.as_bytes())
        }
    }

    /// Hands on what is known to be input.
    fn deliver_input(&mut self, events: &mut Vec<Event>) {
        if self.has_source || self.delivered {
            self.deliver(events);
        }
    }

    fn deliver(&mut self, events: &mut Vec<Event>) {
        if !self.data.is_empty() {
            events.push(Event::Stdin(Bytes::from(std::mem::take(&mut self.data))));
            self.delivered = true;
        }
    }

    fn end_message(&mut self, events: &mut Vec<Event>) -> Result<(), String> {
        let payload: ProcessPayload = json::decode(&self.skeleton).map_err(|error| error.to_string())?;
        if payload.source.is_some() || self.delivered {
            self.deliver(events);
        }
        let says_nothing = payload.tty.is_none() && payload.source.is_none() && payload.signal.is_none();
        if let Some(tty) = payload.tty {
            events.push(Event::Tty(tty));
        }
        match (payload.source, payload.signal) {
            (Some(_), _) if payload.data.is_none() => events.push(Event::EndOfStdin),
            (Some(_), _) => {}
            (None, Some(signal)) => {
                events.push(Signal::from_wire(signal).map_or(Event::EndOfStdin, Event::Signal))
            }
            (None, None) if says_nothing => events.push(Event::EndOfStdin),
            (None, None) => {}
        }
        *self = PayloadParser { skeleton: std::mem::take(&mut self.skeleton), ..PayloadParser::default() };
        self.skeleton.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
