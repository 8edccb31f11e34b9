//! A hyper server that knows a few answers by heart.

use std::{collections::HashMap, convert::Infallible, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;

use crate::Outcome;

/// The first argument that makes this program the bare server.
pub const MODE: &str = "--bare-server";
/// The same with a limit on how long a connection may do nothing, as every server needs one that others can reach.
pub const MODE_WITH_LIMIT: &str = "--bare-server-with-limit";

/// As garden-server's.
const READ_HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves the files of `answers`, each named in its `index` after a path and holding a body.
pub fn serve(socket: &str, answers: &Path, limit: bool) -> Outcome {
    let mut bodies: HashMap<String, Bytes> = HashMap::new();
    for (n, path) in std::fs::read_to_string(answers.join("index"))?.lines().enumerate() {
        bodies.insert(path.to_owned(), std::fs::read(answers.join(n.to_string()))?.into());
    }
    let bodies = Arc::new(bodies);
    // As garden-server's.
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = UnixListener::bind(socket)?;
        loop {
            let (connection, _) = listener.accept().await?;
            let bodies = bodies.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let body = bodies.get(request.uri().path()).cloned().unwrap_or_default();
                let mut response = Response::new(Full::new(body));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(async move {
                let mut http = http1::Builder::new();
                http.title_case_headers(true);
                if limit {
                    http.timer(TokioTimer::new()).header_read_timeout(READ_HEADER_TIMEOUT);
                }
                // An error is a client that left.
                let _ = http.serve_connection(TokioIo::new(connection), service).await;
            });
        }
    })
}
