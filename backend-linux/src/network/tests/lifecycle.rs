//! Links, elements and subnets: made, adopted, released once, and gone.

use std::{net::Ipv4Addr, os::fd::AsFd, time::Instant};

use protocol::NetIn;

use crate::{
    Defences, FirewallKind, NetworkConfig,
    network::{
        Assignment, Member, Network,
        tests::world::{Container, Namespace, TAG, World, eventually, on_host, on_host_with},
    },
};

fn links(world: &World) -> String {
    world.host.show(&["ip", "-o", "link", "show", "type", "veth"])
}

fn member(assignment: &Assignment, ports: &[NetIn]) -> Member {
    Member { assignment: assignment.clone(), ports: ports.to_vec(), outbound: Default::default() }
}

#[test]
fn both_ends_are_configured_as_recorded() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let container = Container::new(network).await;
        let assignment = container.lease.assignment();
        // The uplink has 1400.
        assert_eq!(assignment.mtu, 1400);
        let link = container.namespace.show(&["ip", "-o", "-d", "link", "show", "eth0"]);
        assert!(link.contains("mtu 1400") && link.contains("numtxqueues 1 numrxqueues 1"), "{link}");
        let host_link = world.host.show(&["ip", "-o", "-d", "link", "show", &assignment.host_link]);
        assert!(
            host_link.contains("mtu 1400") && host_link.contains("numtxqueues 1 numrxqueues 1"),
            "{host_link}"
        );
        let route = container.namespace.show(&["ip", "route"]);
        assert_eq!(
            route,
            format!(
                "default via {} dev eth0 proto boot \n{} dev eth0 proto kernel scope link src {} \n",
                assignment.host_ip, assignment.subnet, assignment.container_ip
            )
            .replace(" proto boot", "")
        );
        assert!(container.namespace.show(&["ip", "-o", "link", "show", "lo"]).contains("LOOPBACK,UP"));
        assert_eq!(network.external_ip(), std::net::IpAddr::V4(world.host_address));
    });
}

#[test]
fn a_released_subnet_is_free_when_its_link_is_gone() {
    let config = NetworkConfig { pool: "10.254.0.0/30".parse().unwrap(), ..NetworkConfig::default() };
    on_host(config, async |world, network, _| {
        for _ in 0..3 {
            let container = Container::new(network).await;
            let port = container.publish(network, 80).await;
            let Container { lease, namespace } = container;
            let ports = [NetIn { host_port: port, container_port: 80 }];
            network.release(lease.assignment(), &ports).await.unwrap();
            network.release(lease.assignment(), &ports).await.unwrap();
            assert_eq!(world.containers_in_firewall(), Vec::<String>::new());
            drop(lease);
            assert_eq!(network.usage().subnets_quarantined, 1);
            assert_eq!(network.usage().ports_in_use, 0);
            assert!(network.plan("").await.is_err());
            drop(namespace);
            eventually("subnet is freed", || network.usage().subnets_quarantined == 0).await;
            assert!(!links(world).contains("gt-"), "{}", links(world));
        }
    });
}

#[test]
fn a_link_that_somebody_keeps_alive_is_deleted() {
    let config = NetworkConfig { pool: "10.254.0.0/30".parse().unwrap(), ..NetworkConfig::default() };
    on_host(config, async |world, network, _| {
        let container = Container::new(network).await;
        network.release(container.lease.assignment(), &[]).await.unwrap();
        assert!(links(world).contains("gt-"));
        eventually("subnet is freed", || network.usage().subnets_quarantined == 0).await;
        assert!(network.plan("").await.is_ok());
        assert!(!links(world).contains("gt-"));
        assert!(!container.namespace.show(&["ip", "-o", "link"]).contains("eth0"));
    });
}

