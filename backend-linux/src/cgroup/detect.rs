//! Which hierarchies there are, and our base group in each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Cgroups, DeviceRule, Error, LimitPolicy, Result, V1, V2,
    devices::DeviceList,
    group::{children, write},
    hierarchies::{Hierarchies, Hierarchy},
    leaf::{self, is_root_of_all},
    places::Places,
};

/// What containers use where a v1 hierarchy has it. Each hierarchy more costs a create, a run and a destroy 25 µs: in
/// those with none of these all containers are in one group, and so it costs 10 µs of a create to show it.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "devices", "pids"];
/// Where this shares a hierarchy with one of them, nothing can enter a group before it is set up.
pub(super) const V1_CPUSET: &str = "cpuset";
/// What containers use of the unified hierarchy.
const V2_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// Controllers without which a limit or a metric is lost, and the one that v2 has built in for it.
const NEEDED: [&str; 4] = ["memory", "cpu", "pids", "cpuacct"];

impl Cgroups {
    /// Looks at what is mounted and makes our base groups, named `garden` or `garden-<tag>`. Those of an earlier server
    /// (`earlier`) that still have groups are used again, wherever this one was started. Containers may use the devices of
    /// `device_rules` besides those that all may.
    pub fn detect(tag: &str, device_rules: &[DeviceRule], earlier: &[PathBuf]) -> Result<Cgroups> {
        let mut made = Vec::new();
        let cgroups = make(tag, device_rules, earlier, &mut made);
        if cgroups.is_err() {
            remove_empty(&made);
        }
        cgroups.map(|cgroups| Cgroups { made, ..cgroups })
    }

    /// For who only looked: removes the base groups that this made, as far as nobody has put anything in them.
    pub fn forget(self) {
        remove_empty(&self.made);
        self.give_back();
    }
}

/// Adds the groups that it has made to `made`.
fn make(
    tag: &str,
    device_rules: &[DeviceRule],
    earlier: &[PathBuf],
    made: &mut Vec<PathBuf>,
) -> Result<Cgroups> {
    let read = |file: &str| fs::read(file).map_err(|source| Error::Read { file: file.into(), source });
    let found = Hierarchies::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    let base = if tag.is_empty() { "garden".to_owned() } else { format!("garden-{tag}") };
    let mut places = Places::new(&found, &base, earlier);
    let (mut v1, mut shared) = (Vec::new(), Vec::new());
    for hierarchy in &found.v1 {
        let Some(base) = places.base(hierarchy) else { continue };
        make_group(&base, made)?;
        if hierarchy.controllers.iter().any(|controller| controller == V1_CPUSET) {
            copy_cpuset(&base)?;
        }
        let name = hierarchy.mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let used = |controller: &String| V1_CONTROLLERS.contains(&controller.as_str());
        // Where an earlier server had a limit, containers have groups that must go with them.
        let has_groups = children(&base).is_ok_and(|groups| !groups.is_empty());
        let kind = if has_groups || hierarchy.controllers.iter().any(used) { &mut v1 } else { &mut shared };
        kind.push(V1 { name, controllers: hierarchy.controllers.clone(), base });
    }
    let v2 = match &found.v2 {
        Some(hierarchy) => make_v2_base(hierarchy, &mut places, made)?,
        None => None,
    };
    if v1.is_empty() && v2.is_none() {
        return Err(places.none_usable());
    }
    let mut cgroups = Cgroups {
        v1,
        shared,
        v2,
        devices: DeviceList::None,
        policy: LimitPolicy::default(),
        io: Vec::new(),
        made: Vec::new(),
        missing: Vec::new(),
    };
    places.leave_others(cgroups.all_bases());
    cgroups.devices = DeviceList::new(cgroups.place("devices"), cgroups.v2.is_some(), device_rules);
    // Every v2 group counts its CPU time, with or without a controller.
    let counted = |controller: &str| controller == "cpuacct" && cgroups.v2.is_some();
    cgroups.missing = NEEDED
        .into_iter()
        .filter(|controller| cgroups.place(controller).is_none() && !counted(controller))
        .collect();
    if matches!(cgroups.devices, DeviceList::None) {
        cgroups.missing.push("devices");
    }
    Ok(cgroups)
}

