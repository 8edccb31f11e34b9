//! A request's body: how long it is waited for, and that it is read to its end whatever becomes of the request.
//!
//! A client that stops in the middle of a body holds nothing but its own connection, and that for a while only: what
//! the request names (a container's grace clock, the process that unpacks a tar) is let go of by the body's error.
//!
//! An answer that is given while the client still sends its body (a tar for a user who does not exist) would close the
//! connection on unread bytes, and many clients then report a broken pipe instead of the answer. So what the handler
//! left of the body is read and forgotten before the answer is written, for a while.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use protocol::ByteStream;
use tokio::{sync::oneshot, time::Sleep};

/// How long a client may go on sending a body that nobody wants.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that ends with an error when the client has sent nothing for `patience`. Only time that the reader waits
/// counts: a backend may take a body as slowly as it likes.
pub(crate) fn within<S>(patience: Duration, body: S) -> ByteStream
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    Box::pin(Within { body, patience, timer: None })
}

struct Within<S> {
    body: S,
    patience: Duration,
    /// Runs while the reader waits for the client.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Stream for Within<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(item) = self.body.poll_next_unpin(cx) {
            self.timer = None;
            return Poll::Ready(item);
        }
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        let reason = format!("nothing of it came for {patience:?}");
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, reason))))
    }
}

/// What a handler has left of a body.
pub(crate) struct Rest(oneshot::Receiver<ByteStream>);

/// Lends a body to a handler.
pub(crate) fn lend(body: ByteStream) -> (ByteStream, Rest) {
    let (back, rest) = oneshot::channel();
    (Box::pin(Lent { body: Some(body), back: Some(back) }), Rest(rest))
}

impl Rest {
    /// Reads and forgets what is left.
    pub(crate) async fn drain(self) {
        let drained = async {
            if let Ok(mut body) = self.0.await {
                while let Some(Ok(_)) = body.next().await {}
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::debug!("a client goes on sending a body that nobody wants");
        }
    }
}

struct Lent {
    /// None after its end.
    body: Option<ByteStream>,
    back: Option<oneshot::Sender<ByteStream>>,
}

impl Stream for Lent {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let item = ready!(body.poll_next_unpin(cx));
        if !matches!(item, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(item)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // Nobody wants it back when the connection is gone.
            let _ = back.send(body);
        }
    }
}
