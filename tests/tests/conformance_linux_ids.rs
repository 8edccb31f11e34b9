//! Every behaviour on the Linux backend where each container has ids of its own. Needs root.

use tests::{
    columns::Behaviour,
    linux::{Wire, check_on_linux},
    tests_of,
};

fn run(theme: &'static str, behaviour: Behaviour) {
    check_on_linux(theme, Wire::None, |config| config.ids.per_container = Some(65_536), behaviour);
}

tests::for_each_behaviour!(tests_of);
