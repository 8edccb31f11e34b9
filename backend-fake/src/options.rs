//! What can be chosen about a fake.

use std::net::Ipv4Addr;

use crate::{Programs, User};

/// Settings of a [`FakeBackend`](crate::FakeBackend).
#[derive(Clone)]
pub struct FakeOptions {
    /// Containers at most; the address pool can make it fewer.
    pub max_containers: u64,
    /// Memory that `capacity` reports.
    pub memory_bytes: u64,
    /// Disk that `capacity` reports.
    pub disk_bytes: u64,
    /// First address of the pool that containers' /30 subnets come from.
    pub network_pool: Ipv4Addr,
    /// How many /30 subnets the pool has.
    pub network_pool_subnets: u32,
    /// The host's address that `info` reports.
    pub external_ip: String,
    /// First host port that may be given out.
    pub port_pool_start: u16,
    /// How many host ports may be given out.
    pub port_pool_size: u16,
    /// What each output stream of a process holds.
    pub ring_bytes: usize,
    /// Root filesystems on the host's disk that are to exist (`/dir`, `raw:///dir`, `oci:///dir`, …). The server's
    /// default and what a registry would have (`docker://…`) always exist.
    pub images: Vec<String>,
    /// The containers' users besides root.
    pub users: Vec<User>,
    /// What containers can run.
    pub programs: Programs,
}

impl Default for FakeOptions {
    fn default() -> Self {
        FakeOptions {
            max_containers: 250,
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 40,
            network_pool: Ipv4Addr::new(10, 254, 0, 0),
            network_pool_subnets: 256,
            external_ip: String::new(),
            port_pool_start: 61001,
            port_pool_size: 4534,
            ring_bytes: 16 << 20,
            images: Vec::new(),
            users: vec![User::new("vcap", 1000), User::new("alice", 1001)],
            programs: Programs::default(),
        }
    }
}
