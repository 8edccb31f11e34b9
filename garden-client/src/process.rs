//! A process over a hijacked connection.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use protocol::{
    ByteStream, Error, Output, Process, ProcessControl, ProcessPayload, Result, Signal, TtySpec, json,
    routes::Route,
};
use tokio::{
    io::WriteHalf,
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

use crate::{
    address::{Endpoint, Socket},
    http::Call,
    payload::{PayloadBuffer, TextBuffer},
    raw::{self, Reader},
};

/// The text of one message on standard input: small enough for a server that holds whole messages.
const STDIN_MESSAGE_BYTES: usize = 32 << 10;

/// Sends `run` or `attach` and makes a process of the connection.
///
/// The receiving half belongs to the exit future, the sending half to a task that the control owns: the connection
/// closes, and so detaches, when both are gone.
pub(crate) async fn start(endpoint: &Endpoint, handle: &str, call: &Call<'_>) -> Result<Process> {
    let (mut messages, writer) = open(endpoint, call).await?;
    let first = messages.next().await?;
    if let Some(message) = first.error {
        return Err(Error::Failed { message });
    }
    let id = first.process_id;
    if id.is_empty() || first.stream_id.is_empty() {
        let reason = format!("{}: the first message names no process or no stream", messages.from);
        return Err(Error::Malformed { reason });
    }
    let (end, ended) = watch::channel(false);
    let output = |route| {
        let source = OutputSource {
            endpoint: endpoint.clone(),
            route,
            parameters: [handle.to_owned(), id.clone(), first.stream_id.clone()],
        };
        Output::new(move || read_output(source.clone()))
    };
    Ok(Process {
        stdout: output(Route::Stdout),
        stderr: output(Route::Stderr),
        control: Arc::new(Control::new(endpoint.clone(), handle, &id, writer, ended)),
        exit: Box::pin(wait(messages, end)),
        id,
    })
}

async fn open(endpoint: &Endpoint, call: &Call<'_>) -> Result<(Messages, WriteHalf<Socket>)> {
    let (reader, writer) = raw::hijack(endpoint, call).await?;
    let from = format!("{}: the connection to {}", call.route.def().name, endpoint.address);
    Ok((Messages { reader, buffer: PayloadBuffer::default(), from }, writer))
}

/// The messages of a server.
struct Messages {
    reader: Reader,
    buffer: PayloadBuffer,
    /// For error texts.
    from: String,
}

impl Messages {
    async fn next(&mut self) -> Result<ProcessPayload> {
        loop {
            if let Some(message) = self.buffer.next()? {
                return Ok(message);
            }
            // Concourse attaches again on errors that end in just these words, which are the Go client's.
            let broken = match self.reader.chunk().await {
                Ok(bytes) if bytes.is_empty() => "ended before the process did".to_owned(),
                Ok(bytes) => {
                    self.buffer.push(&bytes);
                    continue;
                }
                Err(error) => format!("was lost ({error})"),
            };
            return Err(Error::Connection {
                message: format!("{} {broken}: connection: decode failed: EOF", self.from),
            });
        }
    }
}

async fn wait(mut messages: Messages, end: watch::Sender<bool>) -> Result<i32> {
    loop {
        let message = messages.next().await?;
        if let Some(message) = message.error {
            end.send_replace(true);
            return Err(Error::Failed { message });
        }
        if let Some(status) = message.exit_status {
            end.send_replace(true);
            return i32::try_from(status).map_err(|_| Error::Malformed {
                reason: format!("{}: the exit status {status} is out of range", messages.from),
            });
        }
    }
}

/// Where an output can be had on a connection of its own.
#[derive(Clone)]
pub(crate) struct OutputSource {
    pub endpoint: Endpoint,
    pub route: Route,
    /// Handle, process id, stream id.
    pub parameters: [String; 3],
}

enum Reading {
    NotYetOpen(OutputSource),
    Open(Reader),
    Done,
}

/// Connects when it is first asked for bytes.
pub(crate) fn read_output(source: OutputSource) -> ByteStream {
    Box::pin(stream::unfold(Reading::NotYetOpen(source), |mut reading| async move {
        loop {
            match reading {
                Reading::NotYetOpen(source) => {
                    let parameters = source.parameters.each_ref().map(String::as_str);
                    match raw::hijack(&source.endpoint, &Call::new(source.route, &parameters)).await {
                        // The sending half is not needed: the connection lives on in the other.
                        Ok((reader, _)) => reading = Reading::Open(reader),
                        Err(error) => return Some((Err(io::Error::other(error)), Reading::Done)),
                    }
                }
                Reading::Open(mut reader) => match reader.chunk().await {
                    Ok(bytes) if bytes.is_empty() => return None,
                    Ok(bytes) => return Some((Ok(bytes), Reading::Open(reader))),
                    Err(error) => return Some((Err(error), Reading::Done)),
                },
                Reading::Done => return None,
            }
        }
    }))
}

struct Control {
    endpoint: Endpoint,
    handle: String,
    process_id: String,
    /// Whether the exit is known.
    ended: watch::Receiver<bool>,
    /// Whether standard input was ever written to, or closed, on this connection.
    wrote_stdin: AtomicBool,
    commands: mpsc::Sender<Command>,
    writer: AbortHandle,
}

enum Order {
    Stdin(Bytes),
    CloseStdin,
    Message(ProcessPayload),
}

struct Command {
    order: Order,
    /// Told when the order's bytes are on their way.
    done: oneshot::Sender<Written>,
}

/// `Ok(false)`: the connection is gone.
type Written = Result<bool>;

impl Control {
    fn new(
        endpoint: Endpoint,
        handle: &str,
        process_id: &str,
        writer: WriteHalf<Socket>,
        ended: watch::Receiver<bool>,
    ) -> Self {
        let (commands, orders) = mpsc::channel(1);
        let task = tokio::spawn(obey(writer, process_id.to_owned(), orders, ended.clone()));
        Control {
            endpoint,
            handle: handle.to_owned(),
            process_id: process_id.to_owned(),
            ended,
            wrote_stdin: AtomicBool::new(false),
            commands,
            writer: task.abort_handle(),
        }
    }

    async fn order(&self, order: Order) -> Written {
        let (done, result) = oneshot::channel();
        if self.commands.send(Command { order, done }).await.is_err() {
            return Ok(false);
        }
        result.await.unwrap_or(Ok(false))
    }

    /// Sends a message over a connection of its own.
    async fn message_aside(&self, message: &ProcessPayload) -> Result<()> {
        let parameters = [self.handle.as_str(), &self.process_id];
        let attached = match open(&self.endpoint, &Call::new(Route::Attach, &parameters)).await {
            Err(Error::ProcessNotFound { .. } | Error::ContainerNotFound { .. }) => return Ok(()),
            attached => attached,
        };
        let (mut messages, mut writer) = attached?;
        // Only once the server has attached does it read messages.
        messages.next().await?;
        raw::write(&mut writer, &json::encode(message)?).await.map_err(|error| Error::Connection {
            message: format!("attach: the connection to {} was lost: {error}", self.endpoint.address),
        })
    }
}

impl Drop for Control {
    /// The task may be stuck in a write that the server does not take.
    fn drop(&mut self) {
        self.writer.abort();
    }
}

#[async_trait]
impl ProcessControl for Control {
    /// A connection that is gone is no error here: what became of the process is told by its exit.
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        self.wrote_stdin.store(true, Ordering::Relaxed);
        self.order(Order::Stdin(data)).await.map(drop)
    }

    async fn close_stdin(&self) -> Result<()> {
        // The reference server looks at no message that comes after this one.
        self.wrote_stdin.store(true, Ordering::Relaxed);
        self.order(Order::CloseStdin).await.map(drop)
    }

    /// What was written to standard input lies on the connection until the process reads it, and a signal behind it
    /// would wait: then it takes a connection of its own.
    async fn signal(&self, signal: Signal) -> Result<()> {
        let message = ProcessPayload {
            process_id: self.process_id.clone(),
            signal: Some(signal as i64),
            ..ProcessPayload::default()
        };
        if *self.ended.borrow() {
            return Ok(());
        }
        if !self.wrote_stdin.load(Ordering::Relaxed) && self.order(Order::Message(message.clone())).await? {
            return Ok(());
        }
        self.message_aside(&message).await
    }

    /// Waits behind a write to standard input: a size is of no use to a program that does not read.
    async fn set_tty(&self, tty: TtySpec) -> Result<()> {
        let message = ProcessPayload {
            process_id: self.process_id.clone(),
            tty: Some(tty),
            ..ProcessPayload::default()
        };
        self.order(Order::Message(message)).await.map(drop)
    }
}

