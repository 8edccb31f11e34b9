//! The client: the seam's operations, each as one request.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use protocol::{
    Backend, BandwidthLimits, BulkInfo, BulkMetrics, ByteStream, Capacity, ContainerInfo, ContainerSpec,
    CpuLimits, CreateResponse, DiskLimits, Document, Error, FilesQuery, ListResponse, MemoryLimits, Metrics,
    NetIn, NetInRequest, NetInResponse, NetOutRule, Process, ProcessSpec, Properties, PropertyValue, Result,
    Sample, StopRequest,
    json::{self, DurationNs},
    routes::Route,
};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::{
    address::{Address, Endpoint},
    channels, files,
    http::{Call, Http, body, in_time, query},
    process, websocket,
};

/// How long a connection may take to come about, unless [`Client::with_connect_timeout`] says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long a client tries again, unless [`Client::with_retries_for`] says otherwise.
pub const RETRIES_FOR: Duration = Duration::from_secs(1);

/// A bulk query is split where its URL would grow beyond this: servers bound theirs, and so does HTTP's own type.
const BULK_QUERY_MAX_BYTES: usize = 16 << 10;

/// A client of one Garden server. Clones share its idle connections: up to eight are kept for the next questions, and
/// closed with the last clone.
///
/// It implements [`Backend`], so that everything a server can do is a method of that trait.
///
/// ```no_run
/// use garden_client::{Backend, Client, ContainerSpec, ProcessSpec};
///
/// # async fn example() -> garden_client::Result<()> {
/// let client = Client::new("unix:/run/garden/garden.sock")?;
/// let handle = client.create(ContainerSpec::default()).await?;
/// let ended = client.run_and_collect(&handle, ProcessSpec::new("echo", ["hello"])).await?;
/// assert_eq!((ended.exit_status, &ended.stdout[..]), (0, &b"hello\n"[..]));
/// client.destroy(&handle).await?;
/// # Ok(())
/// # }
/// ```
///
/// # What is tried again
/// Connecting, before any request, where nobody listens: nothing has been asked yet. And an ordinary request that
/// changes nothing, as well as [`stream_out`](Backend::stream_out) before its first byte, whose connection was lost.
/// Both with pauses of 20 to 250 ms, for the time of [`with_retries_for`](Client::with_retries_for) in all. Nothing
/// else is sent twice.
///
/// # How long it waits
/// | for | unless set | set by |
/// |---|---|---|
/// | one attempt to connect | 5 s | [`with_connect_timeout`](Client::with_connect_timeout) |
/// | an ordinary request, or a process to start | for ever | [`with_request_timeout`](Client::with_request_timeout) |
/// | the next byte of a tar | for ever | [`with_stream_idle_timeout`](Client::with_stream_idle_timeout) |
/// | further attempts | 1 s in all | [`with_retries_for`](Client::with_retries_for) |
///
/// # Errors
/// What the server says comes with the type that it has on the server's side. What this client says is one of four:
///
/// | error | done? |
/// |---|---|
/// | [`Error::CannotConnect`] | no |
/// | [`Error::TimedOut`] | it says `perhaps_done` |
/// | [`Error::Connection`], lost on the way | perhaps, if the request changes something |
/// | [`Error::Malformed`], what came is no answer | perhaps, if the request changes something |
///
/// # Dropping a future
/// closes its connection at once, and leaves no task behind. What the server makes of that:
///
/// - create, destroy and stop go on to their end there, if they have begun. So **a container whose create was dropped,
///   or timed out, may exist, or may yet come to be**; a destroy sent right away can come too early and find nothing.
///   Choose the handle yourself, so that you can destroy it later, and give the spec a grace time, so that the server
///   does if you cannot.
/// - run: the process may be started. Choose its id, and [`attach`](Backend::attach) tells.
/// - stream_in: the server sees a tar cut short and reports nothing as done; files that came before may be there.
/// - A [`Process`], its exit and its outputs: the process goes on, and can be attached to.
/// - A write to standard input that was not waited for: none, a beginning or all of the data is written, and what is
///   written next comes behind it. No message is cut in half.
#[derive(Clone)]
pub struct Client {
    http: Arc<Http>,
    /// Whether the server's processes have websockets, once that is known.
    has_websockets: Arc<OnceCell<bool>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(self.address()).finish()
    }
}

