//! Ordinary requests: one request, one answer of bounded size.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use protocol::{Error, Result, json, routes::Route};
use tokio::task::AbortHandle;

use crate::{address::Endpoint, answer::Context, retry::Backoff};

/// The largest answer read: bulk metrics of some thousand containers are a tenth of it.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// The largest response head read.
const HEAD_MAX_BYTES: usize = 64 << 10;
/// Connections kept for the next request.
const IDLE_MAX: usize = 8;
/// A connection that was idle for longer is not used again: servers close theirs, and this stays below their limits.
const IDLE_MAX_AGE: Duration = Duration::from_secs(5);

/// What the Go client says to every server, so that each of them takes it; a server may refuse names that it does not
/// know, since a browser could have been led to it by one.
pub(crate) const HOST: &str = "api";
pub(crate) const USER_AGENT: &str = concat!("garden-client/", env!("CARGO_PKG_VERSION"));

/// One request, before it is known which connection it goes over.
pub(crate) struct Call<'a> {
    pub route: Route,
    pub parameters: &'a [&'a str],
    /// Already escaped, without the question mark.
    pub query: String,
    /// JSON.
    pub body: Option<Vec<u8>>,
}

impl<'a> Call<'a> {
    pub fn new(route: Route, parameters: &'a [&'a str]) -> Self {
        Call { route, parameters, query: String::new(), body: None }
    }

    pub fn path_and_query(&self) -> String {
        let path = self.route.path(self.parameters);
        if self.query.is_empty() { path } else { format!("{path}?{}", self.query) }
    }

    pub fn context<'b>(&'b self, endpoint: &'b Endpoint) -> Context<'b> {
        Context { address: &endpoint.address, route: self.route, parameters: self.parameters }
    }

    /// Whether the request only asks, so that it may be sent again.
    pub fn changes_nothing(&self) -> bool {
        self.route.def().method == "GET"
    }

    /// Every route but `create`, `list` and the like has the handle first; an empty one would lead to another path.
    pub fn check_parameters(&self) -> Result<()> {
        match self.parameters.iter().position(|parameter| parameter.is_empty()) {
            None => Ok(()),
            Some(0) => Err(Error::container_not_found("")),
            Some(_) if self.route.def().path.contains("/processes/:pid") => Err(Error::process_not_found("")),
            Some(_) => Err(Error::invalid("key", "is empty: a property needs a name")),
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.route.def().method)
            .uri(self.path_and_query())
            .header(header::HOST, HOST)
            .header(header::USER_AGENT, USER_AGENT);
        if self.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = self.body.clone().map(Bytes::from).unwrap_or_default();
        request.body(Full::new(body)).map_err(|error| Error::failed(&error))
    }
}

type Exchange = Connection<Full<Bytes>>;

/// Sends requests, and keeps a few connections for the next ones.
///
/// Only requests that change nothing go over a kept connection, and are sent once more over a fresh one if it turns
/// out to be dead. The others would have to be given up there, since nobody knows whether they were carried out: they
/// get a connection of their own from the start, which costs some 50 µs.
pub(crate) struct Http {
    pub endpoint: Endpoint,
    idle: Mutex<Vec<(Exchange, Instant)>>,
}

impl Http {
    pub fn new(endpoint: Endpoint) -> Self {
        Http { endpoint, idle: Mutex::default() }
    }

