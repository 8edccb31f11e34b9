//! What clients are told of a container.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use protocol::{ContainerInfo, Document, PortMapping};

use super::{Container, Host, Record, State};

/// What was told last.
#[derive(Default)]
pub struct LastInfo(Mutex<Option<Told>>);

struct Told {
    /// The record that it was gathered from: records are replaced, never changed.
    record: Arc<Record>,
    info: Arc<Document<ContainerInfo>>,
}

impl Container {
    /// State, addresses, events, processes, properties and ports: the document that was told last, if it still holds.
    pub fn info(&self, host: &Host) -> Arc<Document<ContainerInfo>> {
        let record = self.record();
        let running = self.processes.running();
        let mut last = self.last_info.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(Told { record: of, info })
                if Arc::ptr_eq(of, &record) && info.process_ids.as_ref() == Some(&running) =>
            {
                Arc::clone(info)
            }
            _ => {
                let info = Document::new(gather(host, &record, running));
                *last = Some(Told { record, info: Arc::clone(&info) });
                info
            }
        }
    }
}

fn gather(host: &Host, record: &Record, running: Vec<String>) -> ContainerInfo {
    let ports = record.ports.iter();
    let mapped = ports.map(|p| PortMapping { host_port: p.host_port, container_port: p.container_port });
    let addresses = record.assignment.addresses();
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    ContainerInfo {
        state: if record.state == State::Stopped { "stopped" } else { "active" }.to_owned(),
        events: Some(record.events.clone()),
        host_ip: text(record.assignment.host_ip()),
        container_ip: text(address.copied()),
        container_ipv6: text(addresses.iter().copied().find(IpAddr::is_ipv6)),
        external_ip: host.network.external_ip().to_string(),
        container_path: host.depot.directory(&record.handle).to_string_lossy().into_owned(),
        process_ids: Some(running),
        properties: Some(record.properties.clone()),
        mapped_ports: Some(mapped.collect()),
    }
}
