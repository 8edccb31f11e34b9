//! Every behaviour on the server at `GARDEN_CONFORMANCE_ADDRESS`. Whoever runs these names one.

use tests::{
    columns::{ADDRESS_VARIABLE, Behaviour, check, server_at_address},
    tests_of,
};

fn run(behaviour: Behaviour) {
    // No part of an ordinary test run, so that its absence is no skip that CI would forbid.
    if std::env::var_os(ADDRESS_VARIABLE).is_some() {
        check(server_at_address(), behaviour);
    }
}

tests::for_each_behaviour!(tests_of);
