//! What this project has beside the Garden protocol: process streams that carry any bytes over one connection, and a
//! plain way to run a process for whoever has only an HTTP client; and a request that gives a container other outbound
//! rules in place of all that it has.
//!
//! Everything of it is below `/v1`. A server says that it has it by the header [`HEADER`], in the answers to those
//! requests only that carry the header themselves: the answers to other clients stay those of the protocol.
//!
//! A process is started by `POST /v1/containers/:handle/processes`, and attached to by a websocket (RFC 6455) with the
//! subprotocol [`SUBPROTOCOL`], Kubernetes' own, on `…/processes/:pid/stream`. Its messages are binary; the first byte
//! of each names the [`Channel`], the rest is what goes over it. The server ends a stream by the process's [`Status`]
//! and the close code 1000; by 1001 and no status when it stops, upon which a client attaches again.
//!
//! **From the start.** Outputs begin where the last client that read them stopped. With `from=start` in the query they
//! begin where the process did, as far as that is held: until a minute after the exit, and by the server that started it.
//!
//! **Windows.** Over one connection an output that nobody reads would hold up the others. So a client that adds
//! `windows=true` to the query gets no more of an output than it asked for with [`Windows`], nothing at first, and
//! sends no more input than the server asked for. Then both ends can always read what the other one sends, and a
//! reader that stops costs only its own output. The status is then sent as soon as nothing can be sent before it, and
//! the stream ends when the outputs that were asked for have.
//!
//! Without windows the server stops reading while it holds a MiB of input that the process does not take: until it takes
//! some, what comes behind is not seen, signals and pings too. A client of that kind is not to take a missing pong for a
//! lost connection. And of a client that is gone, what the server has not read yet is dropped when the process takes no
//! input for five seconds.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, Signal, WindowSize,
    container::is_default,
    json,
    routes::{Route, RouteDef, ordinary},
};

/// The header by which a client asks which extensions there are, and a server answers.
pub const HEADER: &str = "garden-extensions";
/// In [`HEADER`]: this module.
pub const PROCESS_STREAMS: &str = "process-streams";
/// Of the websocket.
pub const SUBPROTOCOL: &str = "v5.channel.k8s.io";
/// In the head that begins a websocket: the stream id by which the outputs can also be had on connections of their own
/// ([`Route::Stdout`], [`Route::Stderr`]), from the same place on, until a minute after the exit.
pub const STREAM_ID_HEADER: &str = "garden-stream-id";

/// The largest message on a websocket, with the byte that names its channel.
pub const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// What a message of input, or its end, takes up of the window besides its bytes: it costs something to keep.
pub const INPUT_MESSAGE_COST_BYTES: u32 = 64;

/// What the paths of all of them begin with.
pub const PREFIX: &str = "/v1/";

/// The routes.
pub const ROUTES: &[RouteDef] = &[
    ordinary(Route::StartProcess, "start_process", "POST", "/v1/containers/:handle/processes"),
    ordinary(Route::ProcessStatus, "process_status", "GET", "/v1/containers/:handle/processes/:pid"),
    ordinary(Route::ProcessResult, "process_result", "GET", "/v1/containers/:handle/processes/:pid/result"),
    ordinary(Route::SignalProcess, "signal_process", "POST", "/v1/containers/:handle/processes/:pid/signal"),
    ordinary(Route::ProcessStream, "process_stream", "GET", "/v1/containers/:handle/processes/:pid/stream"),
    ordinary(Route::ReplaceNetOut, "replace_net_out", "PUT", "/v1/containers/:handle/net/out"),
];

/// What a message on a websocket is about: its first byte. Up to `Resize`, and `Close`, they are Kubernetes'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// Client to server: standard input.
    Stdin = 0,
    /// Server to client: standard output.
    Stdout = 1,
    /// Server to client: standard error.
    Stderr = 2,
    /// Server to client: the process's end, a [`Status`].
    Status = 3,
    /// Client to server: a [`TerminalSize`].
    Resize = 4,
    /// Client to server: a [`SignalRequest`].
    Signal = 5,
    /// Either way: a [`Windows`].
    Windows = 6,
    /// Either way: one more byte, the channel that ends. From the client `Stdin`, the end of input, or an output that
    /// it wants no more of; from the server an output that has ended.
    Close = 255,
}

impl Channel {
    /// The channel of that byte.
    pub fn from_byte(byte: u8) -> Option<Channel> {
        use Channel::*;
        [Stdin, Stdout, Stderr, Status, Resize, Signal, Windows, Close].into_iter().find(|c| *c as u8 == byte)
    }

    /// A message on this channel.
    pub fn message(self, data: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(1 + data.len());
        message.push(self as u8);
        message.extend_from_slice(data);
        message
    }

    /// A message on this channel that is a JSON document.
    pub fn document<T: Serialize>(self, document: &T) -> Result<Vec<u8>> {
        json::encode(document).map(|data| self.message(&data))
    }
}

/// How many more bytes may be sent on each channel than was said before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Windows {
    /// From the server; each message, and the one that ends the input, takes up [`INPUT_MESSAGE_COST_BYTES`] besides its
    /// bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub stdin: u32,
    /// From the client.
    #[serde(skip_serializing_if = "is_default")]
    pub stdout: u32,
    /// From the client.
    #[serde(skip_serializing_if = "is_default")]
    pub stderr: u32,
}

/// The size of a terminal's window, as Kubernetes writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

impl From<WindowSize> for TerminalSize {
    fn from(WindowSize { columns, rows }: WindowSize) -> Self {
        TerminalSize { width: columns, height: rows }
    }
}

impl From<TerminalSize> for WindowSize {
    fn from(TerminalSize { width, height }: TerminalSize) -> Self {
        WindowSize { columns: width, rows: height }
    }
}