impl Client {
    /// A client of the server at `unix:/path/of/the.sock`, `tcp:host:port`, a bare path or a bare `host:port`. It
    /// connects when it is first used.
    pub fn new(address: &str) -> Result<Self> {
        Ok(Client::at(address.parse()?))
    }

    /// A client of the server at this address.
    pub fn at(address: Address) -> Self {
        let endpoint = Endpoint {
            address,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: None,
            stream_idle_timeout: None,
            retry_for: RETRIES_FOR,
        };
        Client { http: Arc::new(Http::new(endpoint)), has_websockets: Arc::default() }
    }

    /// The same server, with Garden's classic process streams whether it has better ones or not: for a proxy in between
    /// that passes no websockets on. Their input is text; binary input is refused.
    pub fn with_classic_streams(self) -> Self {
        Client { has_websockets: Arc::new(OnceCell::new_with(Some(false))), ..self }
    }

    /// The same server, with another limit on how long one attempt to connect may take: 5 s unless set.
    pub fn with_connect_timeout(self, limit: Duration) -> Self {
        self.with(|endpoint| endpoint.connect_timeout = limit)
    }

    /// The same server, with a limit on how long an ordinary request may take in all, attempts and pauses between
    /// them included, and [`run`](Backend::run) and [`attach`](Backend::attach) until the process is there. Unless
    /// set there is none: a create that fetches an image takes its time, and a stop may wait for ten seconds.
    pub fn with_request_timeout(self, limit: Duration) -> Self {
        self.with(|endpoint| endpoint.request_timeout = Some(limit))
    }

    /// The same server, with a limit on how long a tar that is streamed in or out may stand still because of the
    /// server: no byte taken, none sent, no answer behind the last one. Unless set there is none. It does not run while
    /// the source of a tar, or who reads one, is waited for. A process's streams have no limit: it may be silent for
    /// days.
    pub fn with_stream_idle_timeout(self, limit: Duration) -> Self {
        self.with(|endpoint| endpoint.stream_idle_timeout = Some(limit))
    }

    /// The same server, with another limit on how long attempts are repeated, so that a server may be restarted
    /// meanwhile: 1 s unless set; with zero there is one attempt, a kept connection that turns out to be dead not
    /// counted. See [what is tried again](Client#what-is-tried-again).
    pub fn with_retries_for(self, limit: Duration) -> Self {
        self.with(|endpoint| endpoint.retry_for = limit)
    }

    fn with(self, change: impl FnOnce(&mut Endpoint)) -> Self {
        let mut endpoint = self.http.endpoint.clone();
        change(&mut endpoint);
        Client { http: Arc::new(Http::new(endpoint)), ..self }
    }

    /// Where this client's server is.
    pub fn address(&self) -> &Address {
        &self.http.endpoint.address
    }

