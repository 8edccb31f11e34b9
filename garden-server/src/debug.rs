//! What operators look at: metrics, and the variable that dashboards of Garden's reference read.

use std::{convert::Infallible, sync::Arc};

use hyper::header::CONTENT_TYPE;
use protocol::Backend;
use serde::Serialize;
use warp::{Filter, Reply, reply::Response};

use crate::{
    connection::Routes,
    metrics::{Metrics, RouteName},
    response,
};

/// The routes of the debug listener.
pub(crate) fn routes(app: &Arc<crate::api::App>) -> Routes {
    let vars = warp::path!("debug" / "vars").and(warp::get()).map(debug_vars).boxed();
    let rest = warp::any().map(response::not_found);
    metrics(app.metrics.clone(), app.backend.clone()).or(vars).unify().or(rest).unify().boxed()
}

/// `GET /metrics`.
pub(crate) fn metrics(metrics: Arc<Metrics>, backend: Arc<dyn Backend>) -> Routes {
    warp::path!("metrics")
        .and(warp::get())
        .and_then(move || {
            let text = metrics.render(backend.telemetry());
            async move {
                let mut response = match text {
                    Ok(text) => {
                        warp::reply::with_header(text, CONTENT_TYPE, prometheus::TEXT_FORMAT).into_response()
                    }
                    Err(error) => response::error(
                        hyper::StatusCode::INTERNAL_SERVER_ERROR,
                        &protocol::Error::failed(&error),
                    ),
                };
                response.extensions_mut().insert(RouteName("prometheus"));
                Ok::<_, Infallible>(response)
            }
        })
        .boxed()
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
    let mut response = match response::json(&vars) {
        Ok(response) => response,
        Err(error) => response::error(hyper::StatusCode::INTERNAL_SERVER_ERROR, &error),
    };
    response.extensions_mut().insert(RouteName("debug_vars"));
    response
}

/// The server's resident memory: what it holds of the host. Never zero, which a dashboard takes for "down".
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(1).max(1) * 1024
}
