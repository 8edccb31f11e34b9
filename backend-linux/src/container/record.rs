//! What is known of a container, as it stands on disk.

use std::time::{Duration, SystemTime};

use protocol::{Limits, NetIn, NetOutRule, Properties};
use serde::{Deserialize, Serialize};

use crate::{ids::OwnIds, network::Assignment};

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
    /// Variables of every process.
    pub env: Vec<String>,
    /// What clients noted about it.
    pub properties: Properties,
    /// What was asked for, and is in force.
    pub limits: Limits,
    /// Its place on the network.
    pub assignment: Assignment,
    /// Host ports that lead to it.
    pub ports: Vec<NetIn>,
    /// What it may reach besides.
    pub net_out: Vec<NetOutRule>,
    /// What happened to it.
    pub events: Vec<String>,
    /// How many of the kernel's kills for want of memory are among the events.
    pub oom_kills_seen: u64,
}
