//! Getting a websocket to a process from a server that has them, and finding out whether it has.
//!
//! It all goes over one connection: what starts a process becomes the process's websocket.

use protocol::{
    Error, Result,
    extension::{HEADER, MESSAGE_MAX_BYTES, PROCESS_STREAMS, STREAM_ID_HEADER, SUBPROTOCOL, StartedProcess},
    json,
    routes::Route,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use crate::{
    address::{Endpoint, Socket},
    http::Call,
    raw::{Head, Wire},
    retry::Backoff,
};

/// A process that this client is attached to.
pub(crate) struct Attached {
    pub process_id: String,
    /// By which its outputs can be had on connections of their own.
    pub stream_id: String,
    pub websocket: WebSocketStream<Socket>,
}

/// Whether the server has process streams of this kind.
pub(crate) async fn are_there(endpoint: &Endpoint) -> Result<bool> {
    let call = Call::new(Route::Ping, &[]);
    let mut backoff = Backoff::new(endpoint.retry_for);
    loop {
        let socket = endpoint.connect_with(&mut backoff).await?;
        match Wire::over(endpoint, socket).ask(&call, &extensions()).await {
            Err(Error::Connection { .. }) if backoff.pause().await => {}
            // Whether it can serve just now is another question.
            head => return Ok(has_process_streams(&head?)),
        }
    }
}

/// Starts a process with this JSON for a spec, and attaches to it. None: the server has no such thing, and nothing
/// was started.
pub(crate) async fn run(endpoint: &Endpoint, handle: &str, spec: Vec<u8>) -> Result<Option<Attached>> {
    let parameters = [handle];
    let call = Call { body: Some(spec), ..Call::new(Route::StartProcess, &parameters) };
    let mut wire = Wire::open(endpoint).await?;
    let head = wire.ask(&call, &extensions()).await?;
    if !has_process_streams(&head) {
        return Ok(None);
    }
    if head.status != 201 {
        return Err(wire.error(&call, &head).await);
    }
    let answer = wire.body(&call, &head).await?;
    let started = json::decode::<StartedProcess>(&answer);
    let StartedProcess { process_id } = started.map_err(|e| call.context(endpoint).malformed(&e))?;
    if process_id.is_empty() {
        return Err(call.context(endpoint).malformed(&"it names no process"));
    }
    // From the start: somebody else may have attached since.
    let attached = upgrade(wire, handle, process_id.clone(), "from=start&windows=true").await;
    // It must not be started once more, whatever becomes of its streams.
    let why = match attached {
        Ok(None) => "the server has no websockets any more".to_owned(),
        Err(Error::Connection { message }) => message,
        answered => return answered,
    };
    let why = why.trim_end_matches("; try again");
    let message = format!("run: process {process_id} was started, but not attached to: {why}; attach to it");
    Err(Error::Connection { message })
}

/// Attaches to a process. None: the server has no such thing.
pub(crate) async fn attach(endpoint: &Endpoint, handle: &str, process_id: &str) -> Result<Option<Attached>> {
    upgrade(Wire::open(endpoint).await?, handle, process_id.to_owned(), "windows=true").await
}

async fn upgrade(
    mut wire: Wire<'_>,
    handle: &str,
    process_id: String,
    query: &str,
) -> Result<Option<Attached>> {
    let parameters = [handle, process_id.as_str()];
    let call = Call { query: query.to_owned(), ..Call::new(Route::ProcessStream, &parameters) };
    let key = generate_key();
    let fields = format!(
        "{}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n",
        extensions()
    );
    let head = wire.ask(&call, &fields).await?;
    if !has_process_streams(&head) {
        return Ok(None);
    }
    if head.status != 101 {
        return Err(wire.error(&call, &head).await);
    }
    let accepted = head.field("sec-websocket-accept") == Some(derive_accept_key(key.as_bytes()).as_str())
        && head.field("sec-websocket-protocol") == Some(SUBPROTOCOL);
    let (true, Some(stream_id)) = (accepted, head.field(STREAM_ID_HEADER).map(str::to_owned)) else {
        let reason =
            "it begins a websocket that was not asked for; if a proxy is in between, try classic streams";
        return Err(call.context(wire.endpoint).malformed(&reason));
    };
    let (socket, early) = wire.into_socket();
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX_BYTES))
        .max_frame_size(Some(MESSAGE_MAX_BYTES));
    let websocket =
        WebSocketStream::from_partially_read(socket, early.into(), Role::Client, Some(config)).await;
    Ok(Some(Attached { process_id, stream_id, websocket }))
}

/// Asks which extensions there are.
fn extensions() -> String {
    format!("{HEADER}: {PROCESS_STREAMS}\r\n")
}

fn has_process_streams(head: &Head) -> bool {
    let told = head.field(HEADER).unwrap_or_default();
    told.split(',').any(|extension| extension.trim() == PROCESS_STREAMS)
}

impl Wire<'_> {
    /// The error that the answer behind this head is.
    async fn error(&mut self, call: &Call<'_>, head: &Head) -> Error {
        match self.body(call, head).await {
            Ok(body) => call.context(self.endpoint).error(head.status, &body),
            Err(error) => error,
        }
    }
}
