//! What the kernel holds: mounts, control groups, processes, namespaces, loop devices, settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::files::walk;

/// Settings that a container server may change, as globs below `/proc/sys` with at most one `*` as a segment.
const SYSCTLS: &[&str] = &[
    "fs/inotify/max_user_instances",
    "kernel/core_pattern",
    "kernel/unprivileged_userns_clone",
    "net/bridge/bridge-nf-call-iptables",
    "net/core/somaxconn",
    "net/ipv4/conf/*/accept_local",
    "net/ipv4/conf/*/arp_ignore",
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/proxy_arp",
    "net/ipv4/conf/*/route_localnet",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv6/conf/*/accept_ra",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/forwarding",
    "net/netfilter/nf_conntrack_max",
    "user/max_user_namespaces",
    "vm/overcommit_memory",
];

/// Groups below these come and go with systemd's services and logins.
const SYSTEMD_GROUPS: &[&str] = &["system.slice", "user.slice", "init.scope"];

/// Root, place, options, kind and source of each mount; its ids and peer groups depend on the order of things.
pub(super) fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<_> = before.split(' ').collect();
        let propagation = fields.get(6..)?.iter().map(|field| field.split(':').next().unwrap_or_default());
        let propagation: Vec<_> = propagation.filter(|field| !field.is_empty()).collect();
        Some(format!(
            "{} on {} ({}) {} {after}",
            fields.get(3)?,
            fields.get(4)?,
            fields.get(5)?,
            propagation.join(",")
        ))
    };
    text.lines().filter_map(line).collect()
}

/// Directories of all hierarchies.
pub(super) fn cgroups() -> Vec<String> {
    let mut groups = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path, metadata| {
        let text = path.display().to_string();
        let systemds = path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            SYSTEMD_GROUPS.contains(&part.as_ref())
        });
        if metadata.is_dir() && (!systemds || text.contains("garden")) {
            groups.push(text);
        }
        metadata.is_dir()
    });
    groups
}

/// Ids of all processes.
fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Processes named `garden…`, with their command lines.
pub(super) fn processes() -> Vec<String> {
    let describe = |pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        name.starts_with("garden").then(|| format!("{} {}", name.trim(), command.trim()))
    };
    pids().into_iter().filter_map(describe).collect()
}

/// Files behind loop devices in use.
pub(super) fn loop_devices() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let describe = |entry: fs::DirEntry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        Some(format!("{} {}", entry.file_name().display(), file.trim()))
    };
    entries.filter_map(describe).collect()
}

/// How many different namespaces of each type some process is in, and those that have a name.
pub(super) fn namespaces() -> Vec<String> {
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pid in pids() {
        for entry in fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten() {
            if let Ok(target) = fs::read_link(entry.path()) {
                let target = target.display().to_string();
                let kind = target.split(':').next().unwrap_or_default().to_owned();
                ids.entry(kind).or_default().insert(target);
            }
        }
    }
    let mut lines: Vec<_> = ids.iter().map(|(kind, ids)| format!("{kind}: {}", ids.len())).collect();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        lines.push(format!("named net: {}", entry.file_name().display()));
    }
    lines
}

/// Names and values.
pub(super) fn sysctls() -> Vec<String> {
    let mut lines = Vec::new();
    let mut read = |path: &str| {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(path)) {
            lines.push(format!("{path} = {}", value.trim()));
        }
    };
    for path in SYSCTLS {
        let Some((before, after)) = path.split_once("/*/") else {
            read(path);
            continue;
        };
        for entry in fs::read_dir(Path::new("/proc/sys").join(before)).into_iter().flatten().flatten() {
            read(&format!("{before}/{}/{after}", entry.file_name().display()));
        }
    }
    lines
}
