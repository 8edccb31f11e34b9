//! A backend that notes how it is called, and answers with the reference's samples.

use std::{
    fmt::Display,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use protocol::*;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Notify;

/// What a process of this backend writes.
pub const STDOUT: &str = "of stdout";
pub const STDERR: &str = "of stderr";
/// What it ends with, when its input ends.
pub const EXIT_STATUS: i32 = 255;

/// A sample, without its newline.
pub fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/wire/golden");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json")));
    text.unwrap_or_else(|error| panic!("{name}: {error}")).trim_end().to_owned()
}

fn sample<T: DeserializeOwned>(name: &str) -> Result<T> {
    json::decode(golden(name).as_bytes())
}

/// A value as its JSON: with every field, passwords too.
fn text<T: Serialize + ?Sized>(value: &T) -> String {
    String::from_utf8(json::encode(value).unwrap()).unwrap().trim_end().to_owned()
}

#[derive(Default)]
pub struct Recorder {
    calls: Mutex<Vec<String>>,
    ended: Notify,
}

/// What the backend and its processes share.
#[derive(Clone, Default)]
pub struct RecordingBackend(pub Arc<Recorder>);

impl RecordingBackend {
    /// The calls since this was asked last.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.calls.lock().unwrap())
    }

    fn note(&self, call: impl Display) {
        self.0.calls.lock().unwrap().push(call.to_string());
    }

    fn process(&self, id: &str) -> Process {
        let output = |text: &'static str| {
            Output::new(move || {
                Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(text.as_bytes()))]))
            })
        };
        let recorder = self.0.clone();
        Process {
            id: id.to_owned(),
            stdout: output(STDOUT),
            stderr: output(STDERR),
            control: Arc::new(self.clone()),
            exit: Box::pin(async move {
                recorder.ended.notified().await;
                Ok(EXIT_STATUS)
            }),
        }
    }
}

#[async_trait]
impl ProcessControl for RecordingBackend {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        self.note(format!("write_stdin {:?}", String::from_utf8_lossy(&data)));
        Ok(())
    }

    async fn close_stdin(&self) -> Result<()> {
        self.note("close_stdin");
        self.0.ended.notify_one();
        Ok(())
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.note(format!("signal {signal:?}"));
        Ok(())
    }

    async fn set_tty(&self, tty: TtySpec) -> Result<()> {
        self.note(format!("set_tty {}", text(&tty)));
        Ok(())
    }
}

#[async_trait]
impl Backend for RecordingBackend {
    async fn ping(&self) -> Result<()> {
        self.note("ping");
        Ok(())
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.note("capacity");
        sample("res-capacity-Capacity.full")
    }

    async fn create(&self, spec: ContainerSpec) -> Result<String> {
        self.note(format!("create {}", text(&spec)));
        Ok(sample::<CreateResponse>("res-create")?.handle)
    }

    async fn destroy(&self, handle: &str) -> Result<()> {
        self.note(format!("destroy {handle}"));
        Ok(())
    }

    async fn list(&self, filter: &Properties) -> Result<Arc<[String]>> {
        self.note(format!("list {}", text(filter)));
        Ok(sample::<ListResponse>("res-list")?.handles.into())
    }

    async fn info(&self, handle: &str) -> Result<Arc<Document<ContainerInfo>>> {
        self.note(format!("info {handle}"));
        sample("res-info-ContainerInfo.full").map(Document::new)
    }

    async fn bulk_info(&self, handles: &[String]) -> Result<BulkInfo> {
        self.note(format!("bulk_info {handles:?}"));
        sample("res-bulkinfo.mixed")
    }

    async fn metrics(&self, handle: &str) -> Result<Metrics> {
        self.note(format!("metrics {handle}"));
        sample("res-metrics-Metrics.full")
    }

    async fn bulk_metrics(&self, handles: &[String]) -> Result<BulkMetrics> {
        self.note(format!("bulk_metrics {handles:?}"));
        sample("res-bulkmetrics.mixed")
    }

    async fn stop(&self, handle: &str, kill: bool) -> Result<()> {
        self.note(format!("stop {handle} {kill}"));
        Ok(())
    }

    async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<()> {
        self.note(format!("set_grace_time {handle} {} ns", grace_time.as_nanos()));
        Ok(())
    }

    async fn grace_time(&self, _: &str) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    async fn stream_in(&self, handle: &str, query: FilesQuery, mut tar: ByteStream) -> Result<()> {
        let mut bytes = Vec::new();
        while let Some(piece) = tar.next().await {
            bytes.extend(piece.unwrap());
        }
        let FilesQuery { user, path } = query;
        self.note(format!("stream_in {handle} {user} {path} {}", String::from_utf8_lossy(&bytes)));
        Ok(())
    }

    async fn stream_out(&self, handle: &str, query: FilesQuery) -> Result<ByteStream> {
        let FilesQuery { user, path } = query;
        self.note(format!("stream_out {handle} {user} {path}"));
        Ok(Box::pin(futures_util::stream::iter(["one ", "two"].map(|piece| Ok(Bytes::from(piece))))))
    }

    async fn bandwidth_limits(&self, handle: &str) -> Result<BandwidthLimits> {
        self.note(format!("bandwidth_limits {handle}"));
        sample("res-limits-bandwidth.full")
    }

    async fn cpu_limits(&self, handle: &str) -> Result<CpuLimits> {
        self.note(format!("cpu_limits {handle}"));
        sample("res-limits-cpu.full")
    }

    async fn disk_limits(&self, handle: &str) -> Result<DiskLimits> {
        self.note(format!("disk_limits {handle}"));
        sample("res-limits-disk.full")
    }

    async fn memory_limits(&self, handle: &str) -> Result<MemoryLimits> {
        self.note(format!("memory_limits {handle}"));
        sample("res-limits-memory.full")
    }

    async fn net_in(&self, handle: &str, ports: NetIn) -> Result<NetIn> {
        self.note(format!("net_in {handle} {}", text(&ports)));
        // Others than were asked for.
        Ok(NetIn { host_port: 61_001, container_port: 8_080 })
    }

    async fn net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        self.note(format!("net_out {handle} {}", text(&rules)));
        Ok(())
    }

    async fn replace_net_out(&self, handle: &str, rules: Vec<NetOutRule>) -> Result<()> {
        self.note(format!("replace_net_out {handle} {}", text(&rules)));
        Ok(())
    }

    async fn run(&self, handle: &str, spec: ProcessSpec) -> Result<Process> {
        self.note(format!("run {handle} {}", text(&spec)));
        Ok(self.process("some-pid"))
    }

    async fn attach(&self, handle: &str, process_id: &str) -> Result<Process> {
        self.note(format!("attach {handle} {process_id}"));
        Ok(self.process(process_id))
    }

    async fn properties(&self, handle: &str) -> Result<Properties> {
        self.note(format!("properties {handle}"));
        sample("res-properties.full")
    }

    async fn property(&self, handle: &str, key: &str) -> Result<String> {
        self.note(format!("property {handle} {key}"));
        Ok(sample::<PropertyValue>("res-property")?.value)
    }

    async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<()> {
        self.note(format!("set_property {handle} {key} {value}"));
        Ok(())
    }

    async fn remove_property(&self, handle: &str, key: &str) -> Result<()> {
        self.note(format!("remove_property {handle} {key}"));
        Ok(())
    }

    fn telemetry(&self) -> Vec<Sample> {
        Vec::new()
    }
}