/// One that cannot be removed has become somebody's.
fn remove_empty(groups: &[PathBuf]) {
    groups.iter().for_each(|group| drop(fs::remove_dir(group)));
}

/// Makes a group unless it is there; adds what it made to `made`.
fn make_group(group: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    match fs::create_dir(group) {
        Ok(()) => {
            made.push(group.into());
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::Create { group: group.into(), source: error })
        }
        _ => Ok(()),
    }
}

/// A new v1 cpuset has no CPUs and no memory nodes, and no process can enter it: it gets its parent's.
pub(super) fn copy_cpuset(group: &Path) -> Result<()> {
    let Some(parent) = group.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let from = parent.join(file);
        let value = fs::read_to_string(&from).map_err(|source| Error::Read { file: from, source })?;
        write(&group.join(file), value.trim())?;
    }
    Ok(())
}

/// Our base group on v2 with the controllers that containers use, as far as the kernel offers them; none where it
/// offers none of them here, as where v1 hierarchies hold them all.
fn make_v2_base(hierarchy: &Hierarchy, places: &mut Places, made: &mut Vec<PathBuf>) -> Result<Option<V2>> {
    let offered = words(&hierarchy.mount.join("cgroup.controllers"))?;
    if !V2_CONTROLLERS.iter().any(|wanted| offered.iter().any(|offered| offered == wanted)) {
        return Ok(None);
    }
    let Some(base) = places.base(hierarchy) else { return Ok(None) };
    let Some(parent) = base.parent() else { return Ok(None) };
    let offered = words(&parent.join("cgroup.controllers"))?;
    let wanted = V2_CONTROLLERS.into_iter().filter(|wanted| offered.iter().any(|offered| offered == wanted));
    let enabled = enable(parent, &wanted.collect::<Vec<_>>(), Populated::MakesRoom)?;
    make_group(&base, made)?;
    let enabled = enable(&base, &enabled, Populated::IsAnError)?;
    Ok(Some(V2 { controllers: enabled.into_iter().map(str::to_owned).collect(), base }))
}

/// What to do about processes in a group that is to have groups with controllers.
#[derive(PartialEq, Eq)]
enum Populated {
    /// They go into a leaf below it.
    MakesRoom,
    IsAnError,
}

/// Hands controllers on to the children of `group`; gives those that they then have. One by one: the kernel refuses
/// a whole line for one controller (`cpu`, while there are real-time processes), and the others are still wanted.
fn enable<'a>(group: &Path, controllers: &[&'a str], populated: Populated) -> Result<Vec<&'a str>> {
    let file = group.join("cgroup.subtree_control");
    let before = words(&file)?;
    let held = |controller: &str| before.iter().any(|held| held == controller);
    if controllers.iter().all(|controller| held(controller)) {
        return Ok(controllers.to_vec());
    }
    // The kernel would refuse memory, but take cpu and pids, and make the group a threaded one, whose children
    // nothing can enter. Only the root of all groups may have both.
    if !is_root_of_all(group) && !words(&group.join("cgroup.procs"))?.is_empty() {
        match populated {
            Populated::MakesRoom => leaf::make_room(group)?,
            Populated::IsAnError => return Err(Error::ProcessesInTheWay { group: group.into() }),
        }
    }
    let mut enabled = Vec::new();
    for &controller in controllers {
        if !held(controller)
            && let Err(error) = write(&file, &format!("+{controller}"))
        {
            tracing::warn!(controller, %error, cause = ?std::error::Error::source(&error), "not enabled");
            continue;
        }
        enabled.push(controller);
    }
    Ok(enabled)
}

pub(super) fn words(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { file: file.into(), source })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}
