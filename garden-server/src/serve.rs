//! The server's life: start, accept, stop.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use futures_util::StreamExt;
use protocol::{Backend, Error, Result};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    api::{self, App},
    config::Config,
    connection::{self, Service, Shutdown},
    debug,
    grace::GraceClock,
    guard::Guard,
    listener::{Acceptor, Listener, Serves},
    listing::Listing,
    metrics::Metrics,
    sessions::Sessions,
};

/// Pause after a failed accept: most often the process is out of file descriptors, and needs others to close theirs.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Containers asked for their grace time at once at the start.
const START_CONCURRENCY: usize = 16;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A metric could not be registered: an error in the program.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The backend cannot say which containers there are.
    #[error("cannot list the containers that are there already: {0}")]
    Containers(#[source] Error),
}

/// Serves `backend` on all `listeners` until `shutdown` resolves. Then no connection is accepted any more, process
/// streams are closed without an exit payload (their clients attach again later), requests that are being worked on
/// are answered as long as [`Config::shutdown_timeout`] allows, and the containers are left as they are.
pub async fn serve(
    listeners: Vec<Listener>,
    backend: Arc<dyn Backend>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (stop, stopping) = watch::channel(false);
    let stopping = Shutdown(stopping);
    let metrics = Arc::new(Metrics::new(&config)?);
    let sessions = Sessions::new(config.output_retention, stopping.clone());
    let grace = grace_clock(backend.clone(), metrics.clone(), sessions.clone());
    start_clocks(&grace, backend.as_ref()).await.map_err(ServeError::Containers)?;
    let app = Arc::new(App {
        sessions,
        backend,
        grace: grace.clone(),
        metrics: metrics.clone(),
        listing: Listing::default(),
        config,
    });

    let guard = Guard { allowed_hosts: app.config.allowed_hosts.clone().into() };
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (routes, guard) = match listener.serves {
            Serves::Api => (api::routes(app.clone()), Some(guard.clone())),
            Serves::Debug => (debug::routes(app.clone()), None),
        };
        let service = Service {
            routes,
            guard,
            metrics: metrics.clone(),
            read_header_timeout: app.config.read_header_timeout,
        };
        accepting.spawn(accept(listener, service, stopping.clone()));
    }

    shutdown.await;
    tracing::info!("stopping: streams are closed, containers go on");
    let _ = stop.send(true);
    grace.stop();
    let finished = async { while accepting.join_next().await.is_some() {} };
    if tokio::time::timeout(app.config.shutdown_timeout, finished).await.is_err() {
        tracing::warn!("some requests were not answered in time: their connections are closed");
    }
    // Dropping the set ends the connections that are left.
    Ok(())
}

/// Accepts connections until the server stops, then waits for those that are open.
async fn accept(listener: Listener, service: Service, mut shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.acceptor.accept() => accepted,
        };
        match accepted {
            Ok(socket) => {
                failing = false;
                let (service, shutdown) = (service.clone(), shutdown.clone());
                let counted = service.metrics.connection();
                connections.spawn(async move {
                    connection::serve(socket, service, shutdown).await;
                    drop(counted);
                });
            }
            Err(error) => {
                // Said once: it may fail for as long as all descriptors are in use.
                if !std::mem::replace(&mut failing, true) {
                    let kind = acceptor_kind(&listener.acceptor);
                    tracing::warn!(%error, kind, "cannot accept a connection: trying until it works");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    // Removes the socket's file before the last connections end.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn acceptor_kind(acceptor: &Acceptor) -> &'static str {
    match acceptor {
        Acceptor::Unix(_) => "unix",
        Acceptor::Tcp(_) => "tcp",
    }
}

fn grace_clock(backend: Arc<dyn Backend>, metrics: Arc<Metrics>, sessions: Arc<Sessions>) -> Arc<GraceClock> {
    GraceClock::new(move |handle| {
        let (backend, metrics, sessions) = (backend.clone(), metrics.clone(), sessions.clone());
        Box::pin(async move {
            let observed = metrics.operation("destroy");
            let destroyed = backend.destroy(&handle).await;
            observed.finished(destroyed.is_ok());
            if destroyed.is_ok() {
                sessions.container_is_gone(&handle);
            }
            destroyed
        })
    })
}

/// Starts the clock of every container that an earlier server left.
async fn start_clocks(grace: &Arc<GraceClock>, backend: &dyn Backend) -> Result<()> {
    let handles = backend.list(&BTreeMap::new()).await?;
    futures_util::stream::iter(handles.iter())
        .for_each_concurrent(START_CONCURRENCY, |handle| async move {
            match backend.grace_time(handle).await {
                Ok(grace_time) => grace.start(handle, grace_time),
                Err(error) => tracing::warn!(handle, %error, "a container's grace time is unknown: it stays"),
            }
        })
        .await;
    Ok(())
}
