//! Control groups: one small interface over version 1, version 2 and hosts that mix them.
//!
//! Each controller lives where the kernel has it: in a v1 hierarchy of its own (or shared), or in the unified
//! hierarchy of v2. In each hierarchy that is used, below its root or what was delegated to the server (`places`), the
//! server owns one group, `garden` or `garden-<tag>` (the *base*), and in it one group for each container. Groups of
//! others are never touched.
//!
//! On v2 processes live in leaf groups (`init`, `main`) below the container's group, where they are born
//! (`CLONE_INTO_CGROUP`) and stay: the limits are the container group's. On v1 there are no leaves: a process writes
//! itself into the `tasks` file of each hierarchy, which is far cheaper than being moved by another.
//! In v1 hierarchies that no limit needs all containers are in the base itself, from their supervisor on, which costs no
//! run anything. What they read there is the sum of all, and no other's processes.

mod detect;
mod device_program;
mod devices;
mod error;
mod extra;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod group;
mod hierarchies;
mod io;
mod leaf;
mod members;
mod places;
mod settings;
mod stat;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::name;
use serde::{Deserialize, Serialize};

use devices::DeviceList;
pub use devices::{DeviceRule, DeviceRuleError, Devices};
pub use error::Error;
pub use extra::ProcessGroup;
pub use io::IoLimits;
pub use settings::LimitPolicy;

/// What a call of this module gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The part of a container that a process belongs to; a group of its own on v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaf {
    /// The supervisor and what it needs for itself.
    Init,
    /// What clients run.
    Main,
}

impl Leaf {
    /// Every leaf, in the order in which they are made.
    pub const ALL: [Leaf; 2] = [Leaf::Init, Leaf::Main];

    fn directory(self) -> &'static str {
        match self {
            Leaf::Init => "init",
            Leaf::Main => "main",
        }
    }
}

/// How a new process gets into a container's groups. Plain paths, so that the supervisor can be told of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupEntry {
    /// Files that the process itself writes `0` to before it execs, one for each v1 hierarchy.
    pub v1_tasks: Vec<PathBuf>,
    /// The v2 group to clone into.
    pub v2_dir: Option<PathBuf>,
}

/// A v1 hierarchy as a container sees it. Plain paths, so that the supervisor can be told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupView {
    /// What the directory where it is mounted is called on the host.
    pub name: String,
    /// Its controllers.
    pub controllers: Vec<String>,
    /// The group that the container is in.
    pub group: PathBuf,
}

/// One v1 hierarchy and our base group in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct V1 {
    /// What the directory where it is mounted is called.
    name: String,
    controllers: Vec<String>,
    base: PathBuf,
}

/// The unified hierarchy, our base group in it, and the controllers that containers get from it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct V2 {
    controllers: Vec<String>,
    base: PathBuf,
}

/// This server's groups on this host.
#[derive(Debug)]
pub struct Cgroups {
    v1: Vec<V1>,
    /// Those whose controllers containers do not use: there all containers are in the base group itself.
    shared: Vec<V1>,
    v2: Option<V2>,
    devices: DeviceList,
    policy: LimitPolicy,
    /// What of the policy is the same for all containers.
    io: Vec<settings::Setting>,
    /// The base groups that were not there before.
    made: Vec<PathBuf>,
    missing: Vec<&'static str>,
}

/// A controller's group of one container, and whose files it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Cgroups {
    /// Controllers that this host does not offer, and so the limits and metrics that containers will not have; for
    /// the server to say at start.
    pub fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// The same, with limits meant in that way; write layers are on the disk that `store` is on. What was made is removed
    /// where a limit cannot be had.
    pub fn with_policy(mut self, policy: LimitPolicy, store: &Path) -> Result<Cgroups> {
        if policy.io.any() {
            let is_io = |v1: &mut V1| v1.controllers.iter().any(|controller| controller == "blkio");
            self.v1.extend(self.shared.extract_if(.., is_io));
        }
        match policy.io.settings(&self, store) {
            Ok(io) => Ok(Cgroups { policy, io, ..self }),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// Leaves the group that was delegated to this server as it was found, where nothing of ours is in it any more.
    fn give_back(&self) {
        if let Some(parent) = self.v2.as_ref().and_then(|v2| v2.base.parent()) {
            leaf::give_back(parent);
        }
    }

    /// How processes get into the groups of the container `name`. Touches nothing.
    pub fn entry(&self, name: &str, leaf: Leaf) -> CgroupEntry {
        let directory = name::directory(name);
        CgroupEntry {
            v1_tasks: self.v1.iter().map(|v1| v1.base.join(&directory).join("tasks")).collect(),
            v2_dir: self.v2.as_ref().map(|v2| v2.base.join(&directory).join(leaf.directory())),
        }
    }

    /// What the container `name` is shown of v1's hierarchies. Touches nothing.
    pub fn views(&self, name: &str) -> Vec<CgroupView> {
        let directory = name::directory(name);
        let view = |v1: &V1| CgroupView {
            name: v1.name.clone(),
            controllers: v1.controllers.clone(),
            group: v1.base.join(&directory),
        };
        let shared = |v1: &V1| CgroupView { group: v1.base.clone(), ..view(v1) };
        self.v1.iter().map(view).chain(self.shared.iter().map(shared)).collect()
    }

    /// Files that a supervisor writes `0` to, for itself and all that it starts: of hierarchies that no limit is in.
    pub fn shared_tasks(&self) -> Vec<PathBuf> {
        self.shared.iter().map(|v1| v1.base.join("tasks")).collect()
    }

    /// The base whose groups have this controller's files; v1 first: a controller that v1 holds v2 cannot have.
    fn place(&self, controller: &str) -> Option<Place<'_>> {
        let held_by = |controllers: &[String]| controllers.iter().any(|held| held == controller);
        if let Some(v1) = self.v1.iter().find(|v1| held_by(&v1.controllers)) {
            return Some(Place::V1(&v1.base));
        }
        self.v2.as_ref().filter(|v2| held_by(&v2.controllers)).map(|v2| Place::V2(&v2.base))
    }

    /// Our base group in each hierarchy, where containers have groups of their own or not.
    pub fn all_bases(&self) -> impl Iterator<Item = &Path> {
        self.bases().chain(self.shared.iter().map(|v1| v1.base.as_path()))
    }

    /// Our base group in each hierarchy where containers have groups of their own.
    fn bases(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|v1| v1.base.as_path()).chain(self.v2.iter().map(|v2| v2.base.as_path()))
    }
}
