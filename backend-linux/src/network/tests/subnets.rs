//! Subnets that a spec names, shared ones among them.

use std::{io::ErrorKind, net::Ipv4Addr};

use crate::{
    NetworkConfig,
    network::{
        Network, PoolError,
        tests::world::{Container, TAG, eventually, on_host},
    },
};

async fn refusal(network: &Network, requested: &str) -> String {
    protocol::Error::failed(&network.plan(requested).await.unwrap_err()).to_string()
}

#[test]
fn containers_of_a_shared_subnet_each_have_a_link_of_their_own() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let first = Container::at(network, "10.1.2.0/24").await;
        let second = Container::at(network, "10.1.2.7/24").await;
        assert_eq!(first.address(), Ipv4Addr::new(10, 1, 2, 2));
        assert_eq!(second.address(), Ipv4Addr::new(10, 1, 2, 7));
        for container in [&first, &second] {
            let address = container.namespace.show(&["ip", "-4", "-o", "address", "show", "eth0"]);
            assert!(address.contains(&format!("inet {}/24 ", container.address())), "{address}");
            let routes = container.namespace.show(&["ip", "route"]);
            let expected = "default via 10.1.2.1 dev eth0 \n10.1.2.1 dev eth0 scope link \n";
            assert_eq!(routes.replace(" proto boot", ""), expected);
            let link = &container.lease.assignment().host_link;
            let address = world.host.show(&["ip", "-4", "-o", "address", "show", link]);
            assert!(
                address.contains(&format!("inet 10.1.2.1 peer {}/32 ", container.address())),
                "{address}"
            );
            let route = world.host.show(&["ip", "route", "get", &container.address().to_string()]);
            assert!(route.contains(&format!("dev {link} src 10.1.2.1")), "{route}");
        }
        assert!(!world.host.show(&["ip", "-o", "link", "show", "type", "bridge"]).contains("master"));
    });
}

#[test]
fn containers_of_a_shared_subnet_reach_the_world_and_are_reached_by_their_ports() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let first = Container::at(network, "10.1.2.0/24").await;
        let second = Container::at(network, "10.1.2.0/24").await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        for (container, name) in [(&first, "first"), (&second, "second")] {
            assert!(container.namespace.ask(world.outside_address, 80).is_ok());
            container.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, name);
            assert!(world.host.ask(container.address(), 8080).unwrap().starts_with(name));
            let port = container.publish(network, 8080).await;
            assert!(world.outside.ask(world.host_address, port).unwrap().starts_with(name));
            assert!(world.host.ask(Ipv4Addr::LOCALHOST, port).unwrap().starts_with(name));
        }
    });
}

#[test]
fn containers_of_a_shared_subnet_reach_each_other_and_nobody_else_reaches_them() {
    on_host(NetworkConfig::default(), async |_, network, _| {
        let first = Container::at(network, "10.1.2.0/24").await;
        let second = Container::at(network, "10.1.2.0/24").await;
        let apart = [Container::at(network, "10.1.3.0/24").await, Container::new(network).await];
        first.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "first");
        assert_eq!(
            second.namespace.ask(first.address(), 8080).unwrap(),
            format!("first to {}", second.address())
        );
        apart[0].namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "apart");
        for (client, server) in [(&apart[0], &first), (&apart[1], &first), (&first, &apart[0])] {
            let refused = client.namespace.ask(server.address(), 8080).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{refused}");
        }
    });
}

#[test]
fn a_subnet_that_the_host_itself_is_in_cannot_be_named() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        // The uplink's, a part of it, and one that it is a part of.
        for wrong in ["203.0.113.0/30", "203.0.113.2", "203.0.0.0/16"] {
            let text = refusal(network, wrong).await;
            assert!(text.contains("overlaps 203.0.113.") && text.starts_with("network: "), "{text}");
        }
        // One that the host came into since the server started, and that of another server's container.
        assert!(network.plan("10.9.0.0/24").await.is_ok());
        world.host.show(&["ip", "address", "add", "10.9.0.1/24", "dev", "lo"]);
        world.host.show(&["ip", "address", "add", "10.8.0.1", "peer", "10.8.0.2/32", "dev", "lo"]);
        for wrong in ["10.9.0.0/16", "10.9.0.128/25", "10.9.0.2", "10.8.0.2", "10.8.0.0/30"] {
            let text = refusal(network, wrong).await;
            assert!(text.contains("a network that the host itself is in"), "{wrong}: {text}");
        }
        let config = NetworkConfig { pool: "10.9.0.64/26".parse().unwrap(), ..world.config.clone() };
        let defences = crate::Defences::default();
        let state_dir = tempfile::tempdir().unwrap();
        let error = Network::start(&config, "u", state_dir.path(), &defences).await.unwrap_err().to_string();
        assert!(error.starts_with("network-pool: 10.9.0.64/26 overlaps 10.9.0.1/24"), "{error}");
    });
}

#[test]
fn a_subnet_of_the_pool_cannot_be_named_nor_one_that_overlaps_another() {
    on_host(NetworkConfig::default(), async |_, network, _| {
        let _first = network.plan("10.1.2.0/24").await.unwrap();
        for (wrong, reason) in [
            ("10.254.0.0/30", "overlaps the pool"),
            ("10.254.3.6", "overlaps the pool"),
            ("10.1.0.0/16", "overlaps 10.1.2.0/24, which containers have"),
            ("10.1.2.6", "overlaps 10.1.2.0/24, which containers have"),
            ("10.1.2.2/24", "is in use"),
        ] {
            let text = refusal(network, wrong).await;
            assert!(text.contains(reason), "{wrong}: {text}");
        }
        assert_eq!(network.usage().subnets_in_use, 1);
    });
}

#[test]
fn a_named_address_is_free_again_when_its_link_is_gone_and_a_subnet_after_its_last_one() {
    on_host(NetworkConfig::default(), async |_, network, _| {
        let first = Container::at(network, "10.1.2.7/24").await;
        let second = Container::at(network, "10.1.2.0/24").await;
        network.release(first.lease.assignment(), &[]).await.unwrap();
        let leaving = network.plan("10.1.2.7/24").await.unwrap_err();
        assert!(matches!(leaving, crate::network::Error::Pool(PoolError::Leaving { .. })), "{leaving}");
        drop(first);
        eventually("the address is freed", || network.usage().subnets_quarantined == 0).await;
        drop(network.plan("10.1.2.7/24").await.unwrap());
        assert!(network.plan("10.1.2.8/30").await.is_err());
        network.release(second.lease.assignment(), &[]).await.unwrap();
        drop(second);
        eventually("the subnet is freed", || network.usage().subnets_quarantined == 0).await;
        assert!(network.plan("10.1.2.8/30").await.is_ok());
    });
}

#[test]
fn a_new_server_adopts_containers_of_shared_subnets() {
    on_host(NetworkConfig::default(), async |world, network, state_dir| {
        let first = Container::at(network, "10.1.2.0/24").await;
        let second = Container::at(network, "10.1.2.0/24").await;
        let next = Network::start(&world.config, TAG, state_dir, &Default::default()).await.unwrap();
        let _kept: Vec<_> =
            [&first, &second].map(|container| next.adopt(container.lease.assignment(), &[]).unwrap()).into();
        let third = next.plan("10.1.2.0/24").await.unwrap();
        assert_eq!(third.assignment().container_ip, Ipv4Addr::new(10, 1, 2, 4));
        assert!(next.plan("10.1.2.0/25").await.is_err());
    });
}
