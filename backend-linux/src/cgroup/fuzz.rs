//! What must hold of the kernel's texts, whatever stands in them.

use super::{hierarchies::Hierarchies, members, stat};

/// A file of a cgroup, or `/proc/self/mountinfo` and `/proc/self/cgroup` in one.
pub(crate) fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    let memory = stat::memory_stat(&text);
    // A line that nobody knows changes nothing, wherever it stands.
    assert_eq!(stat::memory_stat(&format!("a_new_counter 7\nbroken\n{text}")), memory);
    let cpu = stat::cpu_v2(&text);
    assert!(cpu.usage_ns.is_multiple_of(1_000) || cpu.usage_ns == u64::MAX, "{cpu:?}");
    assert!(stat::pairs(&text).count() <= lines);
    if let Some(Some(limit)) = stat::parse_limit(&text) {
        assert_eq!(stat::parse_limit(&limit.to_string()), Some(Some(limit)));
    }
    assert!(members::parse_pids(&text).count() <= lines);

    let found = Hierarchies::parse(bytes, bytes);
    for (index, hierarchy) in found.v1.iter().enumerate() {
        let controllers = &hierarchy.controllers;
        assert!(!controllers.is_empty());
        let mut others = found.v1[..index].iter();
        assert!(others.all(|other| other.controllers != *controllers), "{controllers:?} twice");
    }
    for hierarchy in found.v1.iter().chain(&found.v2) {
        // Whatever a text calls a group, it is looked for below what is mounted.
        let directory = hierarchy.directory(&hierarchy.own);
        assert!(directory.is_none_or(|directory| directory.starts_with(&hierarchy.mount)));
    }
}