/// Writes messages one after the other, each of them whole even if whoever gave the order stops waiting. Ends with the
/// process: nobody takes what is written then.
async fn obey(
    mut writer: WriteHalf<Socket>,
    process_id: String,
    mut orders: mpsc::Receiver<Command>,
    mut ended: watch::Receiver<bool>,
) {
    let mut text = TextBuffer::default();
    let mut ended = std::pin::pin!(async move {
        if ended.wait_for(|ended| *ended).await.is_err() {
            // Nobody waits for the exit any more, and so it is never known.
            std::future::pending::<()>().await;
        }
    });
    loop {
        let Command { order, done } = tokio::select! {
            () = &mut ended => return,
            command = orders.recv() => match command {
                Some(command) => command,
                None => return,
            },
        };
        let written = tokio::select! {
            () = &mut ended => Ok(false),
            written = carry_out(&mut writer, &process_id, &mut text, order) => written,
        };
        let gone = matches!(written, Ok(false));
        // Nobody may be waiting any more, which is fine.
        let _ = done.send(written);
        if gone {
            return;
        }
    }
}

/// The length of the longest beginning of at most `max_bytes` that cuts no character.
fn whole_chars(text: &str, max_bytes: usize) -> usize {
    (0..=max_bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

async fn carry_out(
    writer: &mut WriteHalf<Socket>,
    process_id: &str,
    text: &mut TextBuffer,
    order: Order,
) -> Written {
    let stdin = |data| ProcessPayload {
        process_id: process_id.to_owned(),
        source: Some(0),
        data,
        ..ProcessPayload::default()
    };
    match order {
        Order::Stdin(data) => {
            let text = text.push(data)?;
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (part, after) = rest.split_at(whole_chars(rest, STDIN_MESSAGE_BYTES));
                rest = after;
                if raw::write(writer, &json::encode(&stdin(Some(part.to_owned())))?).await.is_err() {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Order::CloseStdin => {
            let complete = text.finish();
            let sent = raw::write(writer, &json::encode(&stdin(None))?).await.is_ok();
            complete.map(|()| sent)
        }
        Order::Message(message) => Ok(raw::write(writer, &json::encode(&message)?).await.is_ok()),
    }
}
