//! Text as Go reads it: broken bytes and broken escapes become U+FFFD.

use std::borrow::Cow;

/// Each byte that is not part of UTF-8 becomes one U+FFFD.
pub(super) fn to_utf8(bytes: &[u8]) -> Cow<'_, str> {
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
pub(super) fn replace_lone_surrogates(text: Cow<'_, str>) -> Cow<'_, str> {
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
