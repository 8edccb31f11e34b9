//! A reader of an output that comes over a process's websocket.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use protocol::{ByteStream, Error, extension::Channel};
use tokio::sync::mpsc;

use crate::{
    channels::Link,
    process::{OutputSource, read_output},
};

/// How much of an output may be on its way, and waits here if its reader does not take it.
const WINDOW_BYTES: u32 = 1 << 20;
/// More is asked for when this much was taken,
const ASK_BYTES: u32 = WINDOW_BYTES / 4;
/// or anything, and the last time was so long ago: by that a slow reader is told from one that takes nothing.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// What comes of an output over a websocket.
pub(crate) enum Piece {
    Data(Bytes),
    /// There is no more.
    End,
}

/// Never more than was asked for.
pub(crate) type Pieces = mpsc::UnboundedReceiver<Piece>;

/// Reads an output from the place where all its readers begin. It is asked for when this is first polled: by the
/// websocket the first time, by a connection of its own, as classic streams have it, after that.
pub(crate) fn read(link: Arc<Link>, channel: Channel, source: OutputSource) -> ByteStream {
    let open = async move {
        match link.claim(channel) {
            Some(pieces) => Reader::new(link, channel, pieces).into_stream(source),
            None => read_output(source),
        }
    };
    Box::pin(stream::once(open).flatten())
}

struct Reader {
    link: Arc<Link>,
    channel: Channel,
    pieces: Pieces,
    /// Whether anything has come.
    begun: bool,
    ended: bool,
    /// Since it was last asked for more.
    taken_bytes: u32,
    asked_at: Instant,
}

impl Reader {
    fn new(link: Arc<Link>, channel: Channel, pieces: Pieces) -> Self {
        link.ask_for(channel, WINDOW_BYTES);
        Reader { link, channel, pieces, begun: false, ended: false, taken_bytes: 0, asked_at: Instant::now() }
    }

    fn into_stream(self, source: OutputSource) -> ByteStream {
        let reading = stream::unfold(Reading::Websocket(self, source), |reading| async move {
            match reading {
                Reading::Websocket(mut reader, source) => match reader.next().await {
                    Ok(Some(bytes)) => Some((Ok(bytes), Reading::Websocket(reader, source))),
                    Ok(None) => None,
                    // The server may have closed it just when this output was asked for.
                    Err(_) if !reader.begun => Reading::next_of(read_output(source)).await,
                    Err(error) => Some((Err(io::Error::other(error)), Reading::Over)),
                },
                Reading::Own(stream) => Reading::next_of(stream).await,
                Reading::Over => None,
            }
        });
        Box::pin(reading)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        // Whoever asks for more has taken what there was.
        let is_time = || self.asked_at.elapsed() >= ASK_AFTER;
        if self.taken_bytes >= ASK_BYTES || (self.taken_bytes > 0 && is_time()) {
            self.asked_at = Instant::now();
            self.link.ask_for(self.channel, std::mem::take(&mut self.taken_bytes));
        }
        match self.pieces.recv().await {
            Some(Piece::Data(bytes)) => {
                self.begun = true;
                // Never more than was asked for.
                self.taken_bytes += u32::try_from(bytes.len()).unwrap_or(WINDOW_BYTES);
                Ok(Some(bytes))
            }
            Some(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            None => Err(Error::Connection {
                message: "the process's connection ended before its output did".to_owned(),
            }),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.ended {
            self.link.close(self.channel);
        }
    }
}

enum Reading {
    Websocket(Reader, OutputSource),
    /// Over a connection of its own.
    Own(ByteStream),
    Over,
}

impl Reading {
    async fn next_of(mut stream: ByteStream) -> Option<(io::Result<Bytes>, Reading)> {
        let item = stream.next().await?;
        Some((item, Reading::Own(stream)))
    }
}
