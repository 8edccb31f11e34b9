//! The seam: everything a container server asks of a platform.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::{
    BandwidthLimits, BulkInfo, BulkMetrics, Capacity, ContainerInfo, ContainerSpec, CpuLimits, DiskLimits,
    Document, FilesQuery, MemoryLimits, Metrics, NetIn, NetOutRule, ProcessSpec, Properties, Result, Sample,
    Signal, TtySpec,
};

/// Bytes that arrive over time; an `Err` item ends the stream and says why it was cut short.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Resolves to a process's exit status, as a shell gives it: the code, or 128 + n for signal n.
pub type Exit = Pin<Box<dyn Future<Output = Result<i32>> + Send>>;

/// The contract between a front end (or a client) and whatever makes the containers.
///
/// Implemented by `backend-linux`, by `backend-fake`, and by `garden-client` over HTTP, so that one conformance
/// suite runs against all of them. One method for each operation; a container is named by its handle, there are no
/// container objects. An unknown handle is [`Error::ContainerNotFound`](crate::Error::ContainerNotFound) everywhere
/// but in the bulk calls, where it is that entry's error.
///
/// Every call may be dropped before it resolves. [`create`](Backend::create), [`destroy`](Backend::destroy) and
/// [`stop`](Backend::stop) then may or may not have happened, but never half: what was begun is finished or undone
/// behind the caller's back.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Whether the backend can serve at all.
    async fn ping(&self) -> Result<()>;

    /// What this host has to offer.
    async fn capacity(&self) -> Result<Capacity>;

    /// Makes a container, all or nothing, and answers with its handle (generated where the spec has none).
    async fn create(&self, spec: ContainerSpec) -> Result<String>;

    /// Removes a container and everything it holds. Idempotent after a partial failure; fails with
    /// [`Error::DestroyInProgress`](crate::Error::DestroyInProgress) while another destroy of it runs.
    async fn destroy(&self, handle: &str) -> Result<()>;

    /// Handles of the containers that have all the properties in `filter`; `garden.state` is `created` unless the
    /// filter says `all`. Touches neither cgroups nor disk. A backend that is asked again before anything has changed
    /// had best answer with the same `Arc`: schedulers poll, and the front end then need not write it anew.
    async fn list(&self, filter: &Properties) -> Result<Arc<[String]>>;

    /// State, addresses, events, processes, properties and ports of one container.
    async fn info(&self, handle: &str) -> Result<Arc<Document<ContainerInfo>>>;

    /// [`info`](Backend::info) of many; an unknown handle is an entry with an error.
    async fn bulk_info(&self, handles: &[String]) -> Result<BulkInfo>;

    /// Resource usage of one container.
    async fn metrics(&self, handle: &str) -> Result<Metrics>;

    /// [`metrics`](Backend::metrics) of many; an unknown handle is an entry with an error.
    async fn bulk_metrics(&self, handles: &[String]) -> Result<BulkMetrics>;

    /// Ends every process in the container but its init: SIGTERM, then SIGKILL after ten seconds; SIGKILL at once
    /// with `kill`. Resolves when they are gone. Files can still be streamed afterwards.
    async fn stop(&self, handle: &str, kill: bool) -> Result<()>;

    /// Sets how long a container that nobody refers to may live. Zero: for ever. Kept across server restarts; the
    /// clock itself runs in the front end.
    async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<()>;

    /// The grace time in force, zero for "for ever". The wire has no route for it: a client answers with an error.
    async fn grace_time(&self, handle: &str) -> Result<Duration>;

    /// Unpacks a tar, or a gzipped tar, at `query.path` (relative to the user's home) as `query.user`.
    async fn stream_in(&self, handle: &str, query: FilesQuery, tar: ByteStream) -> Result<()>;

    /// A tar of `query.path` as `query.user` sees it: of the directory itself, or, with a trailing slash, of its
    /// contents. An error before the first byte is the call's error; a later one is the stream's last item.
    async fn stream_out(&self, handle: &str, query: FilesQuery) -> Result<ByteStream>;

    /// The bandwidth limits in force.
    async fn bandwidth_limits(&self, handle: &str) -> Result<BandwidthLimits>;

    /// The CPU limits in force.
    async fn cpu_limits(&self, handle: &str) -> Result<CpuLimits>;

    /// The disk limits in force.
    async fn disk_limits(&self, handle: &str) -> Result<DiskLimits>;

    /// The memory limits in force.
    async fn memory_limits(&self, handle: &str) -> Result<MemoryLimits>;

    /// Maps a host port to a container port (TCP). Host port 0: one from the pool. Container port 0: the same as the
    /// host's. Answers with both as they are.
    async fn net_in(&self, handle: &str, ports: NetIn) -> Result<NetIn>;

    /// Opens the container's way out for what the rules describe, in one transaction.
    async fn net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()>;

    /// Makes these the container's outbound rules, instead of all that it has, at one moment: no packet meets some of
    /// the old ones and some of the new. On error those that it has stay.
    async fn replace_net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()>;

    /// Starts a process.
    async fn run(&self, handle: &str, spec: ProcessSpec) -> Result<Process>;

    /// The process of that id, running or ended. Its outputs begin where the last client that read them stopped,
    /// or, while others read, at what is written from now on.
    async fn attach(&self, handle: &str, process_id: &str) -> Result<Process>;

    /// All properties of a container.
    async fn properties(&self, handle: &str) -> Result<Properties>;

    /// One property; [`Error::PropertyNotFound`](crate::Error::PropertyNotFound) if it is not set.
    async fn property(&self, handle: &str, key: &str) -> Result<String>;

    /// Sets one property.
    async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<()>;

    /// Removes one property; [`Error::PropertyNotFound`](crate::Error::PropertyNotFound) if it is not set.
    async fn remove_property(&self, handle: &str, key: &str) -> Result<()>;

    /// What the backend counts about itself, for Prometheus. Cheap: read from memory, no lock is waited for long.
    fn telemetry(&self) -> Vec<Sample>;
}