    async fn get<T: DeserializeOwned>(&self, route: Route, parameters: &[&str]) -> Result<T> {
        self.ask(Call::new(route, parameters)).await
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T> {
        let answer = self.http.call(&call).await?;
        json::decode(&answer).map_err(|error| call.context(&self.http.endpoint).malformed(&error))
    }

    async fn tell(&self, call: Call<'_>) -> Result<()> {
        self.http.call(&call).await.map(drop)
    }

    /// `run` or `attach`, over whichever kind of streams the server has.
    async fn start(&self, handle: &str, call: &Call<'_>) -> Result<Process> {
        call.check_parameters()?;
        let endpoint = &self.http.endpoint;
        let started = async {
            if *self.has_websockets.get_or_try_init(|| websocket::are_there(endpoint)).await? {
                let attached = match (&call.body, call.parameters) {
                    (Some(spec), _) => websocket::run(endpoint, handle, spec.clone()).await?,
                    (None, [.., process_id]) => websocket::attach(endpoint, handle, process_id).await?,
                    (None, []) => None,
                };
                // None: another server listens there now, and did nothing.
                if let Some(attached) = attached {
                    return Ok(channels::process(&self.http, handle, attached));
                }
            }
            process::start(endpoint, handle, call).await
        };
        in_time(endpoint, call, started).await
    }

    async fn bulk<T: DeserializeOwned, E>(
        &self,
        route: Route,
        handles: &[String],
        entries: impl Fn(T) -> E,
    ) -> Result<E>
    where
        E: Extend<<E as IntoIterator>::Item> + IntoIterator + Default,
    {
        let mut all = E::default();
        for batch in batches(handles) {
            let call = Call { query: query([("handles", batch.as_str())]), ..Call::new(route, &[]) };
            all.extend(entries(self.ask(call).await?));
        }
        Ok(all)
    }
}

/// The handles, joined by commas, in as few pieces as fit into URLs.
fn batches(handles: &[String]) -> Vec<String> {
    let mut batches: Vec<String> = Vec::new();
    for handle in handles {
        match batches.last_mut() {
            // In the URL each byte may take three.
            Some(batch) if 3 * (batch.len() + 1 + handle.len()) <= BULK_QUERY_MAX_BYTES => {
                batch.push(',');
                batch.push_str(handle);
            }
            _ => batches.push(handle.clone()),
        }
    }
    batches
}

#[async_trait]
impl Backend for Client {
    async fn ping(&self) -> Result<()> {
        self.tell(Call::new(Route::Ping, &[])).await
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.get(Route::Capacity, &[]).await
    }

    async fn create(&self, spec: ContainerSpec) -> Result<String> {
        let call = Call { body: body(&spec)?, ..Call::new(Route::Create, &[]) };
        let CreateResponse { handle } = self.ask(call).await?;
        Ok(handle)
    }

    async fn destroy(&self, handle: &str) -> Result<()> {
        self.tell(Call::new(Route::Destroy, &[handle])).await
    }

    async fn list(&self, filter: &Properties) -> Result<Arc<[String]>> {
        let filter = filter.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let ListResponse { handles } =
            self.ask(Call { query: query(filter), ..Call::new(Route::List, &[]) }).await?;
        Ok(handles.into())
    }

    async fn info(&self, handle: &str) -> Result<Arc<Document<ContainerInfo>>> {
        self.get(Route::Info, &[handle]).await.map(Document::new)
    }

    async fn bulk_info(&self, handles: &[String]) -> Result<BulkInfo> {
        self.bulk(Route::BulkInfo, handles, |BulkInfo(entries)| entries).await.map(BulkInfo)
    }

    async fn metrics(&self, handle: &str) -> Result<Metrics> {
        self.get(Route::Metrics, &[handle]).await
    }

    async fn bulk_metrics(&self, handles: &[String]) -> Result<BulkMetrics> {
        self.bulk(Route::BulkMetrics, handles, |BulkMetrics(entries)| entries).await.map(BulkMetrics)
    }

    async fn stop(&self, handle: &str, kill: bool) -> Result<()> {
        self.tell(Call { body: body(&StopRequest { kill })?, ..Call::new(Route::Stop, &[handle]) }).await
    }

    async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<()> {
        let body = body(&DurationNs(grace_time))?;
        self.tell(Call { body, ..Call::new(Route::SetGraceTime, &[handle]) }).await
    }

    async fn grace_time(&self, _: &str) -> Result<Duration> {
        let message = "grace_time: the Garden protocol has no request that reads it, only one that sets it";
        Err(Error::Failed { message: message.to_owned() })
    }

