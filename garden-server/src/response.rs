//! Answers, as the reference writes them.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream::pending;
use hyper::{
    HeaderMap, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};
use protocol::{Error, Result, json};
use serde::Serialize;
use warp::{Reply, reply::Response};

use crate::connection::Hijack;

/// A 200 with a JSON document.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<Response> {
    Ok(document(StatusCode::OK, json::encode(value)?))
}

/// A 201 with a JSON document.
pub(crate) fn created<T: Serialize + ?Sized>(value: &T) -> Result<Response> {
    Ok(document(StatusCode::CREATED, json::encode(value)?))
}

/// A 200 that says nothing but that it was done.
pub(crate) fn done() -> Response {
    document(StatusCode::OK, &b"{}\n"[..])
}

/// An error's document.
pub(crate) fn error(status: StatusCode, error: &Error) -> Response {
    // Encoding five strings cannot fail.
    document(status, json::encode(&error.to_body()).unwrap_or_default())
}

/// What the API is, for people and for tools that read OpenAPI 3.1.
pub(crate) fn openapi() -> Response {
    document(StatusCode::OK, include_bytes!("../openapi.json").to_vec())
}

/// No such path.
pub(crate) fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "404 page not found\n", HeaderMap::new())
}

/// The path has an escape that is none.
pub(crate) fn broken_escape(path: &str) -> Response {
    let reason = format!("the path {path:?} cannot be understood: a % is written %25");
    error(StatusCode::BAD_REQUEST, &Error::BadRequest { reason })
}

/// The path is there for other methods.
pub(crate) fn method_not_allowed(allowed: &str) -> Response {
    let mut headers = HeaderMap::new();
    // The methods of the table are header text.
    headers.insert(ALLOW, HeaderValue::from_str(allowed).unwrap_or(HeaderValue::from_static("")));
    plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n", headers)
}

/// The head behind which a process's stream begins; JSON payloads for `run` and `attach`, bytes else. Its body never
/// ends, so that the connection stays as it is until the hijack takes it.
pub(crate) fn hijacked(status: StatusCode, is_json: bool, hijack: Hijack) -> Response {
    let mut response =
        warp::reply::stream(pending::<std::result::Result<Bytes, Infallible>>()).into_response();
    *response.status_mut() = status;
    if is_json {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response.extensions_mut().insert(hijack);
    response
}

/// A JSON document that is written already.
pub(crate) fn document(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(status: StatusCode, text: &'static str, mut headers: HeaderMap) -> Response {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
