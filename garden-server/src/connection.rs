//! HTTP on one connection, and its end as a raw stream where a process's streams begin.
//!
//! hyper hands over a socket only after a 101, which Garden's clients refuse. So a handler leaves a [`Hijack`] in its
//! 201 or 200, whose body never ends: with it hyper writes a chunked head, and cannot take the bytes behind the request,
//! which are the process's input, for another request. When the head is in the kernel, the socket and what hyper
//! already read are taken back, and the raw stream begins.
//!
//! A websocket does begin with a 101, behind which hyper hands its socket over.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Incoming,
    header::{HeaderName, HeaderValue, UPGRADE},
    server::conn::http1,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::extension;
use tokio::sync::watch;
use tower_service::Service as _;
use warp::reply::Response;

use crate::{
    api::Query,
    guard::{Guard, Refusal},
    malformed,
    metrics::Metrics,
    socket::{FlushNoting, Peer, Socket},
    websocket::Handshake,
};

const EXTENSIONS: HeaderName = HeaderName::from_static(extension::HEADER);

/// Tells every connection and stream that the server stops.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown(pub(crate) watch::Receiver<bool>);

impl Shutdown {
    /// Resolves when the server stops.
    pub(crate) async fn requested(&mut self) {
        // An error says that the server is gone altogether.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}

/// A connection that is no longer HTTP.
pub(crate) struct Hijacked {
    pub(crate) socket: Socket,
    /// What the client sent in one go with its request.
    pub(crate) early: Bytes,
    pub(crate) shutdown: Shutdown,
}

type Takeover = Box<dyn FnOnce(Hijacked) -> BoxFuture<'static, ()> + Send>;

/// What is to happen with the connection behind the response that has this among its extensions.
#[derive(Clone)]
pub(crate) struct Hijack(Arc<Mutex<Option<Takeover>>>);

impl Hijack {
    pub(crate) fn new<F: Future<Output = ()> + Send + 'static>(
        takeover: impl FnOnce(Hijacked) -> F + Send + 'static,
    ) -> Self {
        let takeover: Takeover = Box::new(|hijacked| Box::pin(takeover(hijacked)));
        Hijack(Arc::new(Mutex::new(Some(takeover))))
    }

    fn take(&self) -> Option<Takeover> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The routes of one listener.
pub(crate) type Routes = warp::filters::BoxedFilter<(warp::reply::Response,)>;

/// What the connections of one listener have in common.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) routes: Routes,
    pub(crate) metrics: Arc<Metrics>,
    /// None: nothing on this listener changes anything, so that whoever may connect may ask.
    pub(crate) guard: Option<Guard>,
    pub(crate) read_header_timeout: Duration,
}

/// Serves one connection to its end.
pub(crate) async fn serve(socket: Socket, service: Service, mut shutdown: Shutdown) {
    let exchange = Arc::new(Exchange::default());
    let peer = Peer::default();
    let io = FlushNoting { socket, flushed: exchange.flushed.clone(), peer: peer.clone() };
    let over_tcp = io.socket.is_tcp();
    let mut http = http1::Builder::new();
    http.half_close(true)
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(service.read_header_timeout);
    let http_service = Http { service, exchange: exchange.clone(), over_tcp, peer };
    let mut connection = http.serve_connection(TokioIo::new(io), http_service).with_upgrades();

    let mut stopping = false;
    let mut told = false;
    loop {
        let served = poll_fn(|cx| {
            loop {
                let polled = Pin::new(&mut connection).poll(cx);
                if polled.is_pending() && exchange.head_is_out() {
                    return Poll::Ready(None);
                }
                // Not while a request is being worked on: hyper would add `Connection: close` to its answer, which
                // the Go client refuses on a process's stream.
                let tell = stopping && !told && !exchange.busy.load(Ordering::Relaxed);
                if polled.is_ready() || !tell {
                    return polled.map(Some);
                }
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        });
        tokio::select! {
            biased;
            end = served => match end {
                Some(Ok(())) => break,
                Some(Err(error)) => return tracing::debug!(%error, "a connection ended early"),
                None => break,
            },
            () = shutdown.requested(), if !stopping => stopping = true,
        }
    }

    let Some((io, early, takeover)) = (match exchange.take_upgrade() {
        Some((upgrade, hijack)) => upgraded(upgrade, hijack).await,
        None => connection.into_parts().and_then(|parts| {
            drop(parts.service);
            Some((parts.io, parts.read_buf, exchange.take_hijack()?))
        }),
    }) else {
        return;
    };
    let hijacked = Hijacked { socket: io.into_inner().socket, early, shutdown: shutdown.clone() };
    hijacked.socket.tune();
    takeover(hijacked).await;
}

type Io = TokioIo<FlushNoting>;

/// The socket behind a 101.
async fn upgraded(upgrade: OnUpgrade, hijack: Hijack) -> Option<(Io, Bytes, Takeover)> {
    let upgraded =
        upgrade.await.map_err(|error| tracing::debug!(%error, "a connection was not upgraded")).ok()?;
    let parts = upgraded.downcast::<Io>().ok()?;
    Some((parts.io, parts.read_buf, hijack.take()?))
}

/// What hyper's side of a connection tells the loop that polls it.
#[derive(Default)]
struct Exchange {
    hijack: Mutex<Option<Hijack>>,
    upgrade: Mutex<Option<(OnUpgrade, Hijack)>>,
    flushed: Arc<AtomicBool>,
    busy: AtomicBool,
}

impl Exchange {
    fn set_hijack(&self, hijack: Hijack) {
        self.flushed.store(false, Ordering::Relaxed);
        *self.hijack.lock().unwrap_or_else(PoisonError::into_inner) = Some(hijack);
    }

    fn take_hijack(&self) -> Option<Takeover> {
        self.hijack.lock().unwrap_or_else(PoisonError::into_inner).take()?.take()
    }

    fn set_upgrade(&self, upgrade: OnUpgrade, hijack: Hijack) {
        *self.upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, hijack));
    }

