//! One connection's socket, of either kind, as HTTP sees it (owned, polled) and as a raw stream sees it (shared by
//! reader and writer).

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

/// After this long without a word from a TCP peer the kernel asks whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// How often a peer that is slow is offered more.
const SLOW_PEER_LOOK: Duration = Duration::from_millis(500);
/// How long until somebody's end is watched for again where there was no descriptor to do it with.
const WATCH_RETRY: Duration = Duration::from_millis(500);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Of a unix socket's listener.
    Unix(UnixStream),
    /// Of a TCP listener.
    Tcp(TcpStream),
}

macro_rules! each_kind {
    ($socket:expr, $stream:ident => $body:expr) => {
        match $socket {
            Socket::Unix($stream) => $body,
            Socket::Tcp($stream) => $body,
        }
    };
}

impl Socket {
    /// Whether web pages can reach this socket's listener.
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self, Socket::Tcp(_))
    }

    /// Sets what a long-lived stream of small messages needs. A failure costs speed, not correctness.
    pub(crate) fn tune(&self) {
        if let Socket::Tcp(stream) = self {
            let keepalive =
                socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
            let tuned = stream
                .set_nodelay(true)
                .and_then(|()| socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive));
            if let Err(error) = tuned {
                tracing::debug!(%error, "cannot set options of a connection");
            }
        }
    }

    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        each_kind!(self, stream => stream.ready(interest).await)
    }

    /// Reads what is there, waiting for something; zero at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.ready(Interest::READABLE).await?;
            match each_kind!(self, stream => stream.try_read(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Writes all of `bytes` to the kernel.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_counted(bytes, |_| {}).await
    }

    /// Writes all of `bytes` to the kernel, and says at once how many of them each time it has taken some.
    pub(crate) async fn write_all_counted(
        &self,
        mut bytes: &[u8],
        mut taken: impl FnMut(usize),
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let writable = tokio::time::timeout(SLOW_PEER_LOOK, self.ready(Interest::WRITABLE)).await;
            let written = match writable {
                Ok(ready) => {
                    ready?;
                    each_kind!(self, stream => stream.try_write(bytes))
                }
                Err(_) => self.offer(bytes),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    taken(written);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The kernel calls a socket writable once a good part of its buffer is free, but takes what there is room for at
    /// any time. By that a slow peer is told from one that takes nothing.
    fn offer(&self, bytes: &[u8]) -> io::Result<usize> {
        each_kind!(self, stream => socket2::SockRef::from(stream).send(bytes))
    }

    /// Resolves when the peer can no longer receive: it closed both directions or vanished. A half-closed peer is
    /// still there.
    pub(crate) async fn peer_gone(&self) {
        loop {
            // A descriptor of its own: waiting for a change means forgetting that the socket is writable, which the
            // writers of this one need to know.
            match self.duplicate() {
                Ok(watched) => return watched.peer_of_this_gone().await,
                // Those who leave now may be the ones that have all descriptors.
                Err(error) => tracing::debug!(%error, "cannot watch for the end of a connection yet"),
            }
            sleep(WATCH_RETRY).await;
        }
    }

    /// The same, for whoever gives the socket away meanwhile. Never resolves where there is no descriptor for it now.
    pub(crate) fn watch_peer(&self) -> impl Future<Output = ()> + Send + 'static {
        let watched = self.duplicate();
        async move {
            match watched {
                Ok(watched) => watched.peer_of_this_gone().await,
                Err(error) => {
                    tracing::debug!(%error, "cannot watch for the end of a connection");
                    std::future::pending().await
                }
            }
        }
    }

    async fn peer_of_this_gone(&self) {
        while let Ok(ready) = self.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = each_kind!(self, stream => stream.try_io(Interest::WRITABLE, nothing));
        }
    }

    fn duplicate(&self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Unix(stream) => {
                Socket::Unix(UnixStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?)
            }
            Socket::Tcp(stream) => {
                Socket::Tcp(TcpStream::from_std(stream.as_fd().try_clone_to_owned()?.into())?)
            }
        })
    }

    /// Reads and forgets whatever the peer sends, until it is gone.
    pub(crate) async fn discard_input(&self) {
        let mut buffer = [0; 4096];
        while matches!(self.read(&mut buffer).await, Ok(read) if read > 0) {}
        self.peer_gone().await;
    }

    /// Says that nothing more comes, and gives the peer `patience` to take what was written: closing a socket with
    /// unread input would make the kernel throw that away.
    pub(crate) async fn close(mut self, patience: Duration) {
        if std::future::poll_fn(|cx| Pin::new(&mut self).poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut buffer = [0; 4096];
        let end = async { while matches!(self.read(&mut buffer).await, Ok(read) if read > 0) {} };
        let _ = tokio::time::timeout(patience, end).await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_kind!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each_kind!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_kind!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_kind!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_kind!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A socket that offers a slow peer more every so often, as [`Socket::write_all_counted`] does.
#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) socket: Socket,
    /// Runs while the peer takes nothing.
    look: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(crate) fn new(socket: Socket) -> Self {
        Patient { socket, look: None }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        while written.is_pending() {
            let look = this.look.get_or_insert_with(|| Box::pin(sleep(SLOW_PEER_LOOK)));
            ready!(look.as_mut().poll(cx));
            look.as_mut().reset(Instant::now() + SLOW_PEER_LOOK);
            written = match this.socket.offer(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                written => Poll::Ready(written),
            };
        }
        this.look = None;
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A socket that notes when it is flushed. hyper flushes only when its own buffer is empty, so that a flush after a
/// head was written says that the head is in the kernel.
pub(crate) struct FlushNoting {
    pub(crate) socket: Socket,
    pub(crate) flushed: Arc<AtomicBool>,
    pub(crate) peer: Peer,
}

/// Whoever is at the other end of a connection that hyper has. hyper itself does not notice that one left while its
/// request is being worked on, since one that closed only its half still wants the answer.
#[derive(Clone, Default)]
pub(crate) struct Peer(Arc<Mutex<Option<oneshot::Sender<Gone>>>>);

type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Peer {
    /// Resolves as [`Socket::peer_gone`] does. For a request's future: hyper flushes each time it has polled that.
    pub(crate) async fn gone(&self) {
        let (sender, watch) = oneshot::channel();
        *self.lock() = Some(sender);
        match watch.await {
            Ok(gone) => gone.await,
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<oneshot::Sender<Gone>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, socket: &Socket) {
        if let Some(asked) = self.lock().take() {
            // A TCP peer that vanished says nothing unless it is asked.
            socket.tune();
            let _ = asked.send(Box::pin(socket.watch_peer()));
        }
    }
}

impl AsyncRead for FlushNoting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for FlushNoting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.peer.watch(&self.socket);
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.flushed.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