/// A process, running or ended: the same struct whatever backend it runs on.
pub struct Process {
    /// Its id, unique within the container.
    pub id: String,
    /// Standard output.
    pub stdout: Output,
    /// Standard error; empty for a process with a terminal, whose one stream is `stdout`.
    pub stderr: Output,
    /// Standard input, signals and window size.
    pub control: Arc<dyn ProcessControl>,
    /// Resolves when the process has ended and its output is complete. Dropping it leaves the process alone.
    pub exit: Exit,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a client can do to a process besides reading from it. Every call is independent of the others: a signal is
/// delivered while a write waits.
#[async_trait]
pub trait ProcessControl: Send + Sync {
    /// Writes all of `data` to standard input, waiting as long as the process does not read. Data for a process
    /// that has ended, or has closed its input, is dropped.
    async fn write_stdin(&self, data: Bytes) -> Result<()>;

    /// Ends standard input.
    async fn close_stdin(&self) -> Result<()>;

    /// Sends a signal; none is sent to a process that has ended.
    async fn signal(&self, signal: Signal) -> Result<()>;

    /// Sets the size of the terminal's window; without effect on a process that has none.
    async fn set_tty(&self, tty: TtySpec) -> Result<()>;
}

/// One output stream of a process, to be opened whenever and as often as needed: each opening begins at the same
/// place and gets every byte from there on that is still held. Until it is opened it counts as nobody reading.
#[derive(Clone)]
pub struct Output(Arc<dyn Fn() -> OutputReader + Send + Sync>);

impl Output {
    /// An output whose readers come from `open`, which need not be told how far their bytes got.
    pub fn new(open: impl Fn() -> ByteStream + Send + Sync + 'static) -> Self {
        Output(Arc::new(move || OutputReader { stream: open(), passed_on: Box::new(|_| {}) }))
    }

    /// An output whose readers come from `open`, and are told by [`OutputReader::passed_on`] how far their bytes got.
    pub fn with_progress(open: impl Fn() -> OutputReader + Send + Sync + 'static) -> Self {
        Output(Arc::new(open))
    }

    /// A reader at this output's beginning, as a plain stream. Asking it for the next chunk says that the one before
    /// has been passed on. It ends when the process has ended and everything was read.
    pub fn open(&self) -> ByteStream {
        Box::pin(self.reader())
    }

    /// The same, for who passes bytes on piece by piece.
    pub fn reader(&self) -> OutputReader {
        (self.0)()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

/// A reader of an output.
pub struct OutputReader {
    stream: ByteStream,
    passed_on: Box<dyn FnMut(usize) + Send>,
}

impl OutputReader {
    /// A reader that calls `passed_on` with the number of bytes that have reached the client since the last call.
    pub fn new(stream: ByteStream, passed_on: impl FnMut(usize) + Send + 'static) -> Self {
        OutputReader { stream, passed_on: Box::new(passed_on) }
    }

    /// Says that this many more bytes of the last chunk have reached the client. A server that is killed now goes on
    /// behind them when it is started again. Asking for the next chunk says it of the whole chunk.
    pub fn passed_on(&mut self, bytes: usize) {
        (self.passed_on)(bytes);
    }
}

impl Stream for OutputReader {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(context)
    }
}

/// Builds a bulk answer from one answer for each handle.
pub(crate) fn collect_entries<T, E: From<Result<T>>>(
    entries: impl IntoIterator<Item = (String, Result<T>)>,
) -> BTreeMap<String, E> {
    entries.into_iter().map(|(handle, entry)| (handle, E::from(entry))).collect()
}
