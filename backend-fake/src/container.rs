//! One container, from its first moment to its last.
//!
//! ```text
//!   Creating --create succeeded--> Created --destroy--> Destroying --> Gone
//!       \------create failed-------------------------------------------^
//! ```
//! A destroy that meets a fault goes back to Created, and can be asked for again.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protocol::{
    ContainerInfo, CpuStat, DiskStat, Error, Limits, MemoryStat, Metrics, NetIn, NetOutRule, NetworkStat,
    PidStat, PortMapping, Properties, Result, Signal,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    addresses::Addresses,
    files::{Files, Tree},
    network::{Mapping, Pool},
    process::{Apart, FakeProcess},
    sync::lock,
};

/// What one running process counts as: there is nothing to measure.
const BYTES_PER_PROCESS: u64 = 1024 * 1024;

/// How long `stop` waits between SIGTERM and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Created,
    Destroying,
    Gone,
}

pub(crate) struct Container {
    pub handle: String,
    pub env: Vec<String>,
    pub limits: Limits,
    pub files: Arc<Files>,
    pub phase: watch::Sender<Phase>,
    created_at: Instant,
    /// Bytes and nodes of the root filesystem as it was at first.
    image_usage: (u64, u64),
    oom_kills: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    properties: Properties,
    grace_time: Duration,
    addresses: Option<Addresses>,
    mappings: Vec<Mapping>,
    net_out: Vec<NetOutRule>,
    events: Vec<String>,
    processes: BTreeMap<String, Arc<FakeProcess>>,
    stopped: bool,
    /// Destroyed: nothing can be added any more.
    closed: bool,
    scripted_metrics: Option<Metrics>,
}

impl Container {
    pub fn new(
        handle: String,
        spec: &protocol::ContainerSpec,
        files: Tree,
        oom_kills: Arc<AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Container {
            handle,
            env: spec.env.clone(),
            limits: spec.limits,
            image_usage: files.usage(),
            files: Arc::new(Mutex::new(files)),
            phase: watch::Sender::new(Phase::Creating),
            created_at: Instant::now(),
            oom_kills,
            state: Mutex::new(State {
                properties: spec.properties.clone(),
                grace_time: spec.grace_time,
                net_out: spec.net_out.clone(),
                ..State::default()
            }),
        })
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    pub fn set_addresses(&self, addresses: Addresses) {
        lock(&self.state).addresses = Some(addresses);
    }

    pub fn properties(&self) -> Properties {
        lock(&self.state).properties.clone()
    }

    pub fn set_property(&self, key: &str, value: &str) {
        lock(&self.state).properties.insert(key.into(), value.into());
    }

    pub fn remove_property(&self, key: &str) -> Option<String> {
        lock(&self.state).properties.remove(key)
    }

    pub fn has_properties(&self, wanted: &Properties) -> bool {
        let state = lock(&self.state);
        wanted.iter().all(|(key, value)| state.properties.get(key) == Some(value))
    }

    pub fn grace_time(&self) -> Duration {
        lock(&self.state).grace_time
    }

    pub fn set_grace_time(&self, grace_time: Duration) {
        lock(&self.state).grace_time = grace_time;
    }

    pub fn set_metrics(&self, metrics: Metrics) {
        lock(&self.state).scripted_metrics = Some(metrics);
    }

    pub fn add_event(&self, event: &str) {
        lock(&self.state).events.push(event.into());
    }

    pub fn note_out_of_memory(&self) {
        self.oom_kills.fetch_add(1, Ordering::Relaxed);
        self.add_event("Out of memory");
    }

    /// Maps a port.
    pub fn net_in(&self, ports: &Arc<Pool>, wanted: NetIn) -> Result<NetIn> {
        let mut state = lock(&self.state);
        self.check_open(&state)?;
        let mapping = Mapping::new(ports, wanted)?;
        let mapped = NetIn { host_port: mapping.host_port(), container_port: mapping.container_port };
        state.mappings.push(mapping);
        Ok(mapped)
    }

    pub fn net_out(&self, rules: Vec<NetOutRule>) -> Result<()> {
        let mut state = lock(&self.state);
        NetOutRule::check_all(&state.net_out, &rules)?;
        state.net_out.extend(rules);
        Ok(())
    }

    pub fn replace_net_out(&self, rules: Vec<NetOutRule>) -> Result<()> {
        NetOutRule::check_all(&[], &rules)?;
        lock(&self.state).net_out = rules;
        Ok(())
    }

    pub fn net_out_rules(&self) -> Vec<NetOutRule> {
        lock(&self.state).net_out.clone()
    }

    pub fn process(&self, id: &str) -> Result<Arc<FakeProcess>> {
        lock(&self.state).processes.get(id).cloned().ok_or_else(|| Error::process_not_found(id))
    }

