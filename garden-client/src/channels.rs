//! A process over a websocket: one connection for its input, its outputs, its exit and its terminal's size.
//!
//! A task drives the connection: it takes whatever the server sends, which is never more than was asked for, and sends
//! what it is given, of which input is never more than the server asked for. So neither end ever waits for the other
//! to read, and an output whose reader stops holds nothing up but itself. The task ends with the connection, and with
//! the last of what uses it: the process's control, its exit and its outputs.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use protocol::{
    Error, Output, Process, ProcessControl, Result, Signal, TtySpec,
    extension::{Channel, INPUT_MESSAGE_COST_BYTES, SignalRequest, Status, TerminalSize, Windows},
    json,
    routes::Route,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::AbortHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::CloseFrame},
};

use crate::{
    address::Socket,
    channel_output::{self, Piece, Pieces},
    http::{Call, Http, body},
    process::OutputSource,
    websocket::Attached,
};

/// Input in one message.
const STDIN_MESSAGE_BYTES: usize = 64 << 10;
/// No server asks for so much input: more would be a mistake, or an attack on the counter.
const STDIN_WINDOW_MAX_BYTES: usize = 1 << 40;

/// Makes a process of the connection.
pub(crate) fn process(http: &Arc<Http>, handle: &str, attached: Attached) -> Process {
    let Attached { process_id, stream_id, websocket } = attached;
    let (orders, taken_orders) = mpsc::channel(1);
    let (notices, taken_notices) = mpsc::unbounded_channel();
    let [(stdout, stdout_pieces), (stderr, stderr_pieces)] = [(); 2].map(|()| mpsc::unbounded_channel());
    let exit = watch::Sender::new(None);
    let stdin_room = Arc::new(Semaphore::new(0));
    let to_come_bytes = Arc::<[AtomicU64; 2]>::default();
    let link = |driver| Link {
        orders,
        notices,
        stdin_room: stdin_room.clone(),
        exit: exit.subscribe(),
        outputs: Mutex::new([Some(stdout_pieces), Some(stderr_pieces)]),
        to_come_bytes: to_come_bytes.clone(),
        driver,
    };
    let events = Events {
        outputs: [Some(stdout), Some(stderr)],
        to_come_bytes: to_come_bytes.clone(),
        stdin_room: stdin_room.clone(),
        exit: exit.clone(),
        from: format!("process_stream: the connection to {}", http.endpoint.address),
    };
    let driver = tokio::spawn(drive(websocket, events, taken_orders, taken_notices));
    let link = Arc::new(link(driver.abort_handle()));
    let output = |route, channel| {
        let parameters = [handle.to_owned(), process_id.clone(), stream_id.clone()];
        let source = OutputSource { endpoint: http.endpoint.clone(), route, parameters };
        let link = link.clone();
        Output::new(move || channel_output::read(link.clone(), channel, source.clone()))
    };
    Process {
        stdout: output(Route::Stdout, Channel::Stdout),
        stderr: output(Route::Stderr, Channel::Stderr),
        control: Arc::new(Control {
            http: http.clone(),
            handle: handle.to_owned(),
            process_id: process_id.clone(),
            link: link.clone(),
            stdin: tokio::sync::Mutex::default(),
        }),
        exit: Box::pin(wait(link)),
        id: process_id,
    }
}

async fn wait(link: Arc<Link>) -> Result<i32> {
    let mut exit = link.exit.clone();
    match exit.wait_for(Option::is_some).await.map(|exit| exit.clone()) {
        Ok(Some(exit)) => exit,
        // The runtime ends, and the task did before it could say what happened.
        Ok(None) | Err(_) => Err(lost("process_stream", "is no longer served")),
    }
}

/// Concourse attaches again on errors that end in just these words, which are the Go client's.
fn lost(from: &str, what: &str) -> Error {
    Error::Connection { message: format!("{from} {what}: connection: decode failed: EOF") }
}

/// The connection, as all that use it see it.
pub(crate) struct Link {
    orders: mpsc::Sender<Order>,
    /// What need not be waited for, and is little: each follows upon something that the server sent.
    notices: mpsc::UnboundedSender<Vec<u8>>,
    /// How much input the server still wants; closed when it wants no more.
    stdin_room: Arc<Semaphore>,
    exit: watch::Receiver<Option<Result<i32>>>,
    /// What comes of standard output and standard error, until somebody takes it.
    outputs: Mutex<[Option<Pieces>; 2]>,
    /// How much was asked for of each output that has not come yet.
    to_come_bytes: Arc<[AtomicU64; 2]>,
    driver: AbortHandle,
}

