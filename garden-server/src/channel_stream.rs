//! A process over a websocket: its streams as channels, as `protocol::extension` describes them.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitStream};
use protocol::{
    Output, ProcessControl, Result, TtySpec,
    extension::{Channel, SignalRequest, TerminalSize, Windows},
    json,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use crate::{
    channel_output::{self, Asked},
    connection::Hijacked,
    sessions::{Ended, Session, end_of},
    socket::Patient,
    stdin_queue::{Piece, StdinQueue, write_stdin},
    websocket,
};

/// How long a client may take to take the last messages.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// The same from the server's stop on, which does not wait long for anybody.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How long a process may take to take input whose client is gone: then only what waits for it already is kept, and
/// not the connection with what it may hold beyond that.
const INPUT_PATIENCE: Duration = Duration::from_secs(5);

/// A process as a client that attached by a websocket is to see it.
pub(crate) struct Attachment {
    pub(crate) session: Session,
    /// Standard output and standard error.
    pub(crate) outputs: [Output; 2],
    /// Whether each channel has a window.
    pub(crate) windowed: bool,
    /// How long outputs that were not asked for can be after the exit.
    pub(crate) retention: Duration,
}

/// Serves the websocket until all is told, the server stops, or nobody is left to serve.
pub(crate) async fn serve(hijacked: Hijacked, attachment: Attachment) {
    let Hijacked { socket, early, shutdown } = hijacked;
    let Attachment { session, outputs, windowed, retention } = attachment;
    let Session { control, mut ended, .. } = session;
    let gone = socket.watch_peer();
    let config = Some(websocket::config());
    let websocket =
        WebSocketStream::from_partially_read(Patient::new(socket), early.into(), Role::Server, config).await;
    let (mut sink, messages) = websocket.split();

    let (queue, pieces) = StdinQueue::new();
    let taken = pieces.freed();
    let told_room = windowed.then(|| taken.clone());
    let (asked, outputs) = channel_output::outputs(outputs, windowed);
    let mut reading = Box::pin(read(messages, control.clone(), queue, asked));
    // In a task of its own, as is what is left to read when the client is gone: what it sent before goes to the
    // process.
    until_end(ended.clone(), async move { write_stdin(pieces, control.as_ref()).await });

    let mut stop = shutdown.clone();
    let mut stop_patience = pin!(async move {
        stop.requested().await;
        sleep(STOP_PATIENCE).await;
    });
    let (messages, frame) = tokio::select! {
        biased;
        // A message is stuck half-way: what follows, were it only a close frame, would push the rest of it out
        // without the backend's being told, and the client would get it again when it attaches again.
        () = &mut stop_patience => return,
        (messages, frame) = &mut reading => match frame {
            Some(frame) => (Some(messages), frame),
            None => return,
        },
        frame = async {
            tokio::select! {
                frame = channel_output::write(&mut sink, outputs, &mut ended, told_room, retention, shutdown) => frame,
                () = gone => None,
            }
        } => match frame {
            Some(frame) => (None, frame),
            None => {
                return until_end(ended, async move {
                    tokio::select! {
                        _ = reading => {}
                        () = stuck(taken) => tracing::debug!("a client left input that its process does not take"),
                    }
                });
            }
        },
    };
    tracing::debug!(
        code = u16::from(frame.code),
        reason = frame.reason.as_str(),
        "closing a process's websocket"
    );
    let closing = async {
        if sink.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        let messages = match messages {
            Some(messages) => messages,
            None => reading.await.0,
        };
        if let Ok(websocket) = sink.reunite(messages) {
            // What is left unread would make the kernel throw away what was written.
            websocket.into_inner().socket.close(CLOSE_PATIENCE).await;
        }
    };
    tokio::select! {
        () = stop_patience => {}
        _ = timeout(CLOSE_PATIENCE, closing) => {}
    }
}

/// Waits until the process has not taken any input for long.
async fn stuck(mut taken: watch::Receiver<u64>) {
    while let Ok(Ok(())) = timeout(INPUT_PATIENCE, taken.changed()).await {}
}

/// Runs until the process has ended, or the server stops.
fn until_end(mut ended: Ended, work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            _ = end_of(&mut ended) => {}
        }
    });
}

type Messages = SplitStream<WebSocketStream<Patient>>;

/// Obeys the client until it leaves, or sends what makes no sense: then it is to be detached with a close frame. The
/// process is left as it is.
async fn read(
    mut messages: Messages,
    control: Arc<dyn ProcessControl>,
    queue: StdinQueue,
    asked: [watch::Sender<Asked>; 2],
) -> (Messages, Option<CloseFrame>) {
    let frame = loop {
        let message = match messages.next().await {
            Some(Ok(Message::Binary(message))) => message,
            Some(Ok(Message::Text(_))) => {
                break Some(websocket::close(CloseCode::Unsupported, "send binary messages, not text"));
            }
            // Answered by the library, when the next message is asked for.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => continue,
            Some(Err(error)) => break websocket::close_upon(&error),
            None => break None,
        };
        if let Err(reason) = obey(message, control.as_ref(), &queue, &asked).await {
            break Some(websocket::close(CloseCode::Policy, &reason));
        }
    };
    (messages, frame)
}

/// Does what a message says; an error says why it makes no sense.
async fn obey(
    message: Bytes,
    control: &dyn ProcessControl,
    queue: &StdinQueue,
    [stdout, stderr]: &[watch::Sender<Asked>; 2],
) -> Result<(), String> {
    let Some(byte) = message.first() else {
        return Err("a message begins with the byte of its channel".to_owned());
    };
    let data = message.slice(1..);
    let done = match Channel::from_byte(*byte) {
        Some(Channel::Stdin) if data.is_empty() => Ok(()),
        Some(Channel::Stdin) => {
            queue.push(Piece::Data(data)).await;
            Ok(())
        }
        Some(Channel::Close) => {
            match Channel::from_byte(data.first().copied().unwrap_or(Channel::Close as u8)) {
                Some(Channel::Stdin) => queue.push(Piece::End).await,
                Some(Channel::Stdout) => stdout.send_modify(Asked::no_more),
                Some(Channel::Stderr) => stderr.send_modify(Asked::no_more),
                _ => return Err("only stdin, stdout and stderr can be closed".to_owned()),
            }
            Ok(())
        }
        Some(Channel::Resize) => {
            let size: TerminalSize = document(&data)?;
            control.set_tty(TtySpec { window_size: Some(size.into()) }).await
        }
        Some(Channel::Signal) => control.signal(document::<SignalRequest>(&data)?.into()).await,
        Some(Channel::Windows) => {
            let more: Windows = document(&data)?;
            stdout.send_modify(|asked| asked.more(more.stdout));
            stderr.send_modify(|asked| asked.more(more.stderr));
            Ok(())
        }
        Some(Channel::Stdout | Channel::Stderr | Channel::Status) | None => {
            return Err(format!("a client sends nothing on channel {byte}"));
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a client's command failed");
    }
    Ok(())
}

fn document<T: serde::de::DeserializeOwned>(data: &[u8]) -> Result<T, String> {
    json::decode(data).map_err(|error| error.to_string())
}
