//! What a websocket carries to the client: outputs, the status, and how much input may come.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, StreamExt};
use protocol::{
    Output, OutputReader, Result,
    extension::{Channel, Status, Windows},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{
    connection::Shutdown,
    sessions::{Ended, end_of},
    stdin_queue::STDIN_QUEUE_BYTES,
    websocket,
};

/// Room for input is told when there is this much more of it.
const TOLD_ROOM_BYTES: u64 = STDIN_QUEUE_BYTES as u64 / 4;

/// The most that one message carries to a client, and to one that took the last message slowly, after which it grows
/// again: a message counts as progress only when the kernel has all of it.
const PIECE_MAX_BYTES: usize = 64 * 1024;
const SLOW_PIECE_MAX_BYTES: usize = 4 * 1024;
/// A message that takes longer than this is taken slowly.
const SLOW: Duration = Duration::from_secs(1);

/// What the client has asked for of an output so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    bytes: u64,
    no_more: bool,
}

impl Asked {
    pub(crate) fn more(&mut self, bytes: u32) {
        self.bytes = self.bytes.saturating_add(bytes.into());
    }

    pub(crate) fn no_more(&mut self) {
        self.no_more = true;
    }
}

/// The outputs of a process on their way to one client.
pub(crate) type Outputs = [Flow; 2];

/// The outputs, and where to say what is asked for of them. Without windows everything is, from the start.
pub(crate) fn outputs(outputs: [Output; 2], windowed: bool) -> ([watch::Sender<Asked>; 2], Outputs) {
    let bytes = if windowed { 0 } else { u64::MAX };
    let asked = [(); 2].map(|()| watch::Sender::new(Asked { bytes, no_more: false }));
    let [stdout, stderr] = outputs;
    let flow = |channel, output, asked: &watch::Sender<Asked>| Flow {
        channel,
        output,
        asked: asked.subscribe(),
        reader: None,
        chunk: Bytes::new(),
        sent_bytes: 0,
        ended: false,
    };
    let flows = [flow(Channel::Stdout, stdout, &asked[0]), flow(Channel::Stderr, stderr, &asked[1])];
    (asked, flows)
}

/// One output on its way to one client.
pub(crate) struct Flow {
    channel: Channel,
    output: Output,
    asked: watch::Receiver<Asked>,
    /// None until it is asked for: until then nobody reads.
    reader: Option<OutputReader>,
    /// Read, and not sent yet.
    chunk: Bytes,
    sent_bytes: u64,
    ended: bool,
}

/// What is to be sent of an output.
enum Next {
    Piece(Bytes),
    /// There is no more.
    End,
    /// The client wants no more.
    NoMore,
}

impl Flow {
    fn is_asked_for(&self) -> bool {
        self.asked.borrow().bytes > 0
    }

    /// Whether there is, or soon may be, something to send.
    fn moves(&self) -> bool {
        !self.ended && self.asked.borrow().bytes > self.sent_bytes
    }

