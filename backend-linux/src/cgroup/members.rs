//! The processes of a container's groups, and how to end them when its supervisor cannot.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::name;

use super::{
    Cgroups, Error, Place, Result,
    group::{children, gone, write},
};

/// Rounds of killing the processes of a group one by one; where forks are not refused, each must outrun them.
const ROUNDS: usize = 50;

impl Cgroups {
    /// The processes of the container `name`, threads not counted; none if it has no group. Only tests ask so far.
    #[cfg(test)]
    pub fn processes(&self, name: &str) -> Result<Vec<u32>> {
        let directory = name::directory(name);
        let mut pids = BTreeSet::new();
        for base in self.bases() {
            let group = base.join(&directory);
            pids.extend(of(&group).map_err(|source| Error::Read { file: group, source })?);
        }
        Ok(pids.into_iter().collect())
    }

    /// SIGKILL for every process of the container `name`: the last resort when its supervisor is gone. Does not wait
    /// for their exit; [`Cgroups::remove`] does.
    pub fn kill(&self, name: &str) -> Result<()> {
        self.kill_directory(&name::directory(name))
    }

    pub(super) fn kill_directory(&self, directory: &str) -> Result<()> {
        let mut one_by_one: Vec<PathBuf> = self.v1.iter().map(|v1| v1.base.join(directory)).collect();
        if let Some(v2) = &self.v2 {
            let group = v2.base.join(directory);
            match write(&group.join("cgroup.kill"), "1") {
                // The group is gone, or the kernel older than 5.14, which has no such file.
                Err(Error::Write { source, .. }) if gone(&source) => one_by_one.push(group),
                result => result?,
            }
        }
        if one_by_one.is_empty() {
            return Ok(());
        }
        let held = self.refuse_forks(directory);
        one_by_one.iter().map(|group| kill_members(group)).fold(held, Result::and)
    }

    /// From now on no process of a container makes another one, where there is the pids controller.
    pub(super) fn refuse_forks(&self, directory: &str) -> Result<()> {
        let Some(Place::V1(base) | Place::V2(base)) = self.place("pids") else { return Ok(()) };
        match write(&base.join(directory).join("pids.max"), "0") {
            Err(Error::Write { source, .. }) if gone(&source) => Ok(()),
            result => result,
        }
    }
}

/// Signals the members of a group until a look at it shows nobody new.
fn kill_members(group: &Path) -> Result<()> {
    let read_error = |source| Error::Read { file: group.into(), source };
    let mut signalled = BTreeSet::new();
    for _ in 0..ROUNDS {
        let mut handles: BTreeMap<u32, OwnedFd> = BTreeMap::new();
        for pid in of(group).map_err(read_error)? {
            if !signalled.contains(&pid)
                && let Some(handle) = open(group, pid)?
            {
                handles.insert(pid, handle);
            }
        }
        if handles.is_empty() {
            return Ok(());
        }
        // Between the look and the handle a process may have died and its pid become a stranger's. Who is a member
        // now, after the handle was taken, is either that handle's process or the handle's process is dead.
        for pid in of(group).map_err(read_error)? {
            let Some(handle) = handles.get(&pid) else { continue };
            match pidfd_send_signal(handle, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => signalled.insert(pid),
                Err(error) => return Err(Error::Kill { group: group.into(), pid, source: error.into() }),
            };
        }
    }
    Ok(())
}

/// A handle on a process, none if it is gone. 0 stands for a process outside our pid namespace: not ours to end.
fn open(group: &Path, pid: u32) -> Result<Option<OwnedFd>> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(raw) = raw else { return Ok(None) };
    match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(handle)),
        // A thread that is no leader, or gone.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::Kill { group: group.into(), pid, source: error.into() }),
    }
}

/// The processes of a group and of those below it; none if it is gone.
pub(super) fn of(group: &Path) -> io::Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    let mut groups = vec![group.to_owned()];
    while let Some(group) = groups.pop() {
        let listed = fs::read_to_string(group.join("cgroup.procs")).and_then(|text| {
            pids.extend(parse_pids(&text));
            children(&group)
        });
        match listed {
            Ok(below) => groups.extend(below),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pids)
}

pub(super) fn parse_pids(text: &str) -> impl Iterator<Item = u32> {
    text.lines().filter_map(|line| line.trim().parse().ok())
}
