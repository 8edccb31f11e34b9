//! Dual stack: where the server has a pool of IPv6 addresses, each container has some beside the others.

use std::net::Ipv6Addr;

use crate::{
    Defences, NetworkConfig,
    network::{
        Network,
        tests::world::{Container, TAG, World, eventually, on_host},
    },
};

const POOL: &str = "2001:db8:7::/64";

fn config() -> NetworkConfig {
    NetworkConfig { pool_ipv6: Some(POOL.parse().unwrap()), ..NetworkConfig::default() }
}

fn address(container: &Container) -> Ipv6Addr {
    container.lease.assignment().ipv6.unwrap().container_ip
}

fn sysctl(world: &World, link: &str, name: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/{name}");
    world.host.run(move || std::fs::read_to_string(path).unwrap().trim().to_owned())
}

#[test]
fn both_ends_have_the_ipv6_addresses_of_the_record_and_no_others() {
    on_host(config(), async |world, network, _| {
        let container = Container::new(network).await;
        let link = &container.lease.assignment().host_link;
        let pair = container.lease.assignment().ipv6.unwrap();
        let of_host = world.host.show(&["ip", "-6", "-o", "address", "show", "dev", link]);
        assert!(
            of_host.contains(&format!("inet6 {} peer {}/128 ", pair.host_ip, pair.container_ip)),
            "{of_host}"
        );
        let inside = container.namespace.show(&["ip", "-6", "-o", "address", "show", "dev", "eth0"]);
        assert!(inside.contains(&format!("inet6 {}/126 ", pair.container_ip)), "{inside}");
        // At once, not after a second's search for duplicates, and none that the kernel made up.
        for addresses in [of_host, inside] {
            assert_eq!(addresses.lines().count(), 1, "{addresses}");
            assert!(!addresses.contains("tentative"), "{addresses}");
        }
        let routes = container.namespace.show(&["ip", "-6", "route", "show", "default"]);
        assert!(routes.starts_with(&format!("default via {} dev eth0 ", pair.host_ip)), "{routes}");
    });
}

#[test]
fn a_container_reaches_the_world_by_ipv6_and_is_reached_before_it_has_said_anything() {
    on_host(config(), async |world, network, _| {
        let container = Container::new(network).await;
        container.namespace.serve(Ipv6Addr::UNSPECIFIED, 8080, "container");
        // Neither end has asked who the other is, and neither can.
        assert!(world.host.ask(address(&container), 8080).unwrap().starts_with("container"));
        let second = Container::new(network).await;
        second.namespace.serve(Ipv6Addr::UNSPECIFIED, 8080, "second");
        world.outside.show(&["ip", "-6", "route", "add", POOL, "via", &world.ipv6.host_ip.to_string()]);
        assert!(world.outside.ask(address(&second), 8080).unwrap().starts_with("second"));
        world.outside.serve(Ipv6Addr::UNSPECIFIED, 80, "world");
        assert!(second.namespace.ask(world.ipv6.container_ip, 80).unwrap().starts_with("world"));
    });
}

#[test]
fn containers_reach_neither_each_other_nor_the_host_by_ipv6() {
    on_host(config(), async |world, network, _| {
        let (server, client) = (Container::new(network).await, Container::new(network).await);
        server.namespace.serve(Ipv6Addr::UNSPECIFIED, 8080, "web");
        assert!(world.host.ask(address(&server), 8080).is_ok());
        assert!(client.namespace.ask(address(&server), 8080).is_err());
        world.host.serve(Ipv6Addr::UNSPECIFIED, 22, "host");
        let gateway = client.lease.assignment().ipv6.unwrap().host_ip;
        for address in [gateway, world.ipv6.host_ip] {
            assert!(world.host.ask(address, 22).is_ok());
            assert!(client.namespace.ask(address, 22).is_err(), "{address}");
        }
    });
}

#[test]
fn the_host_forwards_ipv6_and_still_heeds_its_routers_until_it_is_as_before() {
    on_host(config(), async |world, network, state_dir| {
        let container = Container::new(network).await;
        let link = container.lease.assignment().host_link.clone();
        assert_eq!(sysctl(world, "all", "forwarding"), "1");
        // The uplink.
        assert_eq!(sysctl(world, "eth0", "accept_ra"), "2");
        // A container is no router.
        assert_eq!(
            (sysctl(world, &link, "forwarding"), sysctl(world, &link, "accept_ra")),
            ("1".into(), "1".into())
        );
        // Another server finds it done, and a server that was killed after its note does it again.
        let start =
            async || drop(Network::start(&world.config, TAG, state_dir, &Defences::default()).await.unwrap());
        start().await;
        world.host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "0").unwrap());
        start().await;
        assert_eq!(
            (sysctl(world, "all", "forwarding"), sysctl(world, "eth0", "accept_ra")),
            ("1".into(), "2".into())
        );
        Network::cleanup(TAG, state_dir).await.unwrap();
        assert_eq!(
            (sysctl(world, "all", "forwarding"), sysctl(world, "eth0", "accept_ra")),
            ("0".into(), "1".into())
        );
        assert_eq!(sysctl(world, "default", "forwarding"), "0");
    });
}