#[test]
fn a_plan_that_came_to_nothing_leaves_nothing() {
    let config = NetworkConfig { pool: "10.254.0.0/30".parse().unwrap(), ..NetworkConfig::default() };
    on_host(config, async |_, network, _| {
        let lease = network.plan("").await.unwrap();
        network.reserve_ports(lease.assignment(), &[NetIn { host_port: 80, container_port: 0 }]).unwrap();
        assert!(network.plan("").await.is_err());
        drop(lease);
        let lease = network.plan("").await.unwrap();
        network.release(lease.assignment(), &[]).await.unwrap();
        let again = network.plan("").await.unwrap();
        network.reserve_ports(again.assignment(), &[NetIn { host_port: 80, container_port: 0 }]).unwrap();
    });
}

#[test]
fn a_failed_attach_names_the_step_and_can_be_released() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let (lease, namespace) = (network.plan("").await.unwrap(), Namespace::new());
        // A socket of the wrong namespace: the pair is made, the inner half cannot be.
        let socket = world.host.route_socket();
        let error =
            network.attach(lease.assignment(), namespace.netns.as_fd(), socket.as_fd()).await.unwrap_err();
        let text = protocol::Error::failed(&error).to_string();
        let link = &lease.assignment().host_link;
        let expected =
            format!("network link {link}: set up container's end of veth: No such device (os error 19)");
        assert_eq!(text, expected);
        network.release(lease.assignment(), &[]).await.unwrap();
        drop(namespace);
        eventually("subnet is freed", || network.usage().subnets_quarantined == 0).await;
    });
}

#[test]
fn a_step_that_comes_after_the_release_leaves_nothing() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let (lease, namespace) = (network.plan("").await.unwrap(), Namespace::new());
        let ports = network.reserve_ports(lease.assignment(), &[NetIn::default()]).unwrap();
        network.release(lease.assignment(), &ports).await.unwrap();
        let socket = namespace.route_socket();
        assert!(network.attach(lease.assignment(), namespace.netns.as_fd(), socket.as_fd()).await.is_err());
        assert!(network.open(lease.assignment(), "", &ports, &[]).await.is_err());
        assert!(!links(world).contains("gt-") && world.containers_in_firewall().is_empty());
    });
}

#[test]
fn a_dropped_lease_leaves_a_running_container_alone() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let Container { lease, namespace } = Container::new(network).await;
        let assignment = lease.assignment().clone();
        drop(lease);
        assert_eq!(network.usage().subnets_in_use, 1);
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        assert!(namespace.ask(world.outside_address, 80).is_ok());
        assert!(network.adopt(&Assignment { host_link: "another".into(), ..assignment }, &[]).is_err());
    });
}

#[test]
fn a_new_server_adopts_what_records_own_and_sweeps_the_rest() {
    on_host(NetworkConfig::default(), async |world, network, state_dir| {
        let (kept, lost) = (Container::new(network).await, Container::new(network).await);
        kept.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "kept");
        let port = kept.publish(network, 8080).await;
        lost.publish(network, 8080).await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");

        let next = Network::start(&world.config, TAG, state_dir, &Defences::default()).await.unwrap();
        // Nothing is interrupted before the records are read.
        assert!(world.outside.ask(world.host_address, port).is_ok());
        let ports = vec![NetIn { host_port: port, container_port: 8080 }];
        let lease = next.adopt(kept.lease.assignment(), &ports).unwrap();
        let lost_link = lost.lease.assignment().host_link.clone();
        // As if somebody had cleared it.
        match world.config.firewall {
            FirewallKind::Iptables => world.host.show(&["iptables", "-t", "nat", "-F", "garden-t-ports"]),
            _ => world.host.show(&["nft", "flush", "set", "ip", "garden-t", "sources"]),
        };
        let swept = next.sweep(vec![member(lease.assignment(), &ports)]).await.unwrap();
        assert_eq!(swept, std::slice::from_ref(&lost_link));
        assert!(!links(world).contains(&lost_link) && !world.firewall().contains(&lost_link));
        assert!(world.outside.ask(world.host_address, port).is_ok());
        assert!(kept.namespace.ask(world.outside_address, 80).is_ok());

        let other = Assignment { host_link: "another".into(), ..kept.lease.assignment().clone() };
        assert!(next.adopt(&other, &[]).is_err());
        assert!(next.reserve_ports(lost.lease.assignment(), &ports).is_err());
        next.release(lease.assignment(), &ports).await.unwrap();
        assert!(world.outside.ask(world.host_address, port).is_err());
    });
}

