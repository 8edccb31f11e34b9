//! The whole API in one match.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use hyper::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use protocol::{
    ByteStream, CreateResponse, Error, NetInResponse, Output, Process, PropertyValue, Result,
    extension::{ProcessStatus, StartedProcess},
};
use warp::{Reply, reply::Response};

use crate::{
    api::App,
    channel_stream::{self, Attachment},
    connection::{Hijack, Hijacked},
    grace::Hold,
    output_stream, process_stream,
    request::{Request, StreamOptions},
    response::{self, created, done, json},
    result,
    sessions::{Session, SessionKind},
    socket::Peer,
};

/// Does what the request asks. `hold` keeps the container's grace clock from running as long as its streams are open.
/// Only what waits for a process is given up when `peer` is gone.
pub(crate) async fn perform(
    app: &Arc<App>,
    request: Request,
    hold: Option<Hold>,
    peer: &Peer,
) -> Result<Response> {
    let backend = &app.backend;
    match request {
        Request::Ping => backend.ping().await.map(|()| done()),
        Request::Capacity => json(&backend.capacity().await?),
        Request::Create(mut spec) => {
            let app = app.clone();
            let handle = to_its_end(async move {
                if spec.grace_time.is_zero() {
                    spec.grace_time = app.config.default_grace_time;
                }
                let grace_time = spec.grace_time;
                let handle = app.backend.create(*spec).await?;
                app.grace.start(&handle, grace_time);
                Ok(handle)
            })
            .await?;
            json(&CreateResponse { handle })
        }
        Request::List(filter) => app.listing.answer(backend.list(&filter).await?),
        Request::BulkInfo(handles) => json(&backend.bulk_info(&handles).await?),
        Request::BulkMetrics(handles) => json(&backend.bulk_metrics(&handles).await?),
        Request::Info { handle } => {
            Ok(response::document(StatusCode::OK, backend.info(&handle).await?.json()?))
        }
        Request::Destroy { handle } => {
            let app = app.clone();
            to_its_end(async move {
                app.backend.destroy(&handle).await?;
                app.sessions.container_is_gone(&handle);
                app.grace.forget(&handle);
                Ok(())
            })
            .await?;
            Ok(done())
        }
        Request::Stop { handle, kill } => {
            let backend = backend.clone();
            to_its_end(async move { backend.stop(&handle, kill).await }).await?;
            Ok(done())
        }
        Request::SetGraceTime { handle, grace_time } => {
            backend.set_grace_time(&handle, grace_time).await?;
            app.grace.start(&handle, grace_time);
            Ok(done())
        }
        Request::StreamIn { handle, query, tar } => {
            backend.stream_in(&handle, query, tar).await?;
            Ok(done())
        }
        Request::StreamOut { handle, query } => {
            stream_out(backend.stream_out(&handle, query).await?, hold).await
        }
        Request::BandwidthLimits { handle } => json(&backend.bandwidth_limits(&handle).await?),
        Request::CpuLimits { handle } => json(&backend.cpu_limits(&handle).await?),
        Request::DiskLimits { handle } => json(&backend.disk_limits(&handle).await?),
        Request::MemoryLimits { handle } => json(&backend.memory_limits(&handle).await?),
        Request::NetIn { handle, ports } => {
            let made = backend.net_in(&handle, ports).await?;
            json(&NetInResponse { host_port: made.host_port, container_port: made.container_port })
        }
        Request::NetOut { handle, rules } => backend.net_out(&handle, rules).await.map(|()| done()),
        Request::ReplaceNetOut { handle, rules } => {
            backend.replace_net_out(&handle, rules).await.map(|()| done())
        }
        Request::Run { handle, spec } => {
            let process = backend.run(&handle, *spec).await?;
            let session = app.sessions.open(handle, process, SessionKind::Run);
            Ok(process_answer(app, StatusCode::CREATED, session, hold))
        }
        Request::Attach { handle, process_id } => {
            let process = backend.attach(&handle, &process_id).await?;
            let session = app.sessions.open(handle, process, SessionKind::Attach);
            Ok(process_answer(app, StatusCode::OK, session, hold))
        }
        Request::Output { handle, process_id, stream_id, which } => {
            let output = app.sessions.output(&handle, &process_id, &stream_id, which)?;
            let open = app.metrics.open_stream("output");
            // Before the head: who has got that counts as a reader.
            let reader = output.reader();
            let hijack = Hijack::new(move |hijacked: Hijacked| async move {
                let _held = (hold, open);
                output_stream::serve(hijacked, reader).await;
            });
            Ok(response::hijacked(StatusCode::OK, false, hijack))
        }
        Request::Properties { handle } => json(&backend.properties(&handle).await?),
        Request::Property { handle, key } => {
            json(&PropertyValue { value: backend.property(&handle, &key).await? })
        }
        Request::SetProperty { handle, key, value } => {
            backend.set_property(&handle, &key, &value).await.map(|()| done())
        }
        Request::RemoveProperty { handle, key } => {
            backend.remove_property(&handle, &key).await.map(|()| done())
        }
        Request::Metrics { handle } => json(&backend.metrics(&handle).await?),
        Request::StartProcess { handle, spec } => {
            let process = backend.run(&handle, *spec).await?;
            let session = app.sessions.open(handle, process, SessionKind::Run);
            created(&StartedProcess { process_id: session.process_id })
        }
        Request::RunToEnd { handle, spec, encoding } => {
            let process = backend.run(&handle, *spec).await?;
            let outputs = outputs_of(&process);
            let session = app.sessions.open(handle, process, SessionKind::Run);
            session.control.close_stdin().await?;
            let result = result::collect(session.process_id, session.ended, outputs, encoding);
            json(&unless_gone(peer, result).await?)
        }
        Request::ProcessStatus { handle, process_id } => {
            let process = attach(app, &handle, &process_id, false).await?;
            let exit_status = process.exit.now_or_never().transpose()?;
            json(&ProcessStatus { process_id, exit_status })
        }
        Request::ProcessResult { handle, process_id, encoding } => {
            let process = attach(app, &handle, &process_id, true).await?;
            let outputs = outputs_of(&process);
            let session = app.sessions.open(handle, process, SessionKind::Attach);
            let result = result::collect(process_id, session.ended, outputs, encoding);
            json(&unless_gone(peer, result).await?)
        }
        Request::SignalProcess { handle, process_id, signal } => {
            backend.attach(&handle, &process_id).await?.control.signal(signal).await?;
            Ok(done())
        }
        Request::ProcessStream { handle, process_id, stream, handshake } => {
            let StreamOptions { from_start, windowed } = stream;
            let process = attach(app, &handle, &process_id, from_start).await?;
            let outputs = outputs_of(&process);
            let session = app.sessions.open(handle, process, SessionKind::Attach);
            let stream_id = session.stream_id.clone();
            let open = app.metrics.open_stream("websocket");
            let retention = app.config.output_retention;
            let attachment = Attachment { session, outputs, windowed, retention };
            let hijack = Hijack::new(move |hijacked: Hijacked| async move {
                let _held = (hold, open);
                channel_stream::serve(hijacked, attachment).await;
            });
            handshake.accept(&stream_id, hijack)
        }
    }
}

