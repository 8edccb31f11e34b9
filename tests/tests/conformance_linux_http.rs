//! Every behaviour on the Linux backend behind the server, through the client. Needs root.

use tests::{
    columns::Behaviour,
    linux::{Wire, check_on_linux},
    tests_of,
};

fn run(theme: &'static str, behaviour: Behaviour) {
    check_on_linux(theme, Wire::Http, |_| (), behaviour);
}

tests::for_each_behaviour!(tests_of);
