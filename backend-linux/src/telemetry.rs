//! Usage of containers, and what the backend counts about itself.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::SystemTime,
};

use futures_util::future::try_join_all;
use protocol::{BulkMetrics, Capacity, CpuLimits, DiskStat, Metrics, Sample, SampleKind};

use crate::{
    backend::wire,
    container::{Container, Error, Host, RootUsage, State, blocking},
    entitlement::entitlement_ns,
    network::Traffic,
    slots::{Slot, Slots},
};

/// How many containers' metrics are read by one task: enough that the task itself costs little of it, few enough that
/// all processors share the work for many.
const METRICS_OF_ONE_TASK: usize = 64;

/// What has metrics.
pub enum Metered {
    /// A container.
    Container(Arc<Container>),
    /// A process of that container, which is counted by itself; its id is what was asked for.
    ProcessOf(Arc<Container>),
}

/// The containers of all processes that are counted by themselves, by the process's id. Of containers that have one of
/// the same id, the first by handle.
pub fn processes_apart(slots: &Slots) -> HashMap<String, Arc<Container>> {
    let mut containers = slots.containers();
    containers.sort_by(|a, b| a.handle.cmp(&b.handle));
    let mut processes = HashMap::new();
    for container in containers {
        for id in container.record().apart.keys() {
            processes.entry(id.clone()).or_insert_with(|| Arc::clone(&container));
        }
    }
    processes
}

/// What one container uses.
pub async fn metrics(host: &Arc<Host>, container: Arc<Container>) -> Result<Metrics, Error> {
    let host = Arc::clone(host);
    blocking(move || metrics_beside(&host, &container, traffic(&host)?.as_ref())).await?
}

/// What many use, by handle or process id; what was not found has an error in its place already.
pub async fn bulk_metrics(
    host: &Arc<Host>,
    found: Vec<(String, protocol::Result<Metered>)>,
) -> Result<BulkMetrics, Error> {
    let asked = Arc::clone(host);
    let all_traffic = blocking(move || traffic(&asked)).await??.map(Arc::new);
    let mut found = found.into_iter().peekable();
    let mut tasks = Vec::new();
    while found.peek().is_some() {
        let part: Vec<_> = found.by_ref().take(METRICS_OF_ONE_TASK).collect();
        let (host, traffic) = (Arc::clone(host), all_traffic.clone());
        tasks.push(blocking(move || {
            let metrics = |name: &str, metered: Metered| match metered {
                Metered::Container(container) => {
                    metrics_beside(&host, &container, traffic.as_deref()).map_err(wire)
                }
                Metered::ProcessOf(container) => metrics_of_process(&host, &container, name),
            };
            let each = part.into_iter();
            let measured = each.map(|(name, found)| {
                let measured = found.and_then(|metered| metrics(&name, metered));
                (name, measured)
            });
            measured.collect::<Vec<_>>()
        }));
    }
    Ok(try_join_all(tasks).await?.into_iter().flatten().collect())
}

/// What all links have carried; none where nobody wants to know.
fn traffic(host: &Host) -> Result<Option<Traffic>, Error> {
    Ok(host.config.network.container_metrics.then(Traffic::read).transpose()?)
}

/// What one container uses, with its part of the traffic. Blocks for a few small files.
fn metrics_beside(host: &Host, container: &Container, traffic: Option<&Traffic>) -> Result<Metrics, Error> {
    let network = traffic.and_then(|traffic| traffic.of(&container.record().assignment));
    let (memory, cpu, pid) = host.cgroups.metrics(&container.handle)?;
    let disk = disk_stat(container.disk.lock().unwrap_or_else(PoisonError::into_inner).own);
    let record = container.record();
    let age = SystemTime::now().duration_since(record.created_at).unwrap_or_default();
    let shares = shares(record.limits.cpu);
    let cpu_entitlement_ns = entitlement_ns(shares, host.cpu_entitlement_per_share_percent, age);
    Ok(Metrics { memory, cpu, disk, network, pid, age, cpu_entitlement_ns })
}

fn disk_stat(RootUsage { written, image }: RootUsage) -> DiskStat {
    DiskStat {
        total_bytes_used: image.bytes + written.bytes,
        total_inodes_used: image.inodes + written.inodes,
        exclusive_bytes_used: written.bytes,
        exclusive_inodes_used: written.inodes,
    }
}

