//! Websockets (RFC 6455): their beginning, their bounds, and why they are closed.

use hyper::{
    HeaderMap, StatusCode,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use protocol::{
    Error, Result,
    extension::{MESSAGE_MAX_BYTES, STREAM_ID_HEADER, SUBPROTOCOL},
};
use tokio_tungstenite::tungstenite::{
    self,
    error::ProtocolError,
    handshake::derive_accept_key,
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};
use warp::reply::Response;

use crate::connection::Hijack;

/// What a request says that wants a websocket.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    key: HeaderValue,
}

impl Handshake {
    /// Reads a request's headers; none if it wants none, or one that nobody here speaks.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Handshake> {
        let lists = |name: HeaderName, wanted: &str| {
            let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
        };
        let wanted = lists(UPGRADE, "websocket")
            && lists(CONNECTION, "upgrade")
            && lists(SEC_WEBSOCKET_VERSION, "13")
            && lists(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| wanted)?;
        Some(Handshake { key: key.clone() })
    }

    /// What to tell a client whose request is no handshake.
    pub(crate) fn missing() -> Error {
        Error::BadRequest {
            reason: format!(
                "this is a websocket: ask for it by a handshake of RFC 6455 (version 13) with the subprotocol \
                 {SUBPROTOCOL}"
            ),
        }
    }

    /// The head behind which the websocket begins.
    pub(crate) fn accept(self, stream_id: &str, hijack: Hijack) -> Result<Response> {
        let value = |text: String| HeaderValue::try_from(text).map_err(|error| Error::failed(&error));
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, value(derive_accept_key(self.key.as_bytes()))?);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        headers.insert(HeaderName::from_static(STREAM_ID_HEADER), value(stream_id.to_owned())?);
        response.extensions_mut().insert(hijack);
        Ok(response)
    }
}

/// The bounds of a websocket.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES))
        // Every message is handed to the kernel before the next one is made.
        .write_buffer_size(0)
}

/// A close frame of this code; the reason is cut to what fits into one.
pub(crate) fn close(code: CloseCode, reason: &str) -> CloseFrame {
    const REASON_MAX_BYTES: usize = 123;
    let end = (0..=reason.len().min(REASON_MAX_BYTES)).rev().find(|at| reason.is_char_boundary(*at));
    CloseFrame { code, reason: reason[..end.unwrap_or(0)].into() }
}

/// How to close upon an error of receiving; none when nobody is there any more.
pub(crate) fn close_upon(error: &tungstenite::Error) -> Option<CloseFrame> {
    match error {
        tungstenite::Error::Capacity(_) => Some(close(
            CloseCode::Size,
            &format!("a message is larger than {MESSAGE_MAX_BYTES} bytes: send several"),
        )),
        tungstenite::Error::Utf8(_) => Some(close(CloseCode::Invalid, "a text is not UTF-8")),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        tungstenite::Error::Protocol(error) => Some(close(CloseCode::Protocol, &error.to_string())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs =
            pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    const BROWSER: &[(&str, &str)] = &[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "v4.channel.k8s.io, v5.channel.k8s.io"),
    ];

    #[test]
    fn a_handshake_needs_each_of_its_headers() {
        assert!(Handshake::read(&headers(BROWSER)).is_some());
        for missing in BROWSER {
            let pairs: Vec<_> = BROWSER.iter().copied().filter(|pair| pair != missing).collect();
            assert!(Handshake::read(&headers(&pairs)).is_none(), "without {missing:?}");
        }
    }

    #[test]
    fn a_reason_fits_into_its_frame() {
        for reason in ["short".to_owned(), "é".repeat(200), format!("x{}", "é".repeat(200))] {
            let frame = close(CloseCode::Policy, &reason);
            assert!(frame.reason.len() <= 123 && reason.starts_with(frame.reason.as_str()), "{frame:?}");
        }
    }
}
