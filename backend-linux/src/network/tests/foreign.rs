//! Other people's rules: ours get along with them, and they keep their effect.

use std::net::Ipv4Addr;

use crate::{
    Defences, FirewallKind, NetworkConfig,
    network::{
        Network,
        tests::world::{Container, TAG, World, on_host},
    },
};

/// The chain of ours in the host's own table that lets containers through.
fn passage(world: &World) -> &'static str {
    match world.config.firewall {
        FirewallKind::Iptables => "garden-t-passage",
        _ => "garden-t-forward",
    }
}

/// The host's own rules, without counters, our chains and the jumps to them.
fn foreign_rules(world: &World) -> String {
    let table = world.host.show(&["nft", "--stateless", "list", "table", "ip", "filter"]);
    let blocks = table.split("\n\n").filter(|block| !block.contains("chain garden-t-"));
    let lines = blocks.flat_map(str::lines).filter(|line| !line.contains("jump garden-t-"));
    lines.filter(|line| *line != "}" && !line.starts_with("table ")).map(|line| format!("{line}\n")).collect()
}

fn run_all(world: &World, commands: &[&str]) {
    for command in commands {
        world.host.show(&command.split(' ').collect::<Vec<_>>());
    }
}

/// What Docker sets up, a rule of its own among it, and an operator's where Docker leaves room for it.
const DOCKER: &[&str] = &[
    "iptables -P FORWARD DROP",
    "iptables -N DOCKER-USER",
    "iptables -A FORWARD -j DOCKER-USER",
    "iptables -A FORWARD -d 198.51.100.10 -j REJECT",
    "iptables -A FORWARD -i docker0 -j ACCEPT",
    "iptables -A DOCKER-USER -d 198.51.100.9 -j REJECT",
    "iptables -A DOCKER-USER -j RETURN",
];

/// A host that lets nothing through that it does not know.
const CLOSED: &[&str] = &[
    "iptables -N OPERATOR",
    "iptables -A FORWARD -j OPERATOR",
    "iptables -A OPERATOR -d 198.51.100.9 -j REJECT",
    "iptables -A FORWARD -d 198.51.100.10 -j REJECT",
    "iptables -A FORWARD -m comment --comment all -j REJECT",
];

fn containers_get_through(foreign: &'static [&'static str]) {
    on_host(NetworkConfig::default(), async move |world, network, state| {
        for address in ["198.51.100.9/32", "198.51.100.10/32"] {
            world.outside.show(&["ip", "address", "add", address, "dev", "lo"]);
        }
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        run_all(world, foreign);
        let before = foreign_rules(world);
        let container = Container::new(network).await;
        assert!(
            container.namespace.ask(world.outside_address, 80).is_err(),
            "the foreign chain drops nothing"
        );
        // Twice: what the first start did must not be done again.
        for _ in 0..2 {
            Network::start(&world.config, TAG, state, &Defences::default()).await.unwrap();
        }
        assert!(container.namespace.ask(world.outside_address, 80).is_ok());
        container.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        let port = container.publish(network, 8080).await;
        assert!(world.outside.ask(world.host_address, port).is_ok());
        for last in [9, 10] {
            let refused = Ipv4Addr::new(198, 51, 100, last);
            let answer = container.namespace.ask(refused, 80);
            assert!(answer.is_err(), "somebody's rule for {refused} has no effect any more");
        }
        let (jump, tag) = match world.config.firewall {
            FirewallKind::Iptables => ("-j garden-t-passage", "--comment garden-t "),
            _ => ("jump garden-t-forward", "comment \"garden-t\""),
        };
        let ours = world.firewall();
        let jumps: Vec<&str> = ours.lines().filter(|line| line.contains(jump)).collect();
        assert!(jumps.len() == 1 && jumps[0].contains(tag), "{ours}");
        assert_eq!(foreign_rules(world), before);
        // The tool that the operator uses can read them still.
        assert!(world.host.show(&["iptables", "-S", "FORWARD"]).contains("-A FORWARD"));
        Network::cleanup(TAG, state).await.unwrap();
        assert_eq!(foreign_rules(world), before);
        assert!(!world.host.show(&["nft", "list", "ruleset"]).contains("garden"));
        run_all(world, &["nft delete table ip filter"]);
    });
}

#[test]
fn containers_get_through_dockers_forward_chain_and_operators_rules_keep_their_effect() {
    containers_get_through(DOCKER);
}

#[test]
fn containers_get_through_a_chain_that_ends_with_a_reject_and_operators_rules_keep_their_effect() {
    containers_get_through(CLOSED);
}

#[test]
fn dockers_chains_in_front_of_ours_let_nothing_through_that_ours_refuse() {
    on_host(NetworkConfig::default(), async |world, network, state| {
        run_all(world, DOCKER);
        let (server, client) = (Container::new(network).await, Container::new(network).await);
        server.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        drop(Network::start(&world.config, TAG, state, &Defences::default()).await.unwrap());
        // As Docker does when it is started again.
        run_all(world, &["iptables -D FORWARD -j DOCKER-USER", "iptables -I FORWARD -j DOCKER-USER"]);
        let refused = client.namespace.ask(server.address(), 8080).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable, "{refused}");
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        assert!(client.namespace.ask(world.outside_address, 80).is_ok());
        Network::cleanup(TAG, state).await.unwrap();
        run_all(world, &["nft delete table ip filter"]);
    });
}

#[test]
fn a_chain_that_logs_and_drops_whatever_is_left_lets_containers_through() {
    on_host(NetworkConfig::default(), async |world, network, state| {
        if world.config.firewall == FirewallKind::Iptables {
            // That knows nothing of nft's own tables.
            return;
        }
        run_all(world, &["nft add table inet operator"]);
        let chain = "{ type filter hook forward priority 0; policy accept; }";
        world.host.show(&["nft", "add", "chain", "inet", "operator", "f", chain]);
        world.host.show(&[
            "nft",
            "add",
            "rule",
            "inet",
            "operator",
            "f",
            "log",
            "prefix",
            "\"gone \"",
            "drop",
        ]);
        let container = Container::new(network).await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        drop(Network::start(&world.config, TAG, state, &Defences::default()).await.unwrap());
        let answer = container.namespace.ask(world.outside_address, 80);
        assert!(
            answer.is_ok(),
            "{answer:?}: {}",
            world.host.show(&["nft", "list", "table", "inet", "operator"])
        );
        run_all(world, &["nft delete table inet operator"]);
    });
}

#[test]
fn a_jump_goes_when_the_chain_drops_no_more() {
    on_host(NetworkConfig::default(), async |world, _, state| {
        let start = async || {
            Network::start(&world.config, TAG, state, &Defences::default()).await.unwrap();
        };
        run_all(world, DOCKER);
        start().await;
        let jump = format!("jump {}", passage(world));
        assert!(world.host.show(&["nft", "list", "table", "ip", "filter"]).contains(&jump));
        run_all(world, &["iptables -P FORWARD ACCEPT"]);
        start().await;
        let table = world.host.show(&["nft", "list", "table", "ip", "filter"]);
        assert!(!table.contains(&jump) && table.contains("DOCKER-USER"), "{table}");
        run_all(world, &["nft delete table ip filter"]);
    });
}
