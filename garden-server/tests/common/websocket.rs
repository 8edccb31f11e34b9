//! A client of process websockets.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::client::Response,
        http::HeaderValue,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{Server, within};

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const STATUS: u8 = 3;
pub const RESIZE: u8 = 4;
pub const SIGNAL: u8 = 5;
pub const WINDOWS: u8 = 6;
pub const CLOSE: u8 = 255;

pub struct Socket {
    pub stream: WebSocketStream<UnixStream>,
    pub stream_id: String,
}

/// All that a server sent up to the end.
#[derive(Debug, Default)]
pub struct Rest {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: Option<Value>,
    pub close: Option<(u16, String)>,
}

impl Rest {
    /// The exit status as kubectl reads it.
    pub fn exit_code(&self) -> i64 {
        let status = self.status.as_ref().expect("a status");
        if status["status"] == "Success" {
            return 0;
        }
        assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"NonZeroExitCode".into()));
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["reason"], "ExitCode");
        cause["message"].as_str().unwrap().parse().unwrap()
    }
}

impl Server {
    /// Starts a process without streams.
    pub async fn start_process(&self, spec: &str) -> String {
        let response = self.request("POST /v1/containers/c1/processes", spec).await;
        assert_eq!(response.status, 201, "{}", response.text());
        response.json()["process_id"].as_str().unwrap().to_owned()
    }

    pub async fn try_attach(&self, path: &str) -> Result<Socket, Box<Error>> {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        let protocols = HeaderValue::from_static("v5.channel.k8s.io");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocols);
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (stream, response): (_, Response) =
            within(client_async(request, stream)).await.map_err(Box::new)?;
        let stream_id = response.headers()["garden-stream-id"].to_str().unwrap().to_owned();
        Ok(Socket { stream, stream_id })
    }

    pub async fn attach(&self, process_id: &str) -> Socket {
        self.try_attach(&format!("/v1/containers/c1/processes/{process_id}/stream")).await.unwrap()
    }

    pub async fn attach_windowed(&self, process_id: &str) -> Socket {
        let path = format!("/v1/containers/c1/processes/{process_id}/stream?windows=true");
        self.try_attach(&path).await.unwrap()
    }

    /// Starts a process and attaches to it.
    pub async fn run_over_websocket(&self, spec: &str) -> Socket {
        let id = self.start_process(spec).await;
        self.attach(&id).await
    }
}

impl Socket {
    pub async fn send(&mut self, channel: u8, data: impl AsRef<[u8]>) {
        self.send_message(Message::binary([&[channel], data.as_ref()].concat())).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        within(self.stream.send(message)).await.unwrap();
    }

    /// The next message of a channel.
    pub async fn next(&mut self) -> (u8, Vec<u8>) {
        match within(self.stream.next()).await.expect("a message").expect("a message") {
            Message::Binary(message) => (message[0], message[1..].to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Reads until that much of standard output has come.
    pub async fn stdout(&mut self, bytes: usize) -> Vec<u8> {
        let mut stdout = Vec::new();
        while stdout.len() < bytes {
            let (channel, data) = self.next().await;
            assert_eq!(channel, STDOUT, "{:?}", String::from_utf8_lossy(&data));
            stdout.extend(data);
        }
        stdout
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> Rest {
        let mut rest = Rest::default();
        while let Some(message) = within(self.stream.next()).await {
            match message {
                Ok(Message::Binary(message)) => match (message[0], &message[1..]) {
                    (STDOUT, data) => rest.stdout.extend_from_slice(data),
                    (STDERR, data) => rest.stderr.extend_from_slice(data),
                    (STATUS, data) => {
                        assert!(rest.status.is_none(), "one status");
                        rest.status = Some(serde_json::from_slice(data).unwrap());
                    }
                    (WINDOWS | CLOSE, _) => {}
                    (channel, _) => panic!("channel {channel}"),
                },
                Ok(Message::Close(frame)) => {
                    let CloseFrame { code, reason } = frame.expect("a code");
                    rest.close = Some((code.into(), reason.to_string()));
                }
                Ok(other) => panic!("{other:?}"),
                Err(Error::ConnectionClosed | Error::Io(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        rest
    }

    pub async fn close(&mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.send_message(Message::Close(Some(frame))).await;
    }
}
