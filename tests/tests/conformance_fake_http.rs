//! Every behaviour on the fake behind the server, through the client.

use tests::{
    columns::{Behaviour, check, fake_over_http},
    tests_of,
};

fn run(_theme: &str, behaviour: Behaviour) {
    check(fake_over_http(), behaviour);
}

tests::for_each_behaviour!(tests_of);