impl Drop for Link {
    /// Closes the connection, and so detaches.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A message, and who is told when it has been sent.
type Order = (Vec<u8>, oneshot::Sender<()>);

impl Link {
    /// What comes of an output, for whoever asks first.
    pub fn claim(&self, output: Channel) -> Option<Pieces> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.get_mut(index(output)?)?.take()
    }

    /// Asks for this much more of an output.
    pub fn ask_for(&self, output: Channel, bytes: u32) {
        if let Some(to_come) = index(output).and_then(|index| self.to_come_bytes.get(index)) {
            to_come.fetch_add(bytes.into(), Ordering::Relaxed);
        }
        let windows = match output {
            Channel::Stdout => Windows { stdout: bytes, ..Windows::default() },
            _ => Windows { stderr: bytes, ..Windows::default() },
        };
        // Encoding three numbers cannot fail.
        self.notice(Channel::Windows.document(&windows).unwrap_or_default());
    }

    /// Wants no more of an output.
    pub fn close(&self, output: Channel) {
        self.notice(Channel::Close.message(&[output as u8]));
    }

    /// A connection that is gone needs no notice.
    fn notice(&self, message: Vec<u8>) {
        let _ = self.notices.send(message);
    }

    /// Sends a message. A connection that is gone is no error: what became of the process is told by its exit.
    async fn send(&self, message: Vec<u8>) {
        let (sent, is_sent) = oneshot::channel();
        if self.orders.send((message, sent)).await.is_ok() {
            let _ = is_sent.await;
        }
    }

    /// Waits until the server wants a message of input with so many bytes. False: it wants no more.
    async fn room_for(&self, bytes: usize) -> bool {
        let cost = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(INPUT_MESSAGE_COST_BYTES);
        self.stdin_room.acquire_many(cost).await.map(|room| room.forget()).is_ok()
    }
}

/// The place of an output.
fn index(output: Channel) -> Option<usize> {
    match output {
        Channel::Stdout => Some(0),
        Channel::Stderr => Some(1),
        _ => None,
    }
}

/// Where what the server sends goes.
struct Events {
    /// Standard output and standard error, until they have ended.
    outputs: [Option<mpsc::UnboundedSender<Piece>>; 2],
    to_come_bytes: Arc<[AtomicU64; 2]>,
    stdin_room: Arc<Semaphore>,
    exit: watch::Sender<Option<Result<i32>>>,
    /// For error texts.
    from: String,
}

impl Events {
    fn take(&mut self, message: &Bytes) -> Result<()> {
        let channel = message.first().copied().and_then(Channel::from_byte);
        let data = message.slice(message.len().min(1)..);
        match channel {
            Some(output @ (Channel::Stdout | Channel::Stderr)) => self.pass_on(output, Piece::Data(data)),
            Some(Channel::Close) => {
                let output = data.first().copied().and_then(Channel::from_byte);
                self.pass_on(output.unwrap_or(Channel::Close), Piece::End)
            }
            Some(Channel::Status) => {
                self.end(json::decode::<Status>(&data)?.into_exit());
                Ok(())
            }
            Some(Channel::Windows) => {
                let room = json::decode::<Windows>(&data)?.stdin as usize;
                if self.stdin_room.available_permits() + room > STDIN_WINDOW_MAX_BYTES {
                    return Err(self.malformed("asks for more input than there can be"));
                }
                self.stdin_room.add_permits(room);
                Ok(())
            }
            _ => {
                Err(self
                    .malformed(&format!("carries a message on no channel of ours: {:?}", message.first())))
            }
        }
    }

    fn pass_on(&mut self, output: Channel, piece: Piece) -> Result<()> {
        let Some(at) = index(output) else {
            return Err(self.malformed("closes a channel that is no output"));
        };
        if let Piece::Data(data) = &piece {
            let come = data.len() as u64;
            let fewer = |bytes: u64| bytes.checked_sub(come);
            if self.to_come_bytes[at].fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err() {
                return Err(self.malformed("carries more of an output than was asked for"));
            }
            if data.is_empty() {
                return Ok(());
            }
        }
        let ends = matches!(piece, Piece::End);
        if let Some(output) = &self.outputs[at] {
            // Whoever read it may be gone, which the server is told.
            let _ = output.send(piece);
        }
        if ends {
            self.outputs[at] = None;
        }
        Ok(())
    }

