//! Groups of single processes, which some have besides their container's.
//!
//! One with limits of its own has its group beside the container's, whose limits do not reach it there. One without has
//! it inside: it counts against the container's limits, and is counted by itself too. Both are leaves: nothing is made
//! in them.

use std::time::Duration;

use protocol::{CpuStat, Limits, MemoryStat, PidStat};

use crate::name;

use super::{
    CgroupEntry, Cgroups, Devices, Error, Place, Result, V1,
    group::{create_v1_groups, gone, make_new_group, write},
};

/// The controllers that count what a group inside a container's uses; time is counted without one.
const COUNTING: [&str; 2] = ["memory", "pids"];

/// The group of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessGroup {
    /// Below our bases.
    directory: String,
    /// The container's group that it is in, if it is.
    inside: Option<String>,
}

impl ProcessGroup {
    /// That of the process `process` of the container `name`, beside the container's or inside it.
    pub fn new(name: &str, process: &str, own_limits: bool) -> ProcessGroup {
        let directory = name::process_directory(name, process);
        if own_limits {
            return ProcessGroup { directory, inside: None };
        }
        let container = name::directory(name);
        ProcessGroup { directory: format!("{container}/{directory}"), inside: Some(container) }
    }

    /// Where it is below our bases.
    pub(super) fn directory(&self) -> &str {
        &self.directory
    }
}

impl Cgroups {
    /// Makes a process's group, with these limits and devices if it is beside the container's; all or nothing. Gives the
    /// way in.
    pub fn create_for_process(
        &self,
        group: &ProcessGroup,
        limits: &Limits,
        devices: Devices,
    ) -> Result<CgroupEntry> {
        let made = self.make_for_process(group, limits, devices);
        if made.is_err() {
            // What failed is the error to tell. Nothing can have entered yet, so nothing can be busy.
            let _ = self.remove_directory(&group.directory, Duration::ZERO);
        }
        made.map(|()| CgroupEntry {
            v1_tasks: self.v1_around(group).map(|v1| v1.base.join(&group.directory).join("tasks")).collect(),
            v2_dir: self.v2.as_ref().map(|v2| v2.base.join(&group.directory)),
        })
    }

    fn make_for_process(&self, group: &ProcessGroup, limits: &Limits, devices: Devices) -> Result<()> {
        create_v1_groups(self.v1_around(group), &group.directory)?;
        if let Some(v2) = &self.v2 {
            if let Some(container) = &group.inside {
                let file = v2.base.join(container).join("cgroup.subtree_control");
                let held = |wanted: &&&str| v2.controllers.iter().any(|held| held == **wanted);
                let mut counting = COUNTING.iter().filter(held);
                counting.try_for_each(|controller| write(&file, &format!("+{controller}")))?;
            }
            make_new_group(&v2.base.join(&group.directory))?;
        }
        if group.inside.is_none() {
            self.apply(&group.directory, limits)?;
        }
        match (devices, &group.inside) {
            // Inside, those of the container hold.
            (Devices::All, _) | (Devices::Listed, Some(_)) => Ok(()),
            (Devices::Listed, None) => self.restrict_devices(&group.directory),
        }
    }

    /// The hierarchies that it can be in: its container may be from before limits that another one is needed for.
    fn v1_around(&self, group: &ProcessGroup) -> impl Iterator<Item = &V1> {
        let has_container =
            |v1: &&V1| group.inside.as_ref().is_none_or(|inside| v1.base.join(inside).exists());
        self.v1.iter().filter(has_container)
    }

    /// Removes a process's group, also if some or all of it is gone already. What the process left in it is killed, and
    /// has `patience` to die.
    pub fn remove_of_process(&self, group: &ProcessGroup, patience: Duration) -> Result<()> {
        if self.remove_directory(&group.directory, Duration::ZERO).is_ok() {
            return Ok(());
        }
        self.kill_directory(&group.directory)?;
        self.remove_directory(&group.directory, patience)
    }

    /// What a process and its children use.
    pub fn metrics_of_process(&self, group: &ProcessGroup) -> Result<(MemoryStat, CpuStat, PidStat)> {
        self.metrics_in(&group.directory)
    }

    /// How many of a process and its children the kernel killed for want of memory, that are not among the container's
    /// kills; 0 if the group is gone.
    pub fn oom_kills_of_process(&self, group: &ProcessGroup) -> Result<u64> {
        if group.inside.is_some() && matches!(self.place("memory"), Some(Place::V2(_))) {
            // v2 counts them for the groups around too.
            return Ok(0);
        }
        match self.oom_kills_in(&group.directory) {
            Err(Error::Read { source, .. }) if gone(&source) => Ok(0),
            kills => kills,
        }
    }
}
