//! Requests that are answered before anybody asks what they want: hyper takes them, but they are not HTTP as this
//! server speaks it, or two readers could understand them differently. (A length beside chunks is not seen here: hyper
//! takes the chunks, as RFC 9112 allows, and closes the connection behind them.)

use hyper::{
    HeaderMap, Request, StatusCode,
    header::{CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING},
};
use protocol::Error;
use warp::reply::Response;

use crate::{connection::has, response};

/// The answer to a request that is not looked at further.
pub(crate) fn refusal<B>(request: &Request<B>) -> Option<Response> {
    // `CONNECT host:port`, or a target without its slash: warp takes for granted that there is a path, and panics.
    if request.uri().path_and_query().is_none() {
        return Some(response::not_found());
    }
    let reason = problem(request.headers())?;
    let mut response = response::error(StatusCode::BAD_REQUEST, &Error::BadRequest { reason });
    // Where the request's body ends is not known for sure.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

fn problem(headers: &HeaderMap) -> Option<String> {
    if !has(headers, &TRANSFER_ENCODING) && headers.len() == headers.keys_len() {
        return None;
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Some(format!("Transfer-Encoding: {coding:?}: only `chunked`, once, is understood"));
    }
    if headers.get_all(HOST).iter().count() > 1 {
        return Some("more than one Host: whom the request is for is not clear".to_owned());
    }
    None
}