    /// The body of a successful answer.
    pub async fn call(&self, call: &Call<'_>) -> Result<Bytes> {
        call.check_parameters()?;
        in_time(&self.endpoint, call, self.exchange(call)).await
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Bytes> {
        let mut backoff = Backoff::new(self.endpoint.retry_for);
        let context = call.context(&self.endpoint);
        if !call.changes_nothing() {
            let connection = connect(&self.endpoint, &context, &mut backoff).await?;
            return self.ask(call, connection).await;
        }
        if let Some(kept) = self.take_idle().await {
            match self.ask(call, kept).await {
                // It was closed while nobody looked.
                Err(Error::Connection { .. }) => {}
                answer => return answer,
            }
        }
        loop {
            let connection = connect(&self.endpoint, &context, &mut backoff).await?;
            match self.ask(call, connection).await {
                Err(Error::Connection { .. }) if backoff.pause().await => {}
                answer => return answer,
            }
        }
    }

    /// One attempt.
    async fn ask(&self, call: &Call<'_>, mut connection: Exchange) -> Result<Bytes> {
        let context = call.context(&self.endpoint);
        let answer = connection.sender.send_request(call.request()?).await;
        let answer = answer.map_err(|error| broken(&context, &error))?;
        let status = answer.status();
        let body = read(answer.into_body(), &context).await?;
        self.keep(connection);
        if status.is_success() { Ok(body) } else { Err(context.error(status.as_u16(), &body)) }
    }

    async fn take_idle(&self) -> Option<Exchange> {
        loop {
            let (mut kept, since) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if since.elapsed() < IDLE_MAX_AGE && kept.sender.ready().await.is_ok() {
                return Some(kept);
            }
        }
    }

    fn keep(&self, connection: Exchange) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(kept, since)| !kept.sender.is_closed() && since.elapsed() < IDLE_MAX_AGE);
        if idle.len() < IDLE_MAX && !connection.sender.is_closed() {
            idle.push((connection, Instant::now()));
        }
    }
}

/// Waits for the answer to an ordinary request for as long as the client is to wait for one.
pub(crate) async fn in_time<T>(
    endpoint: &Endpoint,
    call: &Call<'_>,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(limit) = endpoint.request_timeout else { return answer.await };
    let answer = tokio::time::timeout(limit, answer).await;
    answer.unwrap_or_else(|_| Err(call.context(endpoint).timed_out(limit)))
}

/// A connection for requests with bodies of the type `B`. Dropping it closes the socket, whatever was on its way.
pub(crate) struct Connection<B> {
    pub sender: SendRequest<B>,
    task: AbortHandle,
}

impl<B> Drop for Connection<B> {
    /// The task may be stuck in a write that the server does not take.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a connection, with the attempts that `backoff` has left.
pub(crate) async fn connect<B>(
    endpoint: &Endpoint,
    context: &Context<'_>,
    backoff: &mut Backoff,
) -> Result<Connection<B>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let socket = endpoint.connect_with(backoff).await?;
    let handshake = http1::Builder::new().max_buf_size(HEAD_MAX_BYTES).handshake(TokioIo::new(socket)).await;
    let (sender, connection) = handshake.map_err(|error| broken(context, &error))?;
    // Its error reaches the sender, and the answer's body.
    let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Ok(Connection { sender, task })
}

/// What an exchange failed of: the connection, or what came over it.
pub(crate) fn broken(context: &Context<'_>, error: &hyper::Error) -> Error {
    let text = chain(error);
    if error.is_parse() { context.malformed(&text) } else { context.lost(&text) }
}

/// Reads a whole body.
pub(crate) async fn read(body: Incoming, context: &Context<'_>) -> Result<Bytes> {
    match Limited::new(body, ANSWER_MAX_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(context.malformed(&format!("it is larger than {} MiB", ANSWER_MAX_BYTES >> 20)))
        }
        Err(error) => Err(context.lost(&chain(error.as_ref()))),
    }
}

/// An error with its causes: hyper's own texts do not name them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    Error::failed(error).to_string()
}

/// Joins already unescaped pairs into a query.
pub(crate) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let escape = protocol::routes::escape;
    let pairs = pairs.into_iter().map(|(key, value)| format!("{}={}", escape(key), escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// A JSON body.
pub(crate) fn body<T: serde::Serialize + ?Sized>(value: &T) -> Result<Option<Vec<u8>>> {
    json::encode(value).map(Some)
}
