//! The raw stream of `run` and `attach`: the client's input and commands in, the process's end out.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use protocol::{ProcessControl, ProcessPayload, json};

use crate::{
    connection::Hijacked,
    payload::{Event, PayloadParser},
    sessions::{Session, end_of},
    socket::Socket,
    stdin_queue::{Piece, StdinQueue, write_stdin},
};

/// How long a client may take to take the last payload.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
const READ_BUFFER_BYTES: usize = 32 * 1024;

/// Serves the stream until the process has ended, the server stops, or nobody is left to serve.
pub(crate) async fn serve(hijacked: Hijacked, session: Session) {
    let Hijacked { socket, early, mut shutdown } = hijacked;
    let finished = tokio::select! {
        biased;
        // No last payload: the client is to take this for a lost connection, and attach again.
        () = shutdown.requested() => false,
        finished = until_end(&socket, early, session) => finished,
    };
    if finished {
        tokio::select! {
            () = shutdown.requested() => {}
            () = socket.close(CLOSE_PATIENCE) => {}
        }
    }
}

/// Whether the process's end was told.
async fn until_end(socket: &Socket, early: Bytes, session: Session) -> bool {
    let Session { process_id, stream_id, control, mut ended } = session;
    let first = ProcessPayload { process_id: process_id.clone(), stream_id, ..ProcessPayload::default() };
    if send(socket, &first).await.is_err() {
        return false;
    }

    let (queue, pieces) = StdinQueue::new();
    let mut input = pin!(async {
        read_input(socket, early, control.as_ref(), queue).await;
        socket.peer_gone().await;
    });
    let mut stdin = pin!(write_stdin(pieces, control.as_ref()));
    let (mut peer_gone, mut stdin_done) = (false, false);
    while !(peer_gone && stdin_done) {
        tokio::select! {
            status = end_of(&mut ended) => {
                let mut last = ProcessPayload { process_id, ..ProcessPayload::default() };
                match status {
                    Some(Ok(status)) => last.exit_status = Some(status.into()),
                    Some(Err(error)) => last.error = Some(error.to_string()),
                    // The server stops.
                    None => return false,
                }
                return send(socket, &last).await.is_ok();
            }
            () = &mut input, if !peer_gone => peer_gone = true,
            () = &mut stdin, if !stdin_done => stdin_done = true,
        }
    }
    false
}

async fn send(socket: &Socket, payload: &ProcessPayload) -> std::io::Result<()> {
    let bytes = json::encode(payload).map_err(std::io::Error::other)?;
    socket.write_all(&bytes).await
}

/// Reads what the client sends, to the end or to the first thing that makes no sense: that detaches the client, and
/// leaves the process and its input as they are. Signals and window sizes are obeyed at once.
async fn read_input(socket: &Socket, early: Bytes, control: &dyn ProcessControl, queue: StdinQueue) {
    let mut parser = PayloadParser::default();
    let mut events = Vec::new();
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    parser.feed(&early, &mut events);
    drop(early);
    loop {
        for event in events.drain(..) {
            let obeyed = match event {
                Event::Stdin(piece) => {
                    queue.push(Piece::Data(piece)).await;
                    Ok(())
                }
                Event::EndOfStdin => {
                    queue.push(Piece::End).await;
                    Ok(())
                }
                Event::Signal(signal) => control.signal(signal).await,
                Event::Tty(tty) => control.set_tty(tty).await,
                Event::Detach(reason) => return tracing::debug!(reason, "a client's stream makes no sense"),
            };
            if let Err(error) = obeyed {
                tracing::debug!(%error, "a client's command failed");
            }
        }
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => parser.feed(&buffer[..read], &mut events),
        }
    }
}
