//! The processes that clients are connected to, by stream id: where `stdout` and `stderr` find their process.
//!
//! A session begins with `run` or `attach` and outlives their connection: its outputs can be opened, as often as one
//! likes, until a minute after the process's exit. The session of an `attach` also ends a minute after its client has
//! gone, so that a client which attaches over and over to one process leaves nothing behind.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protocol::{Error, Output, Process, ProcessControl, Result};
use tokio::{sync::watch, time::sleep};

use crate::{connection::Shutdown, request::OutputKind};

/// A process's end, once it is there.
pub(crate) type Ended = watch::Receiver<Option<Result<i32>>>;

/// Waits for it; none when the server stops.
pub(crate) async fn end_of(ended: &mut Ended) -> Option<Result<i32>> {
    ended.wait_for(Option::is_some).await.ok().and_then(|status| status.clone())
}

/// All sessions.
pub(crate) struct Sessions {
    next_stream_id: AtomicU64,
    /// By stream id: the newest comes last.
    table: Mutex<BTreeMap<u64, Outputs>>,
    retention: Duration,
    shutdown: Shutdown,
}

struct Outputs {
    handle: String,
    process_id: String,
    /// If they begin at the process's start, and it is the newest that has this name.
    start: Option<Start>,
    stdout: Output,
    stderr: Output,
}

/// The rest of a process that a session began.
struct Start {
    control: Arc<dyn ProcessControl>,
    ended: Ended,
}

/// What the connection of a `run` or an `attach` needs of its session.
pub(crate) struct Session {
    pub(crate) process_id: String,
    pub(crate) stream_id: String,
    pub(crate) control: Arc<dyn ProcessControl>,
    pub(crate) ended: Ended,
}

/// How a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionKind {
    Run,
    Attach,
}

impl Sessions {
    pub(crate) fn new(retention: Duration, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Sessions { next_stream_id: AtomicU64::new(1), table: Mutex::default(), retention, shutdown })
    }

    /// Begins a session.
    pub(crate) fn open(self: &Arc<Self>, handle: String, process: Process, kind: SessionKind) -> Session {
        let id = self.next_stream_id.fetch_add(1, Ordering::Relaxed);
        let Process { id: process_id, stdout, stderr, control, exit } = process;
        let (ended_sender, ended) = watch::channel(None);
        let start = || Start { control: Arc::clone(&control), ended: ended.clone() };
        let start = (kind == SessionKind::Run).then(start);
        let outputs = Outputs { handle, process_id: process_id.clone(), start, stdout, stderr };
        self.lock().insert(id, outputs);

        let sessions = self.clone();
        tokio::spawn(async move {
            let mut shutdown = sessions.shutdown.clone();
            let life = async {
                let client_gone = async {
                    match kind {
                        SessionKind::Attach => ended_sender.closed().await,
                        SessionKind::Run => std::future::pending().await,
                    }
                };
                tokio::select! {
                    status = exit => drop(ended_sender.send(Some(status))),
                    () = client_gone => {}
                }
                sleep(sessions.retention).await;
            };
            tokio::select! {
                // First, so that what a backend says of processes while the server stops reaches no client.
                biased;
                () = shutdown.requested() => {}
                () = life => {}
            }
            sessions.lock().remove(&id);
        });
        Session { process_id, stream_id: id.to_string(), control, ended }
    }

    /// The output of a session of that very process of that very container.
    pub(crate) fn output(
        &self,
        handle: &str,
        process_id: &str,
        stream_id: &str,
        which: OutputKind,
    ) -> Result<Output> {
        let table = self.lock();
        let outputs = stream_id
            .parse()
            .ok()
            .filter(|id: &u64| id.to_string() == stream_id)
            .and_then(|id| table.get(&id))
            .filter(|outputs| outputs.handle == handle && outputs.process_id == process_id)
            .ok_or_else(|| Error::process_not_found(process_id))?;
        Ok(match which {
            OutputKind::Stdout => outputs.stdout.clone(),
            OutputKind::Stderr => outputs.stderr.clone(),
        })
    }

    /// That process with its outputs from its start on: known as long as the session lasts that started it.
    pub(crate) fn started_here(&self, handle: &str, process_id: &str) -> Option<Process> {
        let table = self.lock();
        // The newest: an id is free again when its container is gone, or the process, and a session lasts longer.
        let mut newest = table.values().rev();
        newest.find_map(|outputs| {
            let start = outputs.start.as_ref()?;
            if outputs.handle != handle || outputs.process_id != process_id {
                return None;
            }
            let mut ended = start.ended.clone();
            let stopping = || Error::ServiceUnavailable { message: "the server is stopping".to_owned() };
            Some(Process {
                id: process_id.to_owned(),
                stdout: outputs.stdout.clone(),
                stderr: outputs.stderr.clone(),
                control: Arc::clone(&start.control),
                exit: Box::pin(async move { end_of(&mut ended).await.unwrap_or_else(|| Err(stopping())) }),
            })
        })
    }

    /// The container is gone: its outputs can still be had by their stream ids, but a process of its name is another one.
    pub(crate) fn container_is_gone(&self, handle: &str) {
        for outputs in self.lock().values_mut().filter(|outputs| outputs.handle == handle) {
            outputs.start = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Outputs>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
