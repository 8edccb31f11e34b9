//! Every behaviour on the Linux backend, in process. Needs root.

use tests::{
    columns::{Behaviour, check},
    linux::linux,
    tests_of,
};

fn run(behaviour: Behaviour) {
    check(linux(), behaviour);
}

tests::for_each_behaviour!(tests_of);
