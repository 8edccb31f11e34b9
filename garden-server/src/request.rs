//! Every request of the API as a value: below this nothing knows HTTP's paths, queries and bodies.

use std::{io, time::Duration};

use bytes::BytesMut;
use futures_util::StreamExt;
use protocol::{
    ByteStream, ContainerSpec, Error, FilesQuery, NetIn, NetInRequest, NetOutRule, ProcessSpec, Properties,
    PropertyValue, Result, Signal, StopRequest,
    extension::SignalRequest,
    json::{self, DurationNs},
    routes::{Route, query_pairs},
};
use serde::de::DeserializeOwned;

use crate::{result::Encoding, websocket::Handshake};

/// One request; the fields are those of the backend's method.
#[allow(missing_docs)]
pub(crate) enum Request {
    Ping,
    Capacity,
    Create(Box<ContainerSpec>),
    List(Properties),
    BulkInfo(Vec<String>),
    BulkMetrics(Vec<String>),
    Info { handle: String },
    Destroy { handle: String },
    Stop { handle: String, kill: bool },
    SetGraceTime { handle: String, grace_time: Duration },
    StreamIn { handle: String, query: FilesQuery, tar: ByteStream },
    StreamOut { handle: String, query: FilesQuery },
    BandwidthLimits { handle: String },
    CpuLimits { handle: String },
    DiskLimits { handle: String },
    MemoryLimits { handle: String },
    NetIn { handle: String, ports: NetIn },
    NetOut { handle: String, rules: Vec<NetOutRule> },
    ReplaceNetOut { handle: String, rules: Vec<NetOutRule> },
    Run { handle: String, spec: Box<ProcessSpec> },
    Attach { handle: String, process_id: String },
    Output { handle: String, process_id: String, stream_id: String, which: OutputKind },
    Properties { handle: String },
    Property { handle: String, key: String },
    SetProperty { handle: String, key: String, value: String },
    RemoveProperty { handle: String, key: String },
    Metrics { handle: String },
    StartProcess { handle: String, spec: Box<ProcessSpec> },
    RunToEnd { handle: String, spec: Box<ProcessSpec>, encoding: Encoding },
    ProcessStatus { handle: String, process_id: String },
    ProcessResult { handle: String, process_id: String, encoding: Encoding },
    SignalProcess { handle: String, process_id: String, signal: Signal },
    ProcessStream { handle: String, process_id: String, stream: StreamOptions, handshake: Handshake },
}

/// What a client wants of a process's websocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// The outputs begin at the process's start, if this server saw it, and not where the last client stopped.
    pub(crate) from_start: bool,
    /// Each channel has a window.
    pub(crate) windowed: bool,
}

/// One of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum OutputKind {
    Stdout,
    Stderr,
}

/// What HTTP says of a request whose route was found.
pub(crate) struct Parts {
    /// The path's parameters, in its order.
    pub(crate) parameters: Vec<String>,
    /// The raw query.
    pub(crate) query: String,
    /// If a websocket is asked for.
    pub(crate) handshake: Option<Handshake>,
    /// The body.
    pub(crate) body: ByteStream,
    /// The largest JSON body.
    pub(crate) max_json_body_bytes: usize,
}