#[test]
fn a_table_of_another_shape_is_replaced() {
    let config = NetworkConfig { firewall: FirewallKind::Nftables, ..NetworkConfig::default() };
    on_host_with(config, async |world, network, state_dir| {
        let container = Container::new(network).await;
        for command in [
            "delete table ip garden-t",
            "add table ip garden-t",
            "add set ip garden-t ports { type ipv4_addr ; }",
            "add chain ip garden-t forward { type filter hook input priority 7 ; }",
        ] {
            world.host.show(&["nft", command]);
        }
        let next = Network::start(&world.config, TAG, state_dir, &Defences::default()).await.unwrap();
        let lease = next.adopt(container.lease.assignment(), &[]).unwrap();
        next.sweep(vec![member(lease.assignment(), &[])]).await.unwrap();
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        assert!(container.namespace.ask(world.outside_address, 80).is_ok());
    });
}

#[test]
fn the_fixed_chains_read_as_documented() {
    let config = NetworkConfig { firewall: FirewallKind::Nftables, ..NetworkConfig::default() };
    on_host_with(config, async |world, _, _| {
        assert_eq!(world.firewall(), include_str!("ruleset.nft"));
    });
}

#[test]
fn forwarding_is_turned_on_and_off_again() {
    on_host(NetworkConfig::default(), async |world, _, state_dir| {
        let read = || world.host.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
        assert_eq!(read(), "1\n");
        Network::cleanup(TAG, state_dir).await.unwrap();
        assert_eq!(read(), "0\n");
    });
}

#[test]
fn a_hundred_containers_with_ports_and_rules_sixteen_at_once_leave_nothing() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let rule = |last| {
            let start = Some(Ipv4Addr::new(192, 0, 2, last).into());
            let networks = vec![protocol::IpRange { start, end: None }];
            protocol::NetOutRule { networks, ..Default::default() }
        };
        let rules: Vec<_> = (0..10).map(rule).collect();
        let life = async || {
            for _ in 0..7 {
                let container = Container::new(network).await;
                let port = container.publish(network, 80).await;
                let ports = [NetIn { host_port: port, container_port: 80 }];
                let assignment = container.lease.assignment();
                network.open(assignment, "handle", &[], &rules).await.unwrap();
                network.release(assignment, &ports).await.unwrap();
            }
        };
        futures_util::future::join_all((0..16).map(|_| life())).await;
        assert_eq!((network.usage().subnets_in_use, network.usage().ports_in_use), (0, 0));
        eventually("all subnets are freed", || network.usage().subnets_quarantined == 0).await;
        assert!(!links(world).contains("gt-") && world.containers_in_firewall().is_empty());
    });
}

#[test]
fn a_hundred_containers_in_turn_are_timed() {
    on_host(NetworkConfig::default(), async |_, network, _| {
        let (mut attach, mut open, mut release) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..100 {
            let (lease, namespace) = (network.plan("").await.unwrap(), Namespace::new());
            let socket = namespace.route_socket();
            let start = Instant::now();
            network.attach(lease.assignment(), namespace.netns.as_fd(), socket.as_fd()).await.unwrap();
            attach.push(start.elapsed());
            let ports = [NetIn::default(), NetIn::default()];
            let ports = network.reserve_ports(lease.assignment(), &ports).unwrap();
            let start = Instant::now();
            network.open(lease.assignment(), "", &ports, &[]).await.unwrap();
            open.push(start.elapsed());
            let start = Instant::now();
            network.release(lease.assignment(), &ports).await.unwrap();
            release.push(start.elapsed());
        }
        for (what, times) in
            [("attach", &mut attach), ("open two ports", &mut open), ("release", &mut release)]
        {
            times.sort();
            println!("{what}: p50 {:?}, p95 {:?}", times[50], times[95]);
        }
        eventually("all subnets are freed", || network.usage().subnets_quarantined == 0).await;
    });
}