/// A signal to send: `{"signal":"terminate"}`, `{"signal":"kill"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SignalRequest {
    pub signal: SignalName,
}

/// What signals are called here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum SignalName {
    Terminate,
    Kill,
}

impl From<Signal> for SignalRequest {
    fn from(signal: Signal) -> Self {
        let signal = match signal {
            Signal::Terminate => SignalName::Terminate,
            Signal::Kill => SignalName::Kill,
        };
        SignalRequest { signal }
    }
}

impl From<SignalRequest> for Signal {
    fn from(request: SignalRequest) -> Self {
        match request.signal {
            SignalName::Terminate => Signal::Terminate,
            SignalName::Kill => Signal::Kill,
        }
    }
}

/// Answer to a process that was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StartedProcess {
    pub process_id: String,
}

/// How a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// The process.
    pub process_id: String,
    /// As a shell gives it; none while it runs.
    pub exit_status: Option<i32>,
}

/// How a process ended, and what it wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessResult {
    /// The process.
    pub process_id: String,
    /// As a shell gives it.
    pub exit_status: i32,
    /// Text, in which bytes that are not UTF-8 are U+FFFD; or the exact bytes in base64, with `?encoding=base64`. It begins
    /// with the first byte that is still held: of what nobody read while it was written the server keeps the last 16 MiB,
    /// and one that was started anew since goes on where the last reader was.
    pub stdout: String,
    /// The same.
    pub stderr: String,
    /// How much was written behind what `stdout` holds.
    #[serde(skip_serializing_if = "is_default")]
    pub stdout_dropped_bytes: u64,
    /// The same of `stderr`.
    #[serde(skip_serializing_if = "is_default")]
    pub stderr_dropped_bytes: u64,
}

/// The end of a process, as Kubernetes' `metav1.Status` and what reads it expect it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    metadata: StatusMetadata,
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<StatusDetails>,
    #[serde(skip_serializing_if = "is_default")]
    code: u16,
}

/// Empty, and always there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct StatusMetadata {}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct StatusDetails {
    causes: Vec<StatusCause>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct StatusCause {
    reason: String,
    message: String,
}

const SUCCESS: &str = "Success";
const FAILURE: &str = "Failure";
const NON_ZERO_EXIT_CODE: &str = "NonZeroExitCode";
const EXIT_CODE: &str = "ExitCode";
const INTERNAL_ERROR: &str = "InternalError";

impl Status {
    /// The status of a process that ended so.
    pub fn of(exit: &Result<i32>) -> Status {
        match exit {
            Ok(0) => Status { status: SUCCESS.to_owned(), ..Status::default() },
            Ok(code) => Status {
                status: FAILURE.to_owned(),
                message: format!("command terminated with non-zero exit code: {code}"),
                reason: NON_ZERO_EXIT_CODE.to_owned(),
                details: Some(StatusDetails {
                    causes: vec![StatusCause { reason: EXIT_CODE.to_owned(), message: code.to_string() }],
                }),
                ..Status::default()
            },
            Err(error) => Status {
                status: FAILURE.to_owned(),
                message: error.to_string(),
                reason: INTERNAL_ERROR.to_owned(),
                code: 500,
                ..Status::default()
            },
        }
    }

    /// How the process ended.
    pub fn into_exit(self) -> Result<i32> {
        if self.status == SUCCESS {
            return Ok(0);
        }
        if self.reason != NON_ZERO_EXIT_CODE {
            return Err(Error::Failed { message: self.message });
        }
        let causes = self.details.unwrap_or_default().causes;
        let code = causes.iter().find(|cause| cause.reason == EXIT_CODE);
        code.and_then(|cause| cause.message.parse().ok()).ok_or_else(|| Error::Malformed {
            reason: format!(
                "a status of the reason {NON_ZERO_EXIT_CODE} has no cause {EXIT_CODE} with a number"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_as_kubernetes_writes_them() {
        let text = |exit| String::from_utf8(json::encode(&Status::of(&exit)).unwrap()).unwrap();
        assert_eq!(text(Ok(0)), "{\"metadata\":{},\"status\":\"Success\"}\n");
        assert_eq!(
            text(Ok(7)),
            "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"command terminated with non-zero exit code: 7\",\
             \"reason\":\"NonZeroExitCode\",\"details\":{\"causes\":[{\"reason\":\"ExitCode\",\"message\":\"7\"}]}}\n"
        );
        assert_eq!(
            text(Err(Error::Failed { message: "boom".into() })),
            "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"boom\",\"reason\":\"InternalError\",\"code\":500}\n"
        );
    }

    #[test]
    fn a_status_gives_the_exit_back() {
        for exit in [Ok(0), Ok(1), Ok(137), Ok(255), Err(Error::Failed { message: "boom".into() })] {
            let document = json::encode(&Status::of(&exit)).unwrap();
            assert_eq!(json::decode::<Status>(&document).unwrap().into_exit(), exit);
        }
        let nameless = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[]}}"#;
        let error = json::decode::<Status>(nameless).unwrap().into_exit().unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }

    #[test]
    fn every_path_begins_alike() {
        assert!(ROUTES.iter().all(|route| route.path.starts_with(PREFIX)));
    }

    #[test]
    fn a_channel_is_its_byte() {
        let known: Vec<u8> = (0..=255).filter(|byte| Channel::from_byte(*byte).is_some()).collect();
        assert_eq!(known, [0, 1, 2, 3, 4, 5, 6, 255]);
        for byte in known {
            assert_eq!(Channel::from_byte(byte).unwrap() as u8, byte);
        }
        assert_eq!(
            Channel::Resize.document(&TerminalSize { width: 80, height: 24 }).unwrap(),
            b"\x04{\"Width\":80,\"Height\":24}\n"
        );
    }
}
