//! Turning a server's answers into errors.

use std::{io, time::Duration};

use hyper::StatusCode;
use protocol::{Error, ErrorBody, json, routes::Route};

use crate::address::Address;

/// Whose answer it is: for error texts, and to know which typed error an untyped one stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub address: &'a Address,
    pub route: Route,
    pub parameters: &'a [&'a str],
}

impl Context<'_> {
    /// The error that an answer with an error status stands for.
    pub fn error(&self, status: u16, body: &[u8]) -> Error {
        match json::decode::<ErrorBody>(body) {
            Ok(body) if !body.message.is_empty() => self.retype(status, body.into_error()),
            // Not from a Garden server's routes: its 404 and 405 in plain text, or a proxy's page.
            _ => Error::Failed {
                message: format!(
                    "{} answered {} with {}{}; does a Garden server listen there?",
                    self.address,
                    self.route.def().name,
                    status_line(status),
                    first_line(body)
                ),
            },
        }
    }

    /// The connection was lost after it had been made.
    pub fn lost(&self, error: &dyn std::fmt::Display) -> Error {
        let def = self.route.def();
        let next = match def.method {
            "GET" => "try again",
            _ => "it may have been done all the same: look before trying again",
        };
        Error::Connection {
            message: format!(
                "the connection to {} was lost during {}: {error}; {next}",
                self.address, def.name
            ),
        }
    }

    /// What came is no answer of an HTTP server: asking again would not help.
    pub fn malformed(&self, error: &dyn std::fmt::Display) -> Error {
        let (name, address) = (self.route.def().name, self.address);
        Error::Malformed { reason: format!("{name}: {address} answered with what is no answer: {error}") }
    }

    /// Reading the answer failed: of the connection, or of what came over it.
    pub fn broken(&self, error: &io::Error) -> Error {
        if error.kind() == io::ErrorKind::InvalidData { self.malformed(error) } else { self.lost(error) }
    }

    /// The server let this time pass.
    pub fn timed_out(&self, after: Duration) -> Error {
        let def = self.route.def();
        let address = self.address.to_string();
        Error::TimedOut { operation: def.name, address, after, perhaps_done: def.method != "GET" }
    }

    /// The wire has types for a few errors only. The texts of the others are part of the contract too, so that they
    /// can be told apart here as they are behind the server's seam.
    fn retype(&self, status: u16, error: Error) -> Error {
        let Error::Failed { message } = error else { return error };
        let parameter = |at: usize| self.parameters.get(at).map(|p| (*p).to_owned()).unwrap_or_default();
        if status == 400 {
            return Error::BadRequest { reason: message };
        }
        if message == "container already being destroyed" {
            return Error::DestroyInProgress { handle: parameter(0) };
        }
        if let Some(key) = message.strip_prefix("property does not exist: ") {
            return Error::PropertyNotFound { key: key.to_owned() };
        }
        if let Some(handle) =
            message.strip_prefix("Handle '").and_then(|m| m.strip_suffix("' already in use"))
        {
            return Error::HandleInUse { handle: handle.to_owned() };
        }
        if let Some(Ok(limit)) = message.strip_prefix("max containers reached: ").map(str::parse) {
            return Error::MaxContainersReached { limit };
        }
        Error::Failed { message }
    }
}

fn status_line(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    format!("{status} {}", reason.unwrap_or_default()).trim_end().to_owned()
}

fn first_line(body: &[u8]) -> String {
    const SHOWN_CHARS: usize = 200;
    let text = String::from_utf8_lossy(body);
    match text.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => format!(": {}", line.chars().take(SHOWN_CHARS).collect::<String>()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, body: &str) -> Error {
        let address = Address::Tcp("h:1".into());
        Context { address: &address, route: Route::Info, parameters: &["c1"] }.error(status, body.as_bytes())
    }

    fn untyped(message: &str) -> String {
        let body = ErrorBody { message: message.into(), ..ErrorBody::default() };
        String::from_utf8(json::encode(&body).unwrap()).unwrap()
    }

    #[test]
    fn untyped_errors_get_their_type_back() {
        let all = [
            Error::HandleInUse { handle: "c1".into() },
            Error::DestroyInProgress { handle: "c1".into() },
            Error::PropertyNotFound { key: "k".into() },
            Error::MaxContainersReached { limit: 3 },
            Error::Failed { message: "anything else".into() },
        ];
        for wanted in all {
            assert_eq!(error(wanted.status(), &untyped(&wanted.to_string())), wanted);
        }
        assert_eq!(error(400, &untyped("no")), Error::BadRequest { reason: "no".into() });
    }

    #[test]
    fn an_answer_without_a_garden_error_is_quoted() {
        for (body, quoted) in [
            ("404 page not found\n", ": 404 page not found;"),
            ("\n  <html>\nproxy", ": <html>;"),
            ("{}", ": {};"),
            ("", "404 Not Found;"),
        ] {
            let text = error(404, body).to_string();
            assert!(text.starts_with("tcp:h:1 answered info with 404 Not Found"), "{text}");
            assert!(text.contains(quoted), "{text}");
        }
    }
}
