//! Firewalls beside each other: of another kind, of another server, of other people, and what a crash left of ours.

use std::{net::Ipv4Addr, path::Path};

use protocol::{NetIn, NetOutRule};

use crate::{
    Defences, FirewallKind, NetworkConfig,
    network::{
        Network, member,
        tests::world::{Container, TAG, World, on_host},
    },
};

const OTHER_TAG: &str = "u";

/// Rules of others in every table that ours are in, and in one where they are not.
const FOREIGN: &[&str] = &[
    "iptables -t raw -A PREROUTING -s 198.51.100.66 -j DROP",
    "iptables -t mangle -A FORWARD -s 198.51.100.66 -j DROP",
    "iptables -t nat -N SOMEBODY",
    "iptables -t nat -A POSTROUTING -j SOMEBODY",
    "iptables -t nat -A SOMEBODY -s 198.51.100.66 -j MASQUERADE",
    "iptables -t nat -A PREROUTING -p tcp --dport 7 -j DNAT --to-destination 198.51.100.66:7",
    "iptables -A INPUT -s 198.51.100.66 -j DROP",
    "iptables -A FORWARD -d 198.51.100.9 -j REJECT",
    "iptables -A FORWARD -s 198.51.100.66 -m comment --comment garden-centre -j ACCEPT",
    "iptables -P FORWARD DROP",
    "ip6tables -A INPUT -s 2001:db8::66 -j DROP",
];

/// All that is not of a server with the tag, without the counters.
fn not_ours(world: &World, tag: &str) -> Vec<String> {
    let saved = world.host.show(&["iptables-save"]) + &world.host.show(&["ip6tables-save"]);
    let (owner, links) = (format!("garden-{tag}"), format!("g{tag}-"));
    let kept = saved.lines().filter(|line| !line.starts_with('#'));
    let kept = kept.filter(|line| !line.contains(&owner) && !line.contains(&links));
    kept.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect()
}

fn run_all(world: &World, commands: &[&str]) {
    for command in commands {
        world.host.show(&command.split(' ').collect::<Vec<_>>());
    }
}

async fn start(config: &NetworkConfig, tag: &str, state: &Path) -> Network {
    Network::start(config, tag, state, &Defences::default()).await.unwrap()
}

async fn with_port_and_rule(network: &Network) -> (Container, u16) {
    let container = Container::new(network).await;
    container.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
    let port = container.publish(network, 8080).await;
    network.open(container.lease.assignment(), "handle", &[], &[NetOutRule::default()]).await.unwrap();
    (container, port)
}

#[test]
fn other_peoples_rules_are_the_same_before_and_after_everything() {
    on_host(NetworkConfig::default(), async |world, network, state| {
        let nothing = start(&world.config, OTHER_TAG, state).await;
        drop(nothing);
        Network::cleanup(OTHER_TAG, state).await.unwrap();
        run_all(world, FOREIGN);
        world.outside.show(&["ip", "address", "add", "198.51.100.9/32", "dev", "lo"]);
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        let before = not_ours(world, TAG);
        assert!(before.len() > FOREIGN.len(), "{before:?}");

        let next = start(&world.config, TAG, state).await;
        assert_eq!(not_ours(world, TAG), before, "after a start");
        next.sweep(Vec::new()).await.unwrap();
        let (container, port) = with_port_and_rule(&next).await;
        assert_eq!(not_ours(world, TAG), before, "after a create");
        assert!(container.namespace.ask(world.outside_address, 80).is_ok());
        assert!(container.namespace.ask(Ipv4Addr::new(198, 51, 100, 9), 80).is_err(), "a foreign rule");
        assert!(world.outside.ask(world.host_address, port).is_ok());
        let ports = [NetIn { host_port: port, container_port: 8080 }];
        next.release(container.lease.assignment(), &ports).await.unwrap();
        assert_eq!(not_ours(world, TAG), before, "after a destroy");
        drop(start(&world.config, TAG, state).await);
        assert_eq!(not_ours(world, TAG), before, "after another start");
        Network::cleanup(TAG, state).await.unwrap();
        assert_eq!(not_ours(world, TAG), before, "after a clean-up");
        run_all(world, &["iptables -F FORWARD", "iptables -P FORWARD ACCEPT"]);
        drop((container, network));
    });
}

