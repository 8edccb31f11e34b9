//! What operators look at: metrics, and the variable that dashboards of Garden's reference read.

use std::sync::Arc;

use hyper::{Method, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use warp::{Filter, Reply, filters::path::FullPath, reply::Response};

use crate::{api::App, connection::Routes, response};

/// The routes of the debug listener.
pub(crate) fn routes(app: Arc<App>) -> Routes {
    warp::method()
        .and(warp::path::full())
        .map(move |method: Method, path: FullPath| {
            let observed = app.metrics.request();
            let (name, response) = match (&method, path.as_str()) {
                (&Method::GET, "/metrics") => (Some("prometheus"), prometheus(&app)),
                (&Method::GET, "/debug/vars") => (Some("debug_vars"), debug_vars()),
                _ => (None, response::not_found()),
            };
            observed.answered(name, &method, response.status());
            response
        })
        .boxed()
}

/// `GET /metrics`.
pub(crate) fn prometheus(app: &App) -> Response {
    match app.metrics.render(app.backend.telemetry()) {
        Ok(text) => warp::reply::with_header(text, CONTENT_TYPE, prometheus::TEXT_FORMAT).into_response(),
        Err(error) => response::error(StatusCode::INTERNAL_SERVER_ERROR, &protocol::Error::failed(&error)),
    }
}

#[derive(Serialize)]
struct DebugVars {
    memstats: MemStats,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MemStats {
    alloc: u64,
    sys: u64,
}

/// `GET /debug/vars`: of the many variables of a Go program, those that make sense here.
fn debug_vars() -> Response {
    let resident_bytes = resident_bytes();
    let vars = DebugVars { memstats: MemStats { alloc: resident_bytes, sys: resident_bytes } };
    response::json(&vars).unwrap_or_else(|error| response::error(StatusCode::INTERNAL_SERVER_ERROR, &error))
}

/// The server's resident memory: what it holds of the host. Never zero, which a dashboard takes for "down".
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(1).max(1) * 1024
}
