//! Every behaviour on the fake, in memory and in virtual time.

use tests::{
    columns::{Behaviour, check_paused, fake},
    tests_of,
};

fn run(_theme: &str, behaviour: Behaviour) {
    check_paused(fake(), behaviour);
}

tests::for_each_behaviour!(tests_of);
