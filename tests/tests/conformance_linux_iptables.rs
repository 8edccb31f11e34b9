//! Every behaviour of the network on the Linux backend with the firewall of iptables. Needs root.

use backend_linux::FirewallKind;
use tests::{
    columns::Behaviour,
    linux::{Wire, check_on_linux},
    tests_of,
};

fn run(theme: &'static str, behaviour: Behaviour) {
    check_on_linux(theme, Wire::None, |config| config.network.firewall = FirewallKind::Iptables, behaviour);
}

tests::for_each_network_behaviour!(tests_of);