#[test]
fn cleanup_removes_what_a_crash_left_and_nothing_of_another_server() {
    on_host(NetworkConfig::default(), async |world, network, state| {
        let pool = "10.253.0.0/24".parse().unwrap();
        let other =
            NetworkConfig { pool, port_pool_start: 40000, port_pool_size: 100, ..world.config.clone() };
        let other = start(&other, OTHER_TAG, state).await;
        let (theirs, their_port) = with_port_and_rule(&other).await;
        let ours = with_port_and_rule(network).await;
        if world.config.firewall == FirewallKind::Iptables {
            // A create that got no further.
            run_all(world, &["iptables -N gt-deadbeef", "iptables -A gt-deadbeef -j RETURN"]);
        }
        Network::cleanup(TAG, state).await.unwrap();
        let left = world.firewall();
        assert!(!left.contains("garden-t") && !left.contains("gt-"), "{left}");
        assert!(left.contains("garden-u") && left.contains(&theirs.lease.assignment().host_link), "{left}");
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        assert!(theirs.namespace.ask(world.outside_address, 80).is_ok());
        assert!(world.outside.ask(world.host_address, their_port).is_ok());
        Network::cleanup(OTHER_TAG, state).await.unwrap();
        drop(ours);
    });
}

#[test]
fn a_server_with_another_kind_of_firewall_takes_over_and_leaves_nothing_of_the_first() {
    on_host(NetworkConfig::default(), async |world, network, state| {
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        let (kept, port) = with_port_and_rule(network).await;
        let other = match world.config.firewall {
            FirewallKind::Iptables => FirewallKind::Nftables,
            _ => FirewallKind::Iptables,
        };
        let next = start(&NetworkConfig { firewall: other, ..world.config.clone() }, TAG, state).await;
        let ports = [NetIn { host_port: port, container_port: 8080 }];
        let lease = next.adopt(kept.lease.assignment(), &ports).unwrap();
        let owned = member(lease.assignment(), "handle", &ports, &[NetOutRule::default()]);
        next.sweep(vec![owned]).await.unwrap();
        let all = world.host.show(&["nft", "list", "ruleset"]);
        let (ours, first) = ("chain garden-t-routed", "table ip garden-t {");
        let (ours, first) = if other == FirewallKind::Iptables { (ours, first) } else { (first, ours) };
        assert!(all.contains(ours) && !all.contains(first), "{all}");
        assert!(kept.namespace.ask(world.outside_address, 80).is_ok());
        assert!(world.outside.ask(world.host_address, port).is_ok());
        let stranger = Container::new(&next).await;
        assert!(stranger.namespace.ask(kept.address(), 8080).is_err());
    });
}

#[test]
fn servers_with_different_kinds_of_firewalls_share_a_host() {
    on_host(NetworkConfig::default(), async |world, network, state| {
        let firewall = match world.config.firewall {
            FirewallKind::Iptables => FirewallKind::Nftables,
            _ => FirewallKind::Iptables,
        };
        let pool = "10.253.0.0/24".parse().unwrap();
        let config = NetworkConfig { pool, port_pool_start: 40000, firewall, ..world.config.clone() };
        let other = start(&config, OTHER_TAG, state).await;
        other.sweep(Vec::new()).await.unwrap();
        network.sweep(Vec::new()).await.unwrap();
        let (one, one_port) = with_port_and_rule(network).await;
        let (two, two_port) = with_port_and_rule(&other).await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        for container in [&one, &two] {
            assert!(container.namespace.ask(world.outside_address, 80).is_ok());
        }
        for port in [one_port, two_port] {
            assert!(world.outside.ask(world.host_address, port).is_ok());
        }
        // Their containers are apart, but for published ports.
        for (from, to, port) in [(&one, &two, two_port), (&two, &one, one_port)] {
            to.namespace.serve(Ipv4Addr::UNSPECIFIED, 9090, "inside");
            let refused = from.namespace.ask(to.address(), 9090).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable, "{refused}");
            assert!(from.namespace.ask(world.host_address, port).is_ok());
        }
        Network::cleanup(OTHER_TAG, state).await.unwrap();
        // The other one needs it still.
        let forwards = world.host.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
        assert_eq!(forwards, "1\n");
        assert!(world.outside.ask(world.host_address, one_port).is_ok());
    });
}
