//! Every behaviour on the Linux backend where each container has ids of its own. Needs root.

use tests::{
    columns::{Behaviour, check},
    linux::linux_with,
    tests_of,
};

fn run(behaviour: Behaviour) {
    check(linux_with(|config| config.ids.per_container = Some(65_536)), behaviour);
}

tests::for_each_behaviour!(tests_of);
