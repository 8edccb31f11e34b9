//! What the directories of a container are called: its cgroups, its write layer.

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

#[cfg(test)]
mod tests {
    use super::directory;
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
    }
}
