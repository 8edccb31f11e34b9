//! From a request to its answer: finds the route in the protocol's one table, reads the request, performs it.

use std::{convert::Infallible, io, sync::Arc};

use bytes::Buf;
use futures_util::{Stream, StreamExt};
use hyper::{Method, StatusCode};
use protocol::{
    Backend, ByteStream,
    routes::{self, Match, Route},
};
use warp::{Filter, filters::path::FullPath, reply::Response};

use crate::{
    Config, body,
    connection::Routes,
    debug,
    grace::GraceClock,
    metrics::{Metrics, RouteName},
    perform::perform,
    request::{Parts, Request},
    response,
    sessions::Sessions,
};

/// What every request needs.
pub(crate) struct App {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) config: Config,
    pub(crate) grace: Arc<GraceClock>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The routes of the API's listeners.
pub(crate) fn routes(app: Arc<App>) -> Routes {
    let metrics = debug::metrics(app.metrics.clone(), app.backend.clone());
    let query = warp::query::raw().or_else(|_| async { Ok::<_, Infallible>((String::new(),)) });
    let api = warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::body::stream())
        .then(move |method: Method, path: FullPath, query: String, body| {
            let (body, rest) = body::lend(to_byte_stream(body));
            let answer = answer(app.clone(), method, path, query, body);
            async move {
                let response = answer.await;
                rest.drain().await;
                response
            }
        })
        .boxed();
    metrics.or(api).unify().boxed()
}

async fn answer(app: Arc<App>, method: Method, path: FullPath, query: String, body: ByteStream) -> Response {
    let (route, parameters) = match routes::find(method.as_str(), path.as_str()) {
        Match::Found(route, parameters) => (route, parameters),
        Match::MethodNotAllowed(allowed) => return response::method_not_allowed(&allowed),
        Match::NotFound => return response::not_found(),
        Match::BrokenEscape => return response::broken_escape(path.as_str()),
    };
    let parts = Parts { parameters, query, body, max_json_body_bytes: app.config.max_json_body_bytes };
    let mut response = match read_and_perform(&app, route, parts).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%method, path = path.as_str(), %error, "request failed");
            // Every status that an error has is one.
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response::error(status, &error)
        }
    };
    response.extensions_mut().insert(RouteName(route.def().name));
    response
}

async fn read_and_perform(app: &Arc<App>, route: Route, parts: Parts) -> protocol::Result<Response> {
    // Bulk calls and listing have no handle in their paths: a scheduler polls them for ever.
    let names_container = route.def().path.contains("/:handle");
    let hold = names_container.then(|| app.grace.hold(parts.parameters.first().map_or("", String::as_str)));
    let request = Request::read(route, parts).await?;
    perform(app, request, hold, route.def().name).await
}

fn to_byte_stream(body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static) -> ByteStream {
    Box::pin(body.map(|chunk| match chunk {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(error) => Err(io::Error::other(error)),
    }))
}
