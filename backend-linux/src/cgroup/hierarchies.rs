//! Which hierarchies are mounted, and where this server is in each: the kernel's texts, parsed.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
};

/// A hierarchy that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Those of v1; v2 tells its own in each group.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The group that is seen there: not the first one in a container.
    pub(super) root: PathBuf,
    /// The group that this server is in.
    pub(super) own: PathBuf,
}

impl Hierarchy {
    /// Where a group is to be found; none if it is not below what is mounted.
    pub(super) fn directory(&self, group: &Path) -> Option<PathBuf> {
        let below = group.strip_prefix(&self.root).ok()?;
        let mut directory = self.mount.clone();
        for component in below.components() {
            // `..` leads out of the cgroup namespace, and there is no telling what it stands for here.
            let Component::Normal(name) = component else { return None };
            directory.push(name);
        }
        Some(directory)
    }
}

/// What is mounted: v1 hierarchies and the unified one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    pub(super) v1: Vec<Hierarchy>,
    pub(super) v2: Option<Hierarchy>,
}

impl Hierarchies {
    /// Reads the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`. The first mount of a hierarchy counts.
    pub(super) fn parse(mountinfo: &[u8], own_groups: &[u8]) -> Hierarchies {
        let own_groups: Vec<(Vec<&[u8]>, PathBuf)> = lines(own_groups).filter_map(own_group).collect();
        let mut found = Hierarchies::default();
        for line in lines(mountinfo) {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            // Optional fields end with a single "-"; the type, source and the file system's options follow.
            let Some(dash) = fields.iter().position(|field| *field == b"-") else { continue };
            let (Some(root), Some(mount), Some(kind), Some(options)) =
                (fields.get(3), fields.get(4), fields.get(dash + 1), fields.get(dash + 3))
            else {
                continue;
            };
            // The options of v1 tell the controllers among others, which are no controller's name.
            let options: Vec<&[u8]> = match *kind {
                b"cgroup" => options.split(|&byte| byte == b',').collect(),
                b"cgroup2" => Vec::new(),
                _ => continue,
            };
            let is_this = |controllers: &[&[u8]]| match *kind {
                b"cgroup2" => controllers.is_empty(),
                _ => !controllers.is_empty() && controllers.iter().all(|name| options.contains(name)),
            };
            let Some((controllers, own)) = own_groups.iter().find(|(names, _)| is_this(names)) else {
                continue;
            };
            let hierarchy = Hierarchy {
                controllers: controllers
                    .iter()
                    .map(|name| String::from_utf8_lossy(name).into_owned())
                    .collect(),
                mount: unescape(mount),
                root: unescape(root),
                own: own.clone(),
            };
            if *kind == b"cgroup2" {
                found.v2.get_or_insert(hierarchy);
            } else if found.v1.iter().all(|known| known.controllers != hierarchy.controllers) {
                found.v1.push(hierarchy);
            }
        }
        found
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// A line of `/proc/self/cgroup`, as in `4:cpu,cpuacct:/a`; v2 has no controllers there. Names of hierarchies without
/// controllers are as in the options of their mount: `name=systemd`.
fn own_group(line: &[u8]) -> Option<(Vec<&[u8]>, PathBuf)> {
    let mut fields = line.splitn(3, |&byte| byte == b':');
    let (_id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let names = controllers.split(|&byte| byte == b',').filter(|name| !name.is_empty());
    Some((names.collect(), OsString::from_vec(path.to_owned()).into()))
}

/// Undoes the `\040` escapes of a path.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(controllers: &[&str], mount: &str, own: &str) -> Hierarchy {
        let controllers = controllers.iter().map(|&controller| controller.to_owned()).collect();
        Hierarchy { controllers, mount: mount.into(), root: "/".into(), own: own.into() }
    }

    #[test]
    fn finds_hierarchies_mounted_one_by_one_or_together() {
        let mounts = b"\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate
";
        let own = b"3:name=systemd:/unit\n2:memory:/a:b\n1:cpu,cpuacct:/\n0::/unit\n";
        let expected = Hierarchies {
            v1: vec![
                hierarchy(&["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct", "/"),
                hierarchy(&["memory"], "/sys/fs/cgroup/memory", "/a:b"),
                hierarchy(&["name=systemd"], "/sys/fs/cgroup/systemd", "/unit"),
            ],
            v2: Some(hierarchy(&[], "/sys/fs/cgroup/unified", "/unit")),
        };
        assert_eq!(Hierarchies::parse(mounts, own), expected);
    }

    #[test]
    fn a_hierarchy_mounted_twice_counts_once_and_spaces_are_unescaped() {
        let mounts = b"\
35 31 0:32 / /sys/fs/cgroup/with\\040space rw - cgroup cgroup rw,memory
36 31 0:32 / /elsewhere rw - cgroup cgroup rw,memory
";
        let expected =
            Hierarchies { v1: vec![hierarchy(&["memory"], "/sys/fs/cgroup/with space", "/")], v2: None };
        assert_eq!(Hierarchies::parse(mounts, b"4:memory:/\n"), expected);
    }

    #[test]
    fn garbage_is_no_hierarchy() {
        for text in [
            &b""[..],
            b"\n\n",
            b"1 2 3 - cgroup",
            b"- cgroup cgroup rw,memory",
            b"\\ - \\04 \xff\xfe",
            b"::",
            b"0:",
        ] {
            assert_eq!(Hierarchies::parse(text, b"4:memory:/\n"), Hierarchies::default());
            let mount = b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
            assert_eq!(Hierarchies::parse(mount, text), Hierarchies::default());
        }
    }

    #[test]
    fn a_group_is_found_below_what_a_container_sees_and_nowhere_else() {
        let seen = |root: &str, group: &str| {
            let hierarchy = Hierarchy { root: root.into(), ..hierarchy(&[], "/sys/fs/cgroup", "/") };
            hierarchy.directory(Path::new(group)).map(|directory| directory.display().to_string())
        };
        assert_eq!(seen("/", "/a/b").as_deref(), Some("/sys/fs/cgroup/a/b"));
        assert_eq!(seen("/docker/1", "/docker/1").as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(seen("/docker/1", "/docker/1/x").as_deref(), Some("/sys/fs/cgroup/x"));
        assert_eq!(seen("/docker/1", "/docker/12"), None);
        assert_eq!(seen("/docker/1", "/"), None);
        assert_eq!(seen("/", "/../b"), None);
        assert_eq!(
            seen("/..", "/"),
            None,
            "the mount shows more than the namespace, by names that it does not tell"
        );
    }
}
