//! What must hold of the kernel's texts, whatever stands in them.

use super::{detect, members, stat};

/// A file of a cgroup, or `/proc/self/mountinfo`.
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

    let found = detect::hierarchies(bytes);
    for (index, (controllers, _)) in found.v1.iter().enumerate() {
        assert!(!controllers.is_empty());
        assert!(found.v1[..index].iter().all(|(others, _)| others != controllers), "{controllers:?} twice");
    }
}
