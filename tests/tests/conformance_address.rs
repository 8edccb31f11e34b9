//! Every behaviour on a Garden server at an address. No part of a plain `cargo test`: `cargo xtask test` runs it against
//! servers that it starts, `cargo xtask conformance ADDRESS` against any other. See `tests::address`.

use tests::{
    address::server_at_address,
    columns::{Behaviour, check},
    tests_of,
};

fn run(_theme: &str, behaviour: Behaviour) {
    check(server_at_address(), behaviour);
}

tests::for_each_behaviour!(tests_of);