    /// Waits for what is to be sent next, at most so much. It may be dropped while it waits.
    async fn next(&mut self, max_bytes: usize) -> std::io::Result<Next> {
        loop {
            let Asked { bytes, no_more } = *self.asked.borrow_and_update();
            if no_more {
                return Ok(Next::NoMore);
            }
            let room = usize::try_from(bytes - self.sent_bytes).unwrap_or(usize::MAX);
            if room > 0 && !self.chunk.is_empty() {
                return Ok(Next::Piece(self.chunk.split_to(room.min(max_bytes).min(self.chunk.len()))));
            }
            let chunk = async {
                if room == 0 {
                    return std::future::pending().await;
                }
                self.reader.get_or_insert_with(|| self.output.reader()).next().await
            };
            tokio::select! {
                chunk = chunk => match chunk.transpose()? {
                    Some(chunk) => self.chunk = chunk,
                    None => return Ok(Next::End),
                },
                // It ends with whoever reads the client's messages, and then this is dropped too.
                Ok(()) = self.asked.changed() => {}
            }
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        if let Some(reader) = &mut self.reader {
            reader.passed_on(bytes);
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.reader = None;
    }
}

/// Sends everything that there is to send, each message to the kernel before the next one is made: what was told to
/// the backend as passed on is not lost with this server. Answers with how to close the websocket; none if nobody is
/// there any more. When the server stops, the message that is under way is finished.
pub(crate) async fn write(
    mut sink: impl Sink<Message, Error = tungstenite::Error> + Unpin,
    [mut stdout, mut stderr]: Outputs,
    ended: &mut Ended,
    mut freed: Option<watch::Receiver<u64>>,
    retention: Duration,
    mut shutdown: Shutdown,
) -> Option<CloseFrame> {
    let mut told_room = 0;
    let mut status_told = false;
    let mut retained = false;
    let mut piece_max_bytes = PIECE_MAX_BYTES;
    let stops =
        || Some(websocket::close(CloseCode::Away, "the server stops, the process goes on: attach again"));
    loop {
        if shutdown.is_requested() {
            return stops();
        }
        if let Some(freed) = &mut freed {
            let room = *freed.borrow_and_update() + u64::from(STDIN_QUEUE_BYTES);
            if room - told_room >= TOLD_ROOM_BYTES {
                let stdin = u32::try_from(room - told_room).unwrap_or(u32::MAX);
                told_room += u64::from(stdin);
                let windows = Windows { stdin, ..Windows::default() };
                send(&mut sink, Channel::Windows.document(&windows)).await?;
            }
        }
        let is_over = |flow: &Flow| flow.ended || (retained && !flow.is_asked_for());
        if status_told && is_over(&stdout) && is_over(&stderr) {
            return Some(websocket::close(CloseCode::Normal, ""));
        }
        let tell_status = !status_told && !stdout.moves() && !stderr.moves();
        let (flow, next) = tokio::select! {
            next = stdout.next(piece_max_bytes), if !stdout.ended => (&mut stdout, next),
            next = stderr.next(piece_max_bytes), if !stderr.ended => (&mut stderr, next),
            exit = end_of(ended), if tell_status => {
                // None: the server stops.
                let Some(exit) = exit else { return stops() };
                send(&mut sink, Channel::Status.document(&Status::of(&exit))).await?;
                status_told = true;
                continue;
            }
            () = shutdown.requested() => return stops(),
            () = changed(&mut freed) => continue,
            () = sleep(retention), if status_told && !retained => {
                retained = true;
                continue;
            }
        };
        match next {
            Ok(Next::Piece(piece)) => {
                let begin = Instant::now();
                send(&mut sink, Ok(flow.channel.message(&piece))).await?;
                piece_max_bytes = match begin.elapsed() > SLOW {
                    true => SLOW_PIECE_MAX_BYTES,
                    false => PIECE_MAX_BYTES.min(2 * piece_max_bytes),
                };
                flow.sent(piece.len());
            }
            Ok(Next::End) => {
                flow.end();
                send(&mut sink, Ok(Channel::Close.message(&[flow.channel as u8]))).await?;
            }
            Ok(Next::NoMore) => flow.end(),
            Err(error) => {
                tracing::warn!(%error, "a process's output was cut short");
                let reason = format!("the process's output was cut short: {error}");
                return Some(websocket::close(CloseCode::Error, &reason));
            }
        }
    }
}

/// Waits until there is more room for input.
async fn changed(freed: &mut Option<watch::Receiver<u64>>) {
    let changed = match freed {
        Some(freed) => freed.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        // Nobody reads input any more.
        std::future::pending().await
    }
}

/// None if nobody is there any more.
async fn send(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    message: Result<Vec<u8>>,
) -> Option<()> {
    let sent = match message {
        Ok(message) => sink.send(Message::Binary(message.into())).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    sent.map_err(|error| tracing::debug!(error, "a client of a process's websocket left")).ok()
}