    async fn stream_in(&self, handle: &str, files: FilesQuery, tar: ByteStream) -> Result<()> {
        let query = query([("destination", files.path.as_str()), ("user", &files.user)]);
        let parameters = [handle];
        let call = Call { query, ..Call::new(Route::StreamIn, &parameters) };
        files::stream_in(&self.http.endpoint, &call, tar).await
    }

    async fn stream_out(&self, handle: &str, files: FilesQuery) -> Result<ByteStream> {
        let query = query([("source", files.path.as_str()), ("user", &files.user)]);
        let parameters = [handle];
        let call = Call { query, ..Call::new(Route::StreamOut, &parameters) };
        files::stream_out(&self.http.endpoint, &call).await
    }

    async fn bandwidth_limits(&self, handle: &str) -> Result<BandwidthLimits> {
        self.get(Route::BandwidthLimits, &[handle]).await
    }

    async fn cpu_limits(&self, handle: &str) -> Result<CpuLimits> {
        self.get(Route::CpuLimits, &[handle]).await
    }

    async fn disk_limits(&self, handle: &str) -> Result<DiskLimits> {
        self.get(Route::DiskLimits, &[handle]).await
    }

    async fn memory_limits(&self, handle: &str) -> Result<MemoryLimits> {
        self.get(Route::MemoryLimits, &[handle]).await
    }

    async fn net_in(&self, handle: &str, ports: NetIn) -> Result<NetIn> {
        let NetIn { host_port, container_port } = ports;
        let request = NetInRequest { handle: handle.to_owned(), host_port, container_port };
        let NetInResponse { host_port, container_port } =
            self.ask(Call { body: body(&request)?, ..Call::new(Route::NetIn, &[handle]) }).await?;
        Ok(NetIn { host_port, container_port })
    }

    async fn net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        self.tell(Call { body: body(&rules)?, ..Call::new(Route::BulkNetOut, &[handle]) }).await
    }

    async fn replace_net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        self.tell(Call { body: body(&rules)?, ..Call::new(Route::ReplaceNetOut, &[handle]) }).await
    }

    async fn run(&self, handle: &str, spec: ProcessSpec) -> Result<Process> {
        let parameters = [handle];
        let call = Call { body: body(&spec)?, ..Call::new(Route::Run, &parameters) };
        self.start(handle, &call).await
    }

    async fn attach(&self, handle: &str, process_id: &str) -> Result<Process> {
        self.start(handle, &Call::new(Route::Attach, &[handle, process_id])).await
    }

    async fn properties(&self, handle: &str) -> Result<Properties> {
        self.get(Route::Properties, &[handle]).await
    }

    async fn property(&self, handle: &str, key: &str) -> Result<String> {
        let PropertyValue { value } = self.get(Route::Property, &[handle, key]).await?;
        Ok(value)
    }

    async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<()> {
        let body = body(&PropertyValue { value: value.to_owned() })?;
        self.tell(Call { body, ..Call::new(Route::SetProperty, &[handle, key]) }).await
    }

    async fn remove_property(&self, handle: &str, key: &str) -> Result<()> {
        self.tell(Call::new(Route::RemoveProperty, &[handle, key])).await
    }

    /// Nothing: what a server counts is at its own `/metrics`.
    fn telemetry(&self) -> Vec<Sample> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bulk_queries_are_split_and_nothing_is_lost() {
        let handles: Vec<String> = (0..1000).map(|n| format!("{n:036}")).collect();
        let batches = batches(&handles);
        assert!(batches.len() > 1);
        assert!(
            batches.iter().all(|batch| query([("handles", batch.as_str())]).len() <= BULK_QUERY_MAX_BYTES)
        );
        assert_eq!(batches.join(",").split(',').collect::<Vec<_>>(), handles);
    }
}
