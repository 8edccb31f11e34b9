//! Streams as tokio's [`AsyncRead`] and [`AsyncWrite`], so that `tokio::io::copy` and whatever else takes those works
//! with processes and tars, both ways.
//!
//! Nothing is held but the piece on its way: who does not read makes the process wait, and a process that does not
//! read makes the writer wait. What goes wrong comes as an [`io::Error`] with this crate's [`Error`] inside, which
//! `error.downcast::<garden_client::Error>()` gives back.
//!
//! ```no_run
//! use garden_client::{Backend, Client, FilesQuery, ProcessSpec, io};
//! use tokio::{fs::File, io::{AsyncWriteExt, copy}};
//!
//! # async fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
//! let process = client.run("my-container", ProcessSpec::new("sort", ["-r"])).await?;
//! let mut stdin = io::Stdin::new(process.control.clone());
//! let mut stdout = io::reader(process.stdout.open());
//! let (mut names, mut sorted) = (File::open("names").await?, File::create("sorted").await?);
//! let send = async {
//!     copy(&mut names, &mut stdin).await?;
//!     stdin.shutdown().await
//! };
//! tokio::try_join!(send, copy(&mut stdout, &mut sorted))?;
//!
//! // A tar from anywhere into a container, and one out of it to anywhere.
//! let to = FilesQuery { user: "vcap".into(), path: "app".into() };
//! client.stream_in("my-container", to, io::stream(File::open("app.tar").await?)).await?;
//! let from = FilesQuery { user: "vcap".into(), path: "logs/".into() };
//! let mut logs = io::reader(client.stream_out("my-container", from).await?);
//! copy(&mut logs, &mut File::create("logs.tar").await?).await?;
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use protocol::{ByteStream, Error, ProcessControl, Result};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use tokio_util::io::{ReaderStream, StreamReader};

/// The most that is taken from a writer, or asked of a reader, at once.
const PIECE_BYTES: usize = 64 << 10;

/// Reads a stream: an output of a process, or a tar that is streamed out.
pub fn reader(stream: ByteStream) -> impl AsyncBufRead + Send + Unpin {
    StreamReader::new(stream)
}

/// What `reader` gives, as a stream: a tar to stream in.
pub fn stream(reader: impl AsyncRead + Send + 'static) -> ByteStream {
    Box::pin(ReaderStream::with_capacity(reader, PIECE_BYTES))
}

/// Standard input of a process, to be written to.
///
/// A write is taken at once and sent while the next one, a flush or a shutdown is waited for: `flush` resolves when
/// everything has been sent. `shutdown` closes the process's input. Dropping this does not, since another client may
/// write on; what was not flushed may be lost then. Writing to a process that has ended, or whose connection was lost,
/// is no error, as with [`ProcessControl::write_stdin`]: the process's exit tells what became of it.
pub struct Stdin {
    control: Arc<dyn ProcessControl>,
    state: State,
}

/// A call of the control on its way.
type Call = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

enum State {
    Idle,
    Writing(Call),
    Closing(Call),
    Closed,
}

impl Stdin {
    /// The input of the process that `control` belongs to.
    pub fn new(control: Arc<dyn ProcessControl>) -> Self {
        Stdin { control, state: State::Idle }
    }

    /// Waits for what is on its way.
    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (done, next) = match &mut self.state {
            State::Idle | State::Closed => return Poll::Ready(Ok(())),
            State::Writing(call) => (ready!(call.as_mut().poll(context)), State::Idle),
            State::Closing(call) => (ready!(call.as_mut().poll(context)), State::Closed),
        };
        self.state = next;
        Poll::Ready(done.map_err(to_io))
    }
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stdin")
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_settled(context))?;
        if matches!(self.state, State::Closed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let piece = Bytes::copy_from_slice(&data[..data.len().min(PIECE_BYTES)]);
        let count = piece.len();
        let control = self.control.clone();
        self.state = State::Writing(Box::pin(async move { control.write_stdin(piece).await }));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_settled(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_settled(context))?;
        if matches!(self.state, State::Closed) {
            return Poll::Ready(Ok(()));
        }
        let control = self.control.clone();
        self.state = State::Closing(Box::pin(async move { control.close_stdin().await }));
        self.poll_settled(context)
    }
}

/// The error as the cause of one whose kind fits it.
fn to_io(error: Error) -> io::Error {
    let kind = match &error {
        Error::TimedOut { .. } => io::ErrorKind::TimedOut,
        Error::CannotConnect { .. } | Error::Connection { .. } => io::ErrorKind::BrokenPipe,
        Error::Invalid { .. } => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
