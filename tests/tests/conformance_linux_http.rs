//! Every behaviour on the Linux backend behind the server, through the client. Needs root.

use tests::{
    columns::{Behaviour, check},
    linux::linux_over_http,
    tests_of,
};

fn run(behaviour: Behaviour) {
    check(linux_over_http(), behaviour);
}

tests::for_each_behaviour!(tests_of);