impl Request {
    /// Reads a request of `route`.
    pub(crate) async fn read(route: Route, mut parts: Parts) -> Result<Request> {
        let mut parameters = std::mem::take(&mut parts.parameters).into_iter();
        let mut parameter = || parameters.next().unwrap_or_default();
        Ok(match route {
            Route::Ping => Request::Ping,
            Route::Capacity => Request::Capacity,
            Route::Create => Request::Create(parts.json().await?),
            Route::List => Request::List(parts.query()?),
            Route::BulkInfo => Request::BulkInfo(parts.handles()?),
            Route::BulkMetrics => Request::BulkMetrics(parts.handles()?),
            Route::Info => Request::Info { handle: parameter() },
            Route::Destroy => Request::Destroy { handle: parameter() },
            Route::Stop => {
                Request::Stop { handle: parameter(), kill: parts.json::<StopRequest>().await?.kill }
            }
            Route::SetGraceTime => {
                Request::SetGraceTime { handle: parameter(), grace_time: parts.json::<DurationNs>().await?.0 }
            }
            Route::StreamIn => Request::StreamIn {
                handle: parameter(),
                query: parts.files("destination")?,
                tar: std::mem::replace(&mut parts.body, Box::pin(futures_util::stream::empty())),
            },
            Route::StreamOut => Request::StreamOut { handle: parameter(), query: parts.files("source")? },
            Route::BandwidthLimits => Request::BandwidthLimits { handle: parameter() },
            Route::CpuLimits => Request::CpuLimits { handle: parameter() },
            Route::DiskLimits => Request::DiskLimits { handle: parameter() },
            Route::MemoryLimits => Request::MemoryLimits { handle: parameter() },
            Route::NetIn => {
                let NetInRequest { host_port, container_port, .. } = *parts.json().await?;
                Request::NetIn { handle: parameter(), ports: NetIn { host_port, container_port } }
            }
            Route::NetOut => {
                Request::NetOut { handle: parameter(), rules: vec![*parts.json::<NetOutRule>().await?] }
            }
            Route::BulkNetOut => Request::NetOut { handle: parameter(), rules: *parts.json().await? },
            Route::ReplaceNetOut => {
                Request::ReplaceNetOut { handle: parameter(), rules: *parts.json().await? }
            }
            Route::Run => Request::Run { handle: parameter(), spec: parts.json().await? },
            Route::Attach => {
                parts.skip_body().await?;
                Request::Attach { handle: parameter(), process_id: parameter() }
            }
            Route::Stdout | Route::Stderr => {
                parts.skip_body().await?;
                Request::Output {
                    handle: parameter(),
                    process_id: parameter(),
                    stream_id: parameter(),
                    which: if route == Route::Stdout { OutputKind::Stdout } else { OutputKind::Stderr },
                }
            }
            Route::Properties => Request::Properties { handle: parameter() },
            Route::Property => Request::Property { handle: parameter(), key: parameter() },
            Route::SetProperty => {
                let value = parts.json::<PropertyValue>().await?.value;
                Request::SetProperty { handle: parameter(), key: parameter(), value }
            }
            Route::RemoveProperty => Request::RemoveProperty { handle: parameter(), key: parameter() },
            Route::Metrics => Request::Metrics { handle: parameter() },
            Route::StartProcess => {
                let (wait, encoding) = (parts.flag("wait")?, parts.encoding()?);
                let (handle, spec) = (parameter(), parts.json().await?);
                if wait {
                    Request::RunToEnd { handle, spec, encoding }
                } else {
                    Request::StartProcess { handle, spec }
                }
            }
            Route::ProcessStatus => Request::ProcessStatus { handle: parameter(), process_id: parameter() },
            Route::ProcessResult => {
                let encoding = parts.encoding()?;
                Request::ProcessResult { handle: parameter(), process_id: parameter(), encoding }
            }
            Route::SignalProcess => {
                let signal = parts.json::<SignalRequest>().await?;
                let signal = Signal::from(*signal);
                Request::SignalProcess { handle: parameter(), process_id: parameter(), signal }
            }
            Route::ProcessStream => {
                parts.skip_body().await?;
                let stream = StreamOptions {
                    from_start: parts.one_of("from", [("last", false), ("start", true)])?,
                    windowed: parts.flag("windows")?,
                };
                let handshake = parts.handshake.take().ok_or_else(Handshake::missing)?;
                Request::ProcessStream { handle: parameter(), process_id: parameter(), stream, handshake }
            }
        })
    }
}

impl Parts {
    async fn json<T: DeserializeOwned>(&mut self) -> Result<Box<T>> {
        let limit = self.max_json_body_bytes;
        let mut document = BytesMut::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk.map_err(cut_short)?;
            if document.len() + chunk.len() > limit {
                return Err(Error::BadRequest {
                    reason: format!("the body is too large: a JSON document may have {limit} bytes"),
                });
            }
            document.extend_from_slice(&chunk);
        }
        json::decode(&document).map(Box::new)
    }

    /// Reads the body to its end, so that what follows it is the stream's.
    async fn skip_body(&mut self) -> Result<()> {
        let mut size_bytes = 0;
        while let Some(chunk) = self.body.next().await {
            size_bytes += chunk.map_err(cut_short)?.len();
            if size_bytes > self.max_json_body_bytes {
                return Err(Error::BadRequest { reason: "this request takes no body".to_owned() });
            }
        }
        Ok(())
    }

    /// The first value of each key.
    fn query(&self) -> Result<Properties> {
        let mut values = Properties::new();
        for (key, value) in query_pairs(&self.query)? {
            values.entry(key).or_insert(value);
        }
        Ok(values)
    }

    /// A value of the query that is one of a few words; the first of them if it is absent.
    fn one_of<const N: usize, T: Copy>(&self, key: &str, words: [(&str, T); N]) -> Result<T> {
        let Some(value) = self.query()?.remove(key) else { return Ok(words[0].1) };
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Error::BadRequest { reason: format!("{key}={value:?}: use one of {}", words.join(", ")) }
        })
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.one_of(key, [("false", false), ("true", true)])
    }

    fn encoding(&self) -> Result<Encoding> {
        self.one_of("encoding", [("text", Encoding::Text), ("base64", Encoding::Base64)])
    }

    fn files(&self, path_key: &str) -> Result<FilesQuery> {
        let mut values = self.query()?;
        let mut value = |key| values.remove(key).unwrap_or_default();
        Ok(FilesQuery { user: value("user"), path: value(path_key) })
    }

    fn handles(&self) -> Result<Vec<String>> {
        let Some(handles) = self.query()?.remove("handles") else {
            return Err(Error::BadRequest {
                reason: "the query has no `handles`: give it as ?handles=a,b (empty for none)".to_owned(),
            });
        };
        Ok(handles.split(',').filter(|handle| !handle.is_empty()).map(str::to_owned).collect())
    }
}

fn cut_short(error: io::Error) -> Error {
    Error::BadRequest { reason: format!("the request's body was cut short: {}", Error::failed(&error)) }
}