    fn take_upgrade(&self) -> Option<(OnUpgrade, Hijack)> {
        self.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn head_is_out(&self) -> bool {
        self.flushed.load(Ordering::Relaxed)
            && self.hijack.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

struct BusyMark(Arc<Exchange>);

impl Drop for BusyMark {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// The routes as hyper calls them.
struct Http {
    service: Service,
    exchange: Arc<Exchange>,
    over_tcp: bool,
    peer: Peer,
}

/// Whether a header is there. Few are: that is seen sooner than their names' hashes are made.
pub(crate) fn has(headers: &HeaderMap, wanted: &HeaderName) -> bool {
    headers.keys().any(|name| name == wanted)
}

impl Http {
    fn refusal(&self, request: &Request<Incoming>) -> Option<warp::reply::Response> {
        malformed::refusal(request).or_else(|| {
            let guard = self.service.guard.as_ref()?;
            guard.check(request.headers(), self.over_tcp).err().map(Refusal::into_response)
        })
    }
}

impl hyper::service::Service<Request<Incoming>> for Http {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.exchange.busy.store(true, Ordering::Relaxed);
        let busy = BusyMark(self.exchange.clone());
        // The answers to a client that does not ask are those of the protocol. What needs no guard has no extensions.
        let tell_extensions = self.service.guard.is_some() && has(request.headers(), &EXTENSIONS);
        // Requests that wait for a process are all there, and an extension is dear beside a ping.
        if request.uri().path().starts_with(extension::PREFIX) {
            request.extensions_mut().insert(self.peer.clone());
        }
        if let Some(query) = request.uri().query() {
            let query = Query(query.to_owned());
            request.extensions_mut().insert(query);
        }
        let mut upgrade = None;
        if has(request.headers(), &UPGRADE)
            && let Some(handshake) = Handshake::read(request.headers())
        {
            upgrade = Some(hyper::upgrade::on(&mut request));
            request.extensions_mut().insert(handshake);
        }
        let answer = match self.refusal(&request) {
            None => Ok(warp::service(self.service.routes.clone()).call(request)),
            Some(refused) => {
                self.service.metrics.request().answered(None, request.method(), refused.status());
                Err(refused)
            }
        };
        Box::pin(async move {
            let mut response = match answer {
                Ok(answer) => match answer.await {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
                Err(refused) => refused,
            };
            if tell_extensions {
                response
                    .headers_mut()
                    .insert(EXTENSIONS, HeaderValue::from_static(extension::PROCESS_STREAMS));
            }
            let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            match (response.extensions_mut().remove::<Hijack>(), upgrade) {
                (Some(hijack), _) if !is_upgrade => busy.0.set_hijack(hijack),
                (Some(hijack), Some(upgrade)) => busy.0.set_upgrade(upgrade, hijack),
                _ => {}
            }
            Ok(response)
        })
    }
}
