//! The content of a JSON string, decoded as it comes.

/// Decodes what stands between the quotes of one string, however it is cut. Lone surrogates, and each byte that is
/// not part of UTF-8, become U+FFFD.
#[derive(Debug, Default)]
pub(super) struct TextDecoder {
    escape: Escape,
    /// A high surrogate, waiting for its other half.
    high: Option<u16>,
    /// The beginning of a character whose other bytes have not come yet.
    partial: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Escape {
    #[default]
    None,
    /// After a backslash.
    Begun,
    /// After `\u` and so many digits of a number.
    Unicode { digits: u8, unit: u16 },
}

/// What became of the bytes given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// How many were used.
    pub(super) taken: usize,
    /// Whether the last of them was the closing quote.
    pub(super) ended: bool,
}

impl TextDecoder {
    /// Decodes `bytes` up to the closing quote, appending to `out`.
    pub(super) fn read(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Read, String> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            match (self.escape, byte) {
                (Escape::None, b'"') => {
                    self.finish_character(out);
                    self.finish_surrogate(out);
                    return Ok(Read { taken: at, ended: true });
                }
                (Escape::None, b'\\') => {
                    self.finish_character(out);
                    self.escape = Escape::Begun;
                }
                (Escape::None, 0..0x20) => {
                    return Err(format!("invalid character {:?} in string literal", byte as char));
                }
                (Escape::None, _) => {
                    self.finish_surrogate(out);
                    let begin = at - 1;
                    while bytes.get(at).is_some_and(|b| !matches!(b, b'"' | b'\\' | 0..0x20)) {
                        at += 1;
                    }
                    self.characters(&bytes[begin..at], out);
                }
                (Escape::Begun, b'u') => self.escape = Escape::Unicode { digits: 0, unit: 0 },
                (Escape::Begun, letter) => {
                    self.finish_surrogate(out);
                    out.push(unescaped(letter)?);
                    self.escape = Escape::None;
                }
                (Escape::Unicode { digits, unit }, digit) => self.unicode(digits, unit, digit, out)?,
            }
        }
        Ok(Read { taken: at, ended: false })
    }

    fn unicode(&mut self, digits: u8, unit: u16, digit: u8, out: &mut Vec<u8>) -> Result<(), String> {
        let Some(value) = (digit as char).to_digit(16) else {
            return Err(format!("invalid character {:?} in \\u hexadecimal character escape", digit as char));
        };
        let unit = unit << 4 | value as u16;
        if digits < 3 {
            self.escape = Escape::Unicode { digits: digits + 1, unit };
            return Ok(());
        }
        self.escape = Escape::None;
        if let Some(high) = self.high.take() {
            if let Some(Ok(c)) = char::decode_utf16([high, unit]).next() {
                push(c, out);
                return Ok(());
            }
            push(char::REPLACEMENT_CHARACTER, out);
        }
        match unit {
            0xd800..=0xdbff => self.high = Some(unit),
            _ => push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER), out),
        }
        Ok(())
    }

    /// Copies characters; the beginning of one at the end is kept for later.
    fn characters(&mut self, mut run: &[u8], out: &mut Vec<u8>) {
        while !self.partial.is_empty() {
            let Some((&byte, rest)) = run.split_first() else { return };
            self.partial.push(byte);
            match std::str::from_utf8(&self.partial) {
                Ok(text) => {
                    out.extend_from_slice(text.as_bytes());
                    self.partial.clear();
                }
                Err(error) if error.error_len().is_none() => {}
                // The new byte does not belong to what was begun.
                Err(_) => {
                    self.partial.pop();
                    self.finish_character(out);
                    continue;
                }
            }
            run = rest;
        }
        let mut chunks = run.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.extend_from_slice(chunk.valid().as_bytes());
            let invalid = chunk.invalid();
            let is_beginning = chunks.peek().is_none()
                && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if is_beginning {
                self.partial.extend_from_slice(invalid);
            } else {
                invalid.iter().for_each(|_| push(char::REPLACEMENT_CHARACTER, out));
            }
        }
    }

    /// A character that was begun does not go on.
    fn finish_character(&mut self, out: &mut Vec<u8>) {
        self.partial.drain(..).for_each(|_| push(char::REPLACEMENT_CHARACTER, out));
    }

    /// The other half does not come.
    fn finish_surrogate(&mut self, out: &mut Vec<u8>) {
        if self.high.take().is_some() {
            push(char::REPLACEMENT_CHARACTER, out);
        }
    }
}

fn unescaped(letter: u8) -> Result<u8, String> {
    Ok(match letter {
        b'"' | b'\\' | b'/' => letter,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return Err(format!("invalid character {:?} in string escape code", letter as char)),
    })
}

fn push(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
