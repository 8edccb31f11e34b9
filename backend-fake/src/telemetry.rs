//! What the fake counts about itself, by the names that the Linux backend uses.

use std::sync::Arc;

use protocol::{Sample, SampleKind};

use crate::{
    container::{Container, Phase},
    network::Pool,
};

/// Everything that the samples are made from.
pub(crate) struct Counts<'a> {
    pub containers: Vec<Arc<Container>>,
    pub subnets: &'a Pool,
    pub ports: &'a Pool,
    pub oom_kills: u64,
    pub dropped_bytes: u64,
}

pub(crate) fn samples(counts: &Counts<'_>) -> Vec<Sample> {
    let mut samples = Vec::new();
    for state in ["creating", "active", "stopped", "destroying"] {
        let count = counts.containers.iter().filter(|container| state_of(container) == Some(state)).count();
        let labels = vec![("state", state.to_owned())];
        samples.push(gauge("garden_containers", "Containers by state.", labels, count as f64));
    }
    for (name, pool) in [("subnets", counts.subnets), ("ports", counts.ports)] {
        let labels = vec![("pool", name.to_owned())];
        let (in_use, size) = (pool.in_use() as f64, pool.size().into());
        samples.push(gauge("garden_pool_in_use", "Entries of a pool given out.", labels.clone(), in_use));
        samples.push(gauge("garden_pool_size", "Entries of a pool.", labels, size));
    }
    let (name, help) = ("garden_oom_kills_total", "Processes that the kernel killed for want of memory.");
    samples.push(counter(name, help, counts.oom_kills));
    let (name, help) = ("garden_dropped_output_bytes_total", "Bytes of output that nobody read in time.");
    samples.push(counter(name, help, counts.dropped_bytes));
    samples
}

fn state_of(container: &Container) -> Option<&'static str> {
    match container.phase() {
        Phase::Creating => Some("creating"),
        Phase::Created if container.is_stopped() => Some("stopped"),
        Phase::Created => Some("active"),
        Phase::Destroying => Some("destroying"),
        Phase::Gone => None,
    }
}

fn gauge(name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: f64) -> Sample {
    Sample { name, help, kind: SampleKind::Gauge, labels, value }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Sample {
    Sample { name, help, kind: SampleKind::Counter, labels: Vec::new(), value: value as f64 }
}
