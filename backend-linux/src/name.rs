//! What the directories of a container are called: its cgroups, its write layer, the cgroups of its processes.

use sha2::{Digest, Sha256};

/// Beyond this a name is hashed: 255 bytes is what a directory's name may have.
const READABLE_BYTES_MAX: usize = 200;

/// The directory name of the container `name`, which may hold any bytes. The prefix keeps it apart from the
/// kernel's own files (`tasks`, `memory.max`) and from our leaves; different names never meet.
pub fn directory(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.is_empty() && name.len() <= READABLE_BYTES_MAX && name.bytes().all(plain) {
        format!("c-{name}")
    } else {
        format!("h-{:x}", Sha256::digest(name))
    }
}

/// The directory name of a cgroup of its own of the process `process` of the container `name`; no container's is called
/// that.
pub fn process_directory(name: &str, process: &str) -> String {
    let mut digest = Sha256::new();
    // With its length, so that the two cannot be divided in another way.
    digest.update((name.len() as u64).to_le_bytes());
    digest.update(name);
    digest.update(process);
    format!("p-{:x}", digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::{directory, process_directory};
    use proptest::prelude::*;

    #[test]
    fn an_ordinary_name_stays_readable() {
        assert_eq!(directory("web-1.example_x"), "c-web-1.example_x");
    }

    proptest! {
        #[test]
        fn any_name_is_one_safe_path_component(name in ".{0,255}") {
            let directory = directory(&name);
            prop_assert!(directory.len() <= 255);
            prop_assert!(directory.starts_with("c-") || directory.starts_with("h-"));
            prop_assert!(directory.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
        }

        #[test]
        fn different_names_get_different_directories(a in ".{0,255}", b in ".{0,255}") {
            prop_assert_eq!(a == b, directory(&a) == directory(&b));
        }

        #[test]
        fn different_processes_get_directories_that_no_container_has(
            a in ".{0,8}", b in ".{0,8}", of_a in ".{0,8}", of_b in ".{0,8}",
        ) {
            let (first, second) = (process_directory(&a, &of_a), process_directory(&b, &of_b));
            prop_assert_eq!((a == b) && (of_a == of_b), first == second);
            prop_assert!(![directory(&a), directory(&first)].contains(&first));
        }
    }
}