    fn malformed(&self, what: &str) -> Error {
        Error::Malformed { reason: format!("{} {what}", self.from) }
    }

    /// Tells the process's end, the first time, and that it takes no more input.
    fn end(&self, exit: Result<i32>) {
        self.exit.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(exit);
            first
        });
        self.stdin_room.close();
    }
}

const ENDED: &str = "ended before the process did";

fn closed(frame: &CloseFrame) -> String {
    format!("was closed by it ({}: {})", u16::from(frame.code), frame.reason)
}

/// Runs the connection to its end.
async fn drive(
    websocket: WebSocketStream<Socket>,
    mut events: Events,
    mut orders: mpsc::Receiver<Order>,
    mut notices: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let (mut sink, mut messages) = websocket.split();
    let mut sending = std::pin::pin!(async move {
        loop {
            let (message, sent) = tokio::select! {
                Some(message) = notices.recv() => (message, None),
                Some((message, sent)) = orders.recv() => (message, Some(sent)),
                else => return,
            };
            if sink.send(Message::Binary(message.into())).await.is_err() {
                return;
            }
            if let Some(sent) = sent {
                // Nobody may be waiting any more, which is fine.
                let _ = sent.send(());
            }
        }
    });
    let mut sends = true;
    let error = loop {
        let message = tokio::select! {
            message = messages.next() => message,
            // What the server has sent already is still taken.
            () = &mut sending, if sends => {
                sends = false;
                continue;
            }
        };
        match message {
            Some(Ok(Message::Binary(message))) => {
                if let Err(error) = events.take(&message) {
                    break error;
                }
            }
            Some(Ok(Message::Close(frame))) => {
                // Whoever asks for one more message answers this one.
                let _ = messages.next().now_or_never();
                break lost(&events.from, &frame.map_or(ENDED.to_owned(), |frame| closed(&frame)));
            }
            Some(Ok(Message::Text(_))) => break events.malformed("carries a text"),
            // Answered by the library.
            Some(Ok(_)) => {}
            Some(Err(tungstenite::Error::Protocol(_) | tungstenite::Error::ConnectionClosed)) | None => {
                break lost(&events.from, ENDED);
            }
            Some(Err(error)) => break lost(&events.from, &format!("was lost ({error})")),
        }
    };
    events.end(Err(error));
}

struct Control {
    http: Arc<Http>,
    handle: String,
    process_id: String,
    link: Arc<Link>,
    /// Who writes input: what is written in one call stays together.
    stdin: tokio::sync::Mutex<()>,
}

#[async_trait]
impl ProcessControl for Control {
    async fn write_stdin(&self, mut data: Bytes) -> Result<()> {
        let _turn = self.stdin.lock().await;
        while !data.is_empty() && self.link.room_for(data.len().min(STDIN_MESSAGE_BYTES)).await {
            let piece = data.split_to(data.len().min(STDIN_MESSAGE_BYTES));
            self.link.send(Channel::Stdin.message(&piece)).await;
        }
        Ok(())
    }

    async fn close_stdin(&self) -> Result<()> {
        let _turn = self.stdin.lock().await;
        if self.link.room_for(0).await {
            self.link.send(Channel::Close.message(&[Channel::Stdin as u8])).await;
        }
        Ok(())
    }

    /// By a request of its own, which is answered, and works when the connection is gone too.
    async fn signal(&self, signal: Signal) -> Result<()> {
        if matches!(*self.link.exit.borrow(), Some(Ok(_))) {
            return Ok(());
        }
        let parameters = [self.handle.as_str(), &self.process_id];
        let body = body(&SignalRequest::from(signal))?;
        match self.http.call(&Call { body, ..Call::new(Route::SignalProcess, &parameters) }).await {
            Err(Error::ProcessNotFound { .. } | Error::ContainerNotFound { .. }) => Ok(()),
            sent => sent.map(drop),
        }
    }

    async fn set_tty(&self, tty: TtySpec) -> Result<()> {
        self.link.send(Channel::Resize.document(&TerminalSize::from(tty.size()))?).await;
        Ok(())
    }
}
