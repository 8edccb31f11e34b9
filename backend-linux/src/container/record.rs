//! What is known of a container, as it stands on disk.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use protocol::{Limits, NetIn, NetOutRule, ProcessLimits, Properties};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::ProcessGroup,
    ids::OwnIds,
    network::{self, Attachment, Member, Wishes},
};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Some of it may exist.
    Creating,
    /// All of it exists.
    Active,
    /// All of it exists; its processes were ended.
    Stopped,
    /// Some of it may be gone.
    Destroying,
}

/// Everything that is needed to go on with a container after a restart, or to remove every trace of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub handle: String,
    /// Where it is in its life.
    pub state: State,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// How long it may live while nobody refers to it; zero: for ever.
    pub grace_time: Duration,
    /// Whether root inside is root outside.
    pub privileged: bool,
    /// The ids that it has to itself; none: it is privileged, or shares the mapping of others.
    #[serde(default)]
    pub ids: Option<OwnIds>,
    /// The directory that its root filesystem had from the start; none: an earlier server did not note it.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Variables of every process.
    pub env: Vec<String>,
    /// What clients noted about it.
    pub properties: Properties,
    /// What was asked for, and is in force.
    pub limits: Limits,
    /// Its place on the network.
    pub assignment: Attachment,
    /// Host ports that lead to it.
    pub ports: Vec<NetIn>,
    /// What it may reach besides.
    pub net_out: Vec<NetOutRule>,
    /// What happened to it.
    pub events: Vec<String>,
    /// How many of the kernel's kills for want of memory are among the events.
    pub oom_kills_seen: u64,
    /// Its processes that have something to themselves, by id: from before it is made until it is gone.
    #[serde(default)]
    pub apart: BTreeMap<String, Apart>,
}

impl Record {
    /// The images of its root filesystem and of those of its processes.
    pub fn images(&self) -> impl Iterator<Item = &PathBuf> {
        self.image.iter().chain(self.apart.values().filter_map(|apart| apart.image.as_ref()))
    }

    /// Its part of the firewall; none: plug-ins make its network.
    pub fn network_member(&self) -> Option<Member> {
        match &self.assignment {
            Attachment::Own(own) => Some(network::member(own, &self.handle, &self.ports, &self.net_out)),
            Attachment::Plugged(_) => None,
        }
    }

    /// What plug-ins are told of it.
    pub fn wishes(&self) -> Wishes {
        Wishes { ports: self.ports.clone(), bandwidth: self.limits.bandwidth, address: None }
    }

    /// The group of a process that has one of its own.
    pub fn process_group(&self, id: &str, apart: &Apart) -> ProcessGroup {
        ProcessGroup::new(&self.handle, id, apart.limits.is_some())
    }

    /// The groups of processes that are not inside the container's.
    pub fn groups_beside(&self) -> Vec<ProcessGroup> {
        let limited = self.apart.iter().filter(|(_, apart)| apart.limits.is_some());
        limited.map(|(id, apart)| self.process_group(id, apart)).collect()
    }
}

/// A process that has a group to itself, and perhaps a root filesystem.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Apart {
    /// When it was asked for.
    pub started_at: SystemTime,
    /// The directory that its own root filesystem had from the start; none: it has the container's.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// Its limits; none: it counts against the container's.
    pub limits: Option<ProcessLimits>,
    /// How many of the kernel's kills for want of memory in its group are among the container's events.
    pub oom_kills_seen: u64,
}