    /// Takes the process's id, for as long as the container lives.
    pub fn add_process(&self, process: Arc<FakeProcess>) -> Result<()> {
        let mut state = lock(&self.state);
        self.check_open(&state)?;
        if state.processes.contains_key(&process.id) {
            return Err(Error::Failed { message: format!("process {} already exists", process.id) });
        }
        state.processes.insert(process.id.clone(), process);
        Ok(())
    }

    fn check_open(&self, state: &State) -> Result<()> {
        if state.closed { Err(Error::container_not_found(&self.handle)) } else { Ok(()) }
    }

    /// Ends every process, and waits for it.
    pub async fn stop(&self, kill: bool) {
        let processes = self.running();
        let ended = async {
            for process in &processes {
                // How it ended is for those who wait for it.
                let _ = process.wait().await;
            }
        };
        if !kill {
            processes.iter().for_each(|process| process.send(Signal::Terminate));
        }
        if kill || tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            self.kill_all().await;
        }
        lock(&self.state).stopped = true;
    }

    /// Lets nothing in any more and ends what is there.
    pub async fn close(&self) {
        lock(&self.state).closed = true;
        self.kill_all().await;
        let mut state = lock(&self.state);
        state.mappings.clear();
        state.addresses = None;
    }

    async fn kill_all(&self) {
        let processes = self.running();
        processes.iter().for_each(|process| process.send(Signal::Kill));
        for process in processes {
            let _ = process.wait().await;
        }
    }

    fn running(&self) -> Vec<Arc<FakeProcess>> {
        lock(&self.state).processes.values().filter(|process| process.is_running()).cloned().collect()
    }

    pub fn info(&self, external_ip: &str) -> ContainerInfo {
        let state = lock(&self.state);
        let text = |address: fn(&Addresses) -> Ipv4Addr| {
            state.addresses.as_ref().map(|addresses| address(addresses).to_string()).unwrap_or_default()
        };
        let running = state.processes.values().filter(|process| process.is_running());
        let ports = state.mappings.iter().map(|mapping| PortMapping {
            host_port: mapping.host_port(),
            container_port: mapping.container_port,
        });
        ContainerInfo {
            state: if state.stopped { "stopped" } else { "active" }.into(),
            events: none_if_empty(state.events.clone()),
            host_ip: text(|addresses| addresses.host),
            container_ip: text(|addresses| addresses.container),
            container_ipv6: String::new(),
            external_ip: external_ip.into(),
            container_path: String::new(),
            process_ids: none_if_empty(running.map(|process| process.id.clone()).collect()),
            properties: Some(state.properties.clone()),
            mapped_ports: none_if_empty(ports.collect()),
        }
    }

    pub fn metrics(&self) -> Metrics {
        let state = lock(&self.state);
        if let Some(metrics) = &state.scripted_metrics {
            return metrics.clone();
        }
        // Those with limits of their own are not in its groups.
        let counted = |process: &&Arc<FakeProcess>| process.is_running() && process.own_limits().is_none();
        let running = state.processes.values().filter(counted).count() as u64;
        let (bytes, nodes) = lock(&self.files).usage();
        let age = self.created_at.elapsed();
        // One more than asked for: its init.
        let pids = running + 1;
        Metrics {
            memory: memory(pids, self.limits.memory.limit_in_bytes),
            cpu: CpuStat::default(),
            disk: DiskStat {
                total_bytes_used: bytes,
                total_inodes_used: nodes,
                exclusive_bytes_used: bytes.saturating_sub(self.image_usage.0),
                exclusive_inodes_used: nodes.saturating_sub(self.image_usage.1),
            },
            network: Some(NetworkStat::default()),
            pid: PidStat { current: pids, max: self.limits.pid.max },
            age,
            cpu_entitlement_ns: age.as_nanos().try_into().unwrap_or(u64::MAX),
        }
    }
}

/// What a process that is counted by itself uses.
pub(crate) fn metrics_of_process(container: &Container, apart: &Apart) -> Metrics {
    let limit = apart.limits.map_or(container.limits.memory, |limits| limits.memory);
    let age = apart.started_at.elapsed();
    Metrics {
        memory: memory(1, limit.limit_in_bytes),
        pid: PidStat { current: 1, max: 0 },
        age,
        cpu_entitlement_ns: age.as_nanos().try_into().unwrap_or(u64::MAX),
        ..Metrics::default()
    }
}

fn memory(processes: u64, limit_bytes: u64) -> MemoryStat {
    let bytes = processes * BYTES_PER_PROCESS;
    MemoryStat {
        hierarchical_memory_limit: limit_bytes,
        total_rss: bytes,
        rss: bytes,
        anon: bytes,
        total_usage_toward_limit: bytes,
        ..MemoryStat::default()
    }
}

/// An empty list is null on the wire, as the reference has it.
fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    if list.is_empty() { None } else { Some(list) }
}
