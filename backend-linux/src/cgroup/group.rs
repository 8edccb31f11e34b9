//! A container's groups: made, removed, swept.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use protocol::Limits;
use rustix::io::Errno;

use crate::name;

use super::{
    Cgroups, Devices, Error, Leaf, Place, ProcessGroup, Result, V1,
    detect::{V1_CPUSET, copy_cpuset},
    members, settings,
};

/// Between two tries to remove a busy group: at first, and at most. The kernel tells nobody when a v1 group empties.
const RETRY_FIRST: Duration = Duration::from_micros(200);
const RETRY_MAX: Duration = Duration::from_millis(20);

impl Cgroups {
    /// Makes the groups of the container `name` with these limits and devices; all or nothing.
    pub fn create(&self, name: &str, limits: &Limits, devices: Devices) -> Result<()> {
        let directory = name::directory(name);
        let created =
            self.create_groups(&directory).and_then(|()| self.apply(&directory, limits)).and_then(|()| {
                match devices {
                    Devices::Listed => self.restrict_devices(&directory),
                    Devices::All => Ok(()),
                }
            });
        if created.is_err() {
            // Nothing can have entered yet, so nothing can be busy; what failed is the error to tell.
            for base in self.bases() {
                let _ = remove_tree(&base.join(&directory), Duration::ZERO);
            }
        }
        created
    }

    fn create_groups(&self, directory: &str) -> Result<()> {
        create_v1_groups(self.v1.iter(), directory)?;
        if let Some(v2) = &self.v2 {
            let group = v2.base.join(directory);
            make_new_group(&group)?;
            for leaf in Leaf::ALL {
                make_new_group(&group.join(leaf.directory()))?;
            }
        }
        Ok(())
    }

    pub(super) fn apply(&self, directory: &str, limits: &Limits) -> Result<()> {
        let on_v1 = settings::v1(limits, &self.policy).into_iter().map(|setting| (setting, true));
        let on_v2 = settings::v2(limits, &self.policy).into_iter().map(|setting| (setting, false));
        for setting in &self.io {
            if let Some(Place::V1(base) | Place::V2(base)) = self.place(setting.controller) {
                write(&base.join(directory).join(setting.file), &setting.value)?;
            }
        }
        for (setting, for_v1) in on_v1.chain(on_v2) {
            let base = match self.place(setting.controller) {
                Some(Place::V1(base)) if for_v1 => base,
                Some(Place::V2(base)) if !for_v1 => base,
                _ => continue,
            };
            match write(&base.join(directory).join(setting.file), &setting.value) {
                Err(Error::Write { source, .. })
                    if setting.optional && source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Removes the groups of the container `name`, also if some or all are gone already. Processes leave a group a
    /// little after they die: a busy group is tried again for `patience`. A failure in one hierarchy does not keep
    /// the others; the first is told, with what else is left.
    pub fn remove(&self, name: &str, patience: Duration) -> Result<()> {
        self.remove_directory(&name::directory(name), patience)
    }

    pub(super) fn remove_directory(&self, directory: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut first = None;
        let mut others = Vec::new();
        for base in self.bases() {
            let group = base.join(directory);
            if let Err(source) = remove_tree(&group, deadline.saturating_duration_since(Instant::now())) {
                match first {
                    None => first = Some((group, source)),
                    Some(_) => others.push(group),
                }
            }
        }
        let Some((group, source)) = first else { return Ok(()) };
        let processes = members::of(&group).map_or(0, |pids| pids.len());
        Err(Error::Remove { group, others, processes, patience, source })
    }

    /// Kills and removes every group below our bases whose container is not among `owned`, and which is not one of
    /// `processes`; gives the directory names of the removed ones. For the start of the server, before anything is
    /// created.
    pub fn sweep<'a>(
        &self,
        owned: impl IntoIterator<Item = &'a str>,
        processes: &[ProcessGroup],
        patience: Duration,
    ) -> Result<Vec<String>> {
        let of_processes = processes.iter().map(|group| group.directory().to_owned());
        let owned: HashSet<String> = owned.into_iter().map(name::directory).chain(of_processes).collect();
        let mut strays = HashSet::new();
        for base in self.bases() {
            let children = children(base).map_err(|source| Error::Read { file: base.into(), source })?;
            let names = children.iter().filter_map(|child| child.file_name()?.to_str());
            strays.extend(names.filter(|name| !owned.contains(*name)).map(str::to_owned));
        }
        let mut removed = Vec::new();
        let mut failed = None;
        for stray in strays {
            let gone = self.kill_directory(&stray).and_then(|()| self.remove_directory(&stray, patience));
            match gone {
                Ok(()) => removed.push(stray),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Kills and removes everything that is ours, the base groups too, but never what they are in. Controllers that [`Cgroups::detect`] enabled
    /// at a v2 root stay enabled: somebody else may have come to need them.
    pub fn cleanup(&self, patience: Duration) -> Result<()> {
        self.sweep([], &[], patience)?;
        for base in self.all_bases() {
            remove_tree(base, patience).map_err(|source| Error::Remove {
                group: base.into(),
                others: Vec::new(),
                processes: 0,
                patience,
                source,
            })?;
        }
        self.give_back();
        Ok(())
    }
}

pub(super) fn create_v1_groups<'a>(hierarchies: impl Iterator<Item = &'a V1>, directory: &str) -> Result<()> {
    for v1 in hierarchies {
        let group = v1.base.join(directory);
        make_new_group(&group)?;
        if v1.controllers.iter().any(|controller| controller == V1_CPUSET) {
            copy_cpuset(&group)?;
        }
    }
    Ok(())
}

/// Writes to a file that the kernel made; never creates one.
pub(super) fn write(file: &Path, value: &str) -> Result<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut opened| io::Write::write_all(&mut opened, value.as_bytes()));
    written.map_err(|source| Error::Write { file: file.into(), value: value.into(), source })
}

/// Makes a group that did not exist. One of that name that an earlier life left goes first, so that its counters do
/// not become the new container's; if something still lives in it, that is the error.
pub(super) fn make_new_group(group: &Path) -> Result<()> {
    let made = fs::create_dir(group).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            remove_tree(group, Duration::ZERO)?;
            fs::create_dir(group)
        }
        _ => Err(error),
    });
    made.map_err(|source| Error::Create { group: group.into(), source })
}

/// Removes a group and those below it. A group without children, the usual case, is never listed.
fn remove_tree(group: &Path, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut pause = RETRY_FIRST;
    let mut children_gone = false;
    loop {
        let busy = match fs::remove_dir(group) {
            Err(error) if gone(&error) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => error,
            result => return result,
        };
        // Busy with children, or with processes.
        let below = match children(group) {
            Err(error) if gone(&error) => return Ok(()),
            below => below?,
        };
        for child in &below {
            remove_tree(child, deadline.saturating_duration_since(Instant::now()))?;
        }
        // Once only: who keeps making children does not keep us.
        if !below.is_empty() && !std::mem::replace(&mut children_gone, true) {
            continue;
        }
        if Instant::now() >= deadline {
            return Err(busy);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Whether the group went while it was looked at: ENODEV is how an open file of a removed group answers.
pub(super) fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// The groups directly below one.
pub(super) fn children(group: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}
