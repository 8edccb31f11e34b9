//! Which hierarchies there are, and our base group in each.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{Cgroups, DeviceRule, Error, LimitPolicy, Result, V1, V2, devices::DeviceList, group::write};

/// What containers use where a v1 hierarchy has it. Each hierarchy more costs a create, a run and a destroy 25 µs.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "devices", "pids"];
/// Where this shares a hierarchy with one of them, nothing can enter a group before it is set up.
pub(super) const V1_CPUSET: &str = "cpuset";
/// What containers use of the unified hierarchy.
const V2_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// Controllers without which a limit or a metric is lost, and the one that v2 has built in for it.
const NEEDED: [&str; 4] = ["memory", "cpu", "pids", "cpuacct"];

impl Cgroups {
    /// Looks at what is mounted and makes our base groups, named `garden` or `garden-<tag>`. Containers may use the
    /// devices of `device_rules` besides those that all may.
    pub fn detect(tag: &str, device_rules: &[DeviceRule]) -> Result<Cgroups> {
        let file = Path::new("/proc/self/mountinfo");
        let mounts = fs::read(file).map_err(|source| Error::Read { file: file.into(), source })?;
        let base = if tag.is_empty() { "garden".to_owned() } else { format!("garden-{tag}") };
        let Hierarchies { v1, v2 } = hierarchies(&mounts);
        let hierarchy = |(controllers, mount): (Vec<String>, PathBuf)| V1 {
            name: mount.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            controllers,
            base: mount.join(&base),
        };
        let v1: Vec<V1> = v1.into_iter().map(hierarchy).collect();
        let mut made = Vec::new();
        for hierarchy in &v1 {
            make_group(&hierarchy.base, &mut made)?;
            if hierarchy.controllers.iter().any(|controller| controller == V1_CPUSET) {
                copy_cpuset(&hierarchy.base)?;
            }
        }
        let v2 = match v2 {
            Some(mount) => make_v2_base(&mount, &base, &mut made)?,
            None => None,
        };
        if v1.is_empty() && v2.is_none() {
            return Err(Error::NoHierarchy);
        }
        let mut cgroups = Cgroups {
            v1,
            v2,
            devices: DeviceList::None,
            policy: LimitPolicy::default(),
            made,
            missing: Vec::new(),
        };
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
}

/// Mount points found: v1 with their controllers, and the unified one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    pub(super) v1: Vec<(Vec<String>, PathBuf)>,
    pub(super) v2: Option<PathBuf>,
}

/// Reads the text of `/proc/self/mountinfo`. The first mount of a hierarchy counts; v1 hierarchies without a
/// controller that containers use (`name=systemd`, `freezer`) do not.
pub(super) fn hierarchies(mountinfo: &[u8]) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        // Optional fields end with a single "-"; the type, source and the file system's options follow.
        let Some(dash) = fields.iter().position(|field| *field == b"-") else { continue };
        let (Some(mount), Some(kind), Some(options)) =
            (fields.get(4), fields.get(dash + 1), fields.get(dash + 3))
        else {
            continue;
        };
        let mount = unescape(mount);
        if *kind == b"cgroup2" && found.v2.is_none() {
            found.v2 = Some(mount);
        } else if *kind == b"cgroup" {
            let used = |option: &str| V1_CONTROLLERS.contains(&option);
            let known = |option: &str| (used(option) || option == V1_CPUSET).then(|| option.to_owned());
            let options = String::from_utf8_lossy(options);
            let controllers: Vec<String> = options.split(',').filter_map(known).collect();
            if controllers.iter().any(|controller| used(controller))
                && found.v1.iter().all(|(held, _)| *held != controllers)
            {
                found.v1.push((controllers, mount));
            }
        }
    }
    found
}

/// Undoes the `\040` escapes of a mount point.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let octal = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
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
fn make_v2_base(mount: &Path, base: &str, made: &mut Vec<PathBuf>) -> Result<Option<V2>> {
    let offered = words(&mount.join("cgroup.controllers"))?;
    let wanted = V2_CONTROLLERS.into_iter().filter(|wanted| offered.iter().any(|offered| offered == wanted));
    let wanted: Vec<&str> = wanted.collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let enabled = enable(mount, &wanted)?;
    let base = mount.join(base);
    make_group(&base, made)?;
    let enabled = enable(&base, &enabled)?;
    Ok(Some(V2 { controllers: enabled.into_iter().map(str::to_owned).collect(), base }))
}

/// Hands controllers on to the children of `group`; gives those that they then have. One by one: the kernel refuses
/// a whole line for one controller (`cpu`, while there are real-time processes), and the others are still wanted.
fn enable<'a>(group: &Path, controllers: &[&'a str]) -> Result<Vec<&'a str>> {
    let file = group.join("cgroup.subtree_control");
    let before = words(&file)?;
    let held = |controller: &str| before.iter().any(|held| held == controller);
    if controllers.iter().all(|controller| held(controller)) {
        return Ok(controllers.to_vec());
    }
    // The kernel would refuse memory, but take cpu and pids, and make the group a threaded one, whose children
    // nothing can enter. Only the root of all groups may have both; it has no type.
    let populated = !words(&group.join("cgroup.procs"))?.is_empty();
    if populated && group.join("cgroup.type").exists() {
        return Err(Error::ProcessesInTheWay { group: group.into() });
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

fn words(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { file: file.into(), source })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(controllers: &[&str], mount: &str) -> (Vec<String>, PathBuf) {
        (controllers.iter().map(|&controller| controller.to_owned()).collect(), mount.into())
    }

    #[test]
    fn finds_hierarchies_mounted_one_by_one_or_together() {
        let text = b"\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
37 31 0:34 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
38 31 0:35 / /sys/fs/cgroup/pids,cpuset rw,relatime - cgroup cgroup rw,cpuset,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate
";
        let expected = Hierarchies {
            v1: vec![
                v1(&["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct"),
                v1(&["memory"], "/sys/fs/cgroup/memory"),
                v1(&["cpuset", "pids"], "/sys/fs/cgroup/pids,cpuset"),
            ],
            v2: Some("/sys/fs/cgroup/unified".into()),
        };
        assert_eq!(hierarchies(text), expected);
    }

    #[test]
    fn a_hierarchy_mounted_twice_counts_once_and_spaces_are_unescaped() {
        let text = b"\
35 31 0:32 / /sys/fs/cgroup/with\\040space rw - cgroup cgroup rw,memory
36 31 0:32 / /elsewhere rw - cgroup cgroup rw,memory
";
        let expected = Hierarchies { v1: vec![v1(&["memory"], "/sys/fs/cgroup/with space")], v2: None };
        assert_eq!(hierarchies(text), expected);
    }

    #[test]
    fn garbage_is_no_hierarchy() {
        for text in
            [&b""[..], b"\n\n", b"1 2 3 - cgroup", b"- cgroup cgroup rw,memory", b"\\ - \\04 \xff\xfe"]
        {
            assert_eq!(hierarchies(text), Hierarchies::default());
        }
    }
}