#[test]
fn an_interface_that_forwarded_ipv6_before_forwards_it_after() {
    on_host(NetworkConfig::default(), async |world, _, state_dir| {
        world.host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/forwarding", "1").unwrap());
        let config = NetworkConfig { pool_ipv6: config().pool_ipv6, ..world.config.clone() };
        drop(Network::start(&config, TAG, state_dir, &Defences::default()).await.unwrap());
        assert_eq!(
            (sysctl(world, "all", "forwarding"), sysctl(world, "eth0", "accept_ra")),
            ("1".into(), "1".into())
        );
        Network::cleanup(TAG, state_dir).await.unwrap();
        assert_eq!(
            (sysctl(world, "all", "forwarding"), sysctl(world, "eth0", "forwarding")),
            ("0".into(), "1".into())
        );
    });
}

#[test]
fn without_an_ipv6_pool_forwarding_of_ipv6_is_left_alone() {
    on_host(NetworkConfig::default(), async |world, _, _| {
        assert_eq!(
            (sysctl(world, "all", "forwarding"), sysctl(world, "eth0", "accept_ra")),
            ("0".into(), "1".into())
        );
    });
}

#[test]
fn an_exhausted_ipv6_pool_is_an_error_that_leaks_nothing_and_ends_with_a_release() {
    let config =
        NetworkConfig { pool_ipv6: Some("fd00:7::/126".parse().unwrap()), ..NetworkConfig::default() };
    on_host(config, async |_, network, _| {
        assert_eq!(network.capacity(), 1);
        for _ in 0..2 {
            let container = Container::new(network).await;
            for requested in ["", "10.1.2.0/24"] {
                let error = network.plan(requested).await.unwrap_err().to_string();
                assert_eq!(error, "no free IPv6 subnet: all 1 of the pool fd00:7::/126 are in use");
            }
            assert_eq!(network.usage().subnets_in_use, 1);
            network.release(container.lease.assignment(), &[]).await.unwrap();
            assert!(network.plan("").await.is_err(), "its link is still there");
            drop(container);
            eventually("the addresses are freed", || network.usage().subnets_quarantined == 0).await;
        }
        drop(network.plan("").await.unwrap());
        assert!(network.plan("").await.is_ok());
    });
}

#[test]
fn a_new_server_adopts_ipv6_addresses() {
    on_host(config(), async |world, network, state_dir| {
        let (kept, lost) = (Container::new(network).await, Container::new(network).await);
        let next = Network::start(&world.config, TAG, state_dir, &Defences::default()).await.unwrap();
        let _lease = next.adopt(kept.lease.assignment(), &[]).unwrap();
        let new = next.plan("").await.unwrap();
        assert_eq!(new.assignment().ipv6, lost.lease.assignment().ipv6, "the next that is free");
    });
}

#[test]
fn an_ipv6_pool_that_cannot_be_is_refused_at_the_start() {
    on_host(NetworkConfig::default(), async |world, _, _| {
        let refusal = async |change: &dyn Fn(&mut NetworkConfig)| {
            let mut config = NetworkConfig { pool_ipv6: config().pool_ipv6, ..world.config.clone() };
            change(&mut config);
            let state_dir = tempfile::tempdir().unwrap();
            Network::start(&config, "u", state_dir.path(), &Defences::default())
                .await
                .unwrap_err()
                .to_string()
        };
        let uplink = refusal(&|config| config.pool_ipv6 = Some("2001:db8::/32".parse().unwrap())).await;
        assert!(uplink.contains("network-pool-ipv6: 2001:db8::/32 overlaps 2001:db8:ffff::"), "{uplink}");
        let small = refusal(&|config| config.mtu = Some(1279)).await;
        assert!(small.contains("network-pool-ipv6: links with an MTU of 1279"), "{small}");
        world.host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap());
        let off = refusal(&|_| ()).await;
        assert!(off.contains("network-pool-ipv6: this host switches IPv6 off"), "{off}");
    });
}
