//! What a server tells about a container and about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ErrorBody, Properties, Result, backend::collect_entries, container::is_default};

/// The answer to `GET /containers/:handle/info`. `None` is null on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerInfo {
    /// `active`, or `stopped` after a stop.
    pub state: String,
    /// What happened to it, such as `Out of memory`.
    pub events: Option<Vec<String>>,
    /// The host's end of the container's network.
    #[serde(rename = "HostIP")]
    pub host_ip: String,
    /// The container's address.
    #[serde(rename = "ContainerIP")]
    pub container_ip: String,
    /// The container's IPv6 address, where it has one.
    #[serde(rename = "ContainerIPv6")]
    pub container_ipv6: String,
    /// The host's address as others see it.
    #[serde(rename = "ExternalIP")]
    pub external_ip: String,
    /// Where the server keeps what it knows about the container.
    pub container_path: String,
    /// Ids of the processes that are running.
    #[serde(rename = "ProcessIDs")]
    pub process_ids: Option<Vec<String>>,
    /// Its properties.
    pub properties: Option<Properties>,
    /// Its mapped ports.
    pub mapped_ports: Option<Vec<PortMapping>>,
}

/// A port of the host that leads to one of the container's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortMapping {
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
}

/// One entry of a bulk answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct InfoEntry {
    /// The container, all zero if there was an error.
    pub info: ContainerInfo,
    /// Why there is no info.
    pub err: Option<ErrorBody>,
}

impl From<Result<ContainerInfo>> for InfoEntry {
    fn from(result: Result<ContainerInfo>) -> Self {
        match result {
            Ok(info) => InfoEntry { info, err: None },
            Err(error) => InfoEntry { info: ContainerInfo::default(), err: Some(error.to_body()) },
        }
    }
}

/// The answer to `GET /containers/bulk_info`, by handle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BulkInfo(pub BTreeMap<String, InfoEntry>);

impl FromIterator<(String, Result<ContainerInfo>)> for BulkInfo {
    fn from_iter<I: IntoIterator<Item = (String, Result<ContainerInfo>)>>(entries: I) -> Self {
        BulkInfo(collect_entries(entries))
    }
}

/// The answer to `GET /capacity`: what this host has to offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Memory in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_in_bytes: u64,
    /// Disk of the image store in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub disk_in_bytes: u64,
    /// Disk that containers can be promised, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub schedulable_disk_in_bytes: u64,
    /// Containers at most.
    #[serde(skip_serializing_if = "is_default")]
    pub max_containers: u64,
}