/// The process, its outputs from its start on if that is wanted and known. One that the backend has forgotten at its end
/// is known here a little longer, for who has started it and comes back for the rest.
async fn attach(app: &App, handle: &str, process_id: &str, from_start: bool) -> Result<Process> {
    let attached = app.backend.attach(handle, process_id).await;
    match (attached, app.sessions.started_here(handle, process_id)) {
        (Ok(process), Some(start)) if from_start => {
            Ok(Process { stdout: start.stdout, stderr: start.stderr, ..process })
        }
        (Err(Error::ProcessNotFound { .. }), Some(start)) => Ok(start),
        (attached, _) => attached,
    }
}

fn outputs_of(process: &Process) -> [Output; 2] {
    [process.stdout.clone(), process.stderr.clone()]
}

/// Waits for as long as there is somebody who waits.
async fn unless_gone<T>(peer: &Peer, wait: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        result = wait => result,
        () = peer.gone() => Err(Error::Failed { message: "the client left before the process ended".to_owned() }),
    }
}

/// Runs in a task of its own, so that a client which leaves cannot stop it half-way.
async fn to_its_end<T: Send + 'static>(
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(operation).await {
        Ok(result) => result,
        Err(error) => Err(Error::Failed { message: format!("the operation was given up: {error}") }),
    }
}

fn process_answer(app: &App, status: StatusCode, session: Session, hold: Option<Hold>) -> Response {
    let open = app.metrics.open_stream("process");
    let hijack = Hijack::new(move |hijacked: Hijacked| async move {
        let _held = (hold, open);
        process_stream::serve(hijacked, session).await;
    });
    response::hijacked(status, true, hijack)
}

/// The body is written as it comes, in chunks; an error in it breaks the connection before the last chunk, so that no
/// client takes the rest for a whole tar.
async fn stream_out(mut tar: ByteStream, hold: Option<Hold>) -> Result<Response> {
    // An error that is there at once can still be an HTTP error.
    let first = tar.next().await.transpose().map_err(|error| Error::failed(&error))?;
    let body = futures_util::stream::iter(first.map(Ok)).chain(tar);
    let body = SyncStream { stream: Mutex::new(Box::pin(body)), failed: None, _hold: hold };
    let mut response = warp::reply::stream(body).into_response();
    // What the reference's HTTP library finds out about a tar from its first bytes. It gives a short body a
    // Content-Length too; every client takes chunks.
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// warp wants a body that can be shared between threads; the lock is never taken.
struct SyncStream {
    stream: Mutex<ByteStream>,
    failed: Option<io::Error>,
    _hold: Option<Hold>,
}

impl Stream for SyncStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        match ready!(stream.poll_next_unpin(cx)) {
            Some(Err(error)) => {
                // An error makes hyper drop what it has not written yet: let it write the head and the bytes so far,
                // so that the client sees an answer that broke off and not a connection without one.
                self.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            item => Poll::Ready(item),
        }
    }
}