/// What one process uses that is counted by itself: no network, which it shares; disk, if its root filesystem is its own.
fn metrics_of_process(host: &Host, container: &Container, id: &str) -> protocol::Result<Metrics> {
    let record = container.record();
    let ended = || protocol::Error::container_not_found(id);
    let apart = record.apart.get(id).ok_or_else(ended)?;
    let (memory, cpu, pid) = match host.cgroups.metrics_of_process(&record.process_group(id, apart)) {
        Err(_) if !container.record().apart.contains_key(id) => return Err(ended()),
        measured => measured.map_err(|error| wire(error.into()))?,
    };
    let written = &container.disk.lock().unwrap_or_else(PoisonError::into_inner).of_processes;
    let disk = disk_stat(written.get(id).copied().unwrap_or_default());
    let age = SystemTime::now().duration_since(apart.started_at).unwrap_or_default();
    let cpu_limits = apart.limits.map_or(record.limits.cpu, |limits| limits.cpu);
    let cpu_entitlement_ns = entitlement_ns(shares(cpu_limits), host.cpu_entitlement_per_share_percent, age);
    Ok(Metrics { memory, cpu, disk, pid, age, cpu_entitlement_ns, ..Metrics::default() })
}

/// The newer name wins.
fn shares(limits: CpuLimits) -> u64 {
    if limits.weight > 0 { limits.weight } else { limits.limit_in_shares }
}

/// The memory of this host; 0 where it does not say.
pub fn memory_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = total.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// What this host has to offer.
pub fn capacity(host: &Host, max_containers: u64) -> Result<Capacity, Error> {
    let disk = host.store.capacity()?;
    Ok(Capacity {
        memory_in_bytes: memory_bytes(),
        disk_in_bytes: disk.total_bytes,
        schedulable_disk_in_bytes: disk.available_bytes,
        max_containers,
    })
}

fn sample(
    name: &'static str,
    help: &'static str,
    kind: SampleKind,
    labels: Vec<(&'static str, String)>,
    value: f64,
) -> Sample {
    Sample { name, help, kind, labels, value }
}

/// What Prometheus gets.
pub fn samples(host: &Host, slots: &Slots) -> Vec<Sample> {
    let (mut creating, mut active, mut stopped, mut destroying, mut dropped) = (0, 0, 0, 0, 0);
    for slot in slots.lock().values() {
        match slot {
            Slot::Creating(_) => creating += 1,
            Slot::Ready(container) => {
                dropped += container.processes.dropped_bytes();
                match container.record().state {
                    _ if container.destroying.load(Ordering::Relaxed) => destroying += 1,
                    State::Stopped => stopped += 1,
                    State::Creating | State::Active | State::Destroying => active += 1,
                }
            }
        }
    }
    let gauge = SampleKind::Gauge;
    let mut samples: Vec<Sample> =
        [("creating", creating), ("active", active), ("stopped", stopped), ("destroying", destroying)]
            .into_iter()
            .map(|(state, count)| {
                let labels = vec![("state", state.to_owned())];
                sample("garden_containers", "Containers by state.", gauge, labels, f64::from(count))
            })
            .collect();
    let usage = host.network.usage();
    let pools = [
        ("subnets", usage.subnets_in_use as f64, f64::from(usage.subnets)),
        ("ports", usage.ports_in_use as f64, f64::from(usage.ports)),
    ];
    for (pool, in_use, size) in pools {
        let labels = || vec![("pool", pool.to_owned())];
        samples.push(sample("garden_pool_in_use", "What is taken of a pool.", gauge, labels(), in_use));
        samples.push(sample("garden_pool_size", "What a pool has.", gauge, labels(), size));
    }
    let held = host.output_budget.held_bytes() as f64;
    let help = "Bytes of output that are held for readers.";
    samples.push(sample("garden_output_buffer_bytes", help, gauge, Vec::new(), held));
    let counter = SampleKind::Counter;
    let oom = host.oom_kills.load(Ordering::Relaxed) as f64;
    let help = "Processes that the kernel killed because their container was out of memory.";
    samples.push(sample("garden_oom_kills_total", help, counter, Vec::new(), oom));
    let dropped = (dropped + host.dropped_bytes.load(Ordering::Relaxed)) as f64;
    let help = "Bytes of output that were dropped because nobody read them in time.";
    samples.push(sample("garden_dropped_output_bytes_total", help, counter, Vec::new(), dropped));
    samples
}
