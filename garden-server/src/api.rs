//! From a request to its answer: finds the route in the protocol's one table, reads the request, performs it.

use std::{io, sync::Arc};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use hyper::{Method, StatusCode};
use protocol::{
    Backend, ByteStream, Error,
    routes::{self, Match, Route},
};
use warp::{Filter, filters::path::FullPath, reply::Response};

use crate::{
    Config, body,
    connection::Routes,
    debug,
    grace::GraceClock,
    listing::Listing,
    metrics::Metrics,
    perform::perform,
    request::{Parts, Request},
    response,
    sessions::Sessions,
    socket::Peer,
    websocket::Handshake,
};

/// What every request needs.
pub(crate) struct App {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) config: Config,
    pub(crate) grace: Arc<GraceClock>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listing: Listing,
}

/// The raw query of a request that has one, among its extensions: warp's own filter for it treats a request without one
/// as an error, and then recovers from it.
#[derive(Clone)]
pub(crate) struct Query(pub(crate) String);

/// The routes of the API's listeners.
pub(crate) fn routes(app: Arc<App>) -> Routes {
    warp::method()
        .and(warp::path::full())
        .and(warp::ext::optional::<Query>())
        .and(warp::ext::optional::<Handshake>())
        .and(warp::ext::optional::<Peer>())
        .and(warp::body::stream())
        .then(
            move |method: Method,
                  path: FullPath,
                  query: Option<Query>,
                  handshake,
                  peer: Option<Peer>,
                  body| {
                let app = app.clone();
                let query = query.map_or_else(String::new, |Query(query)| query);
                async move {
                    let peer = peer.unwrap_or_default();
                    let body = body::within(app.config.read_body_timeout, to_bytes(body));
                    // These have no body that anybody would wait for.
                    if matches!(method, Method::GET | Method::DELETE | Method::HEAD) {
                        return answer(&app, &method, path.as_str(), query, handshake, &peer, body).await;
                    }
                    let (body, rest) = body::lend(body);
                    let response = answer(&app, &method, path.as_str(), query, handshake, &peer, body).await;
                    rest.drain().await;
                    response
                }
            },
        )
        .boxed()
}

async fn answer(
    app: &Arc<App>,
    method: &Method,
    path: &str,
    query: String,
    handshake: Option<Handshake>,
    peer: &Peer,
    body: ByteStream,
) -> Response {
    let observed = app.metrics.request();
    let (name, response) = match routes::find(method.as_str(), path) {
        Match::Found(route, parameters) => {
            let max_json_body_bytes = app.config.max_json_body_bytes;
            let parts = Parts { parameters, query, handshake, body, max_json_body_bytes };
            let done = read_and_perform(app, route, parts, peer).await;
            let ok = done.is_ok();
            let response = done.unwrap_or_else(|error| failed(method, path, &error));
            observed.performed(route, ok, response.status());
            return response;
        }
        Match::MethodNotAllowed(allowed) => (None, response::method_not_allowed(&allowed)),
        Match::BrokenEscape => (None, response::broken_escape(path)),
        Match::NotFound => aside(app, method, path),
    };
    observed.answered(name, method, response.status());
    response
}

fn failed(method: &Method, path: &str, error: &Error) -> Response {
    tracing::debug!(%method, path, %error, "request failed");
    // Every status that an error has is one.
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response::error(status, error)
}

/// What is served beside the protocol's table, and its name in the metrics.
fn aside(app: &App, method: &Method, path: &str) -> (Option<&'static str>, Response) {
    match path {
        "/metrics" | "/openapi.json" if method != Method::GET => (None, response::method_not_allowed("GET")),
        "/metrics" => (Some("prometheus"), debug::prometheus(app)),
        "/openapi.json" => (Some("openapi"), response::openapi()),
        _ => (None, response::not_found()),
    }
}

async fn read_and_perform(
    app: &Arc<App>,
    route: Route,
    parts: Parts,
    peer: &Peer,
) -> protocol::Result<Response> {
    // The first parameter of every route is the handle. Bulk calls and listing have none: a scheduler polls them for
    // ever.
    let hold = parts.parameters.first().map(|handle| app.grace.hold(handle));
    let request = Request::read(route, parts).await?;
    perform(app, request, hold, peer).await
}

fn to_bytes(
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Unpin,
) -> impl Stream<Item = io::Result<Bytes>> + Unpin {
    body.map(|chunk| match chunk {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(error) => Err(io::Error::other(error)),
    })
}
