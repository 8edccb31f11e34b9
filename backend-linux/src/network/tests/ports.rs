//! Published ports: reached from everywhere, and only they.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    NetworkConfig,
    network::tests::world::{Container, on_host},
};

#[test]
fn a_published_port_is_reached_from_the_hosts_loopback_its_address_and_the_world() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let container = Container::new(network).await;
        container.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        let port = container.publish(network, 8080).await;

        let gateway = container.lease.assignment().host_ip;
        assert_eq!(world.host.ask(Ipv4Addr::LOCALHOST, port).unwrap(), format!("web to {gateway}"));
        assert_eq!(
            world.host.ask(world.host_address, port).unwrap(),
            format!("web to {}", world.host_address)
        );
        // The container sees who it is.
        assert_eq!(
            world.outside.ask(world.host_address, port).unwrap(),
            format!("web to {}", world.outside_address)
        );

        let ports = [protocol::NetIn { host_port: port, container_port: 8080 }];
        network.close_ports(container.lease.assignment(), &ports).await.unwrap();
        network.close_ports(container.lease.assignment(), &ports).await.unwrap();
        assert!(world.host.ask(Ipv4Addr::LOCALHOST, port).is_err());
        assert!(world.outside.ask(world.host_address, port).is_err());
        assert_eq!(network.usage().ports_in_use, 0);
    });
}

#[test]
fn published_ports_work_where_the_kernel_filters_sources_strictly() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        world.host.set_sysctl("conf/all/rp_filter", "1");
        let container = Container::new(network).await;
        container.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        let port = container.publish(network, 8080).await;
        assert!(world.host.ask(Ipv4Addr::LOCALHOST, port).is_ok());
        assert!(world.outside.ask(world.host_address, port).is_ok());
    });
}

#[test]
fn a_container_reaches_its_own_and_anothers_published_port_through_the_hosts_address() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let (server, client) = (Container::new(network).await, Container::new(network).await);
        server.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        let port = server.publish(network, 8080).await;
        assert_eq!(
            client.namespace.ask(world.host_address, port).unwrap(),
            format!("web to {}", client.address())
        );
        let gateway = server.lease.assignment().host_ip;
        assert_eq!(server.namespace.ask(world.host_address, port).unwrap(), format!("web to {gateway}"));
    });
}

#[test]
fn a_port_of_the_host_itself_is_not_shadowed_by_one_elsewhere() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let container = Container::new(network).await;
        let port = container.publish(network, 8080).await;
        // The same port number at another host is that host's.
        world.outside.serve(Ipv4Addr::UNSPECIFIED, port, "outside");
        assert!(world.host.ask(world.outside_address, port).unwrap().starts_with("outside"));
        assert!(container.namespace.ask(world.outside_address, port).unwrap().starts_with("outside"));
    });
}

#[test]
fn a_port_on_which_the_host_itself_listens_is_refused_by_number_and_passed_over_by_the_pool() {
    let config = NetworkConfig { port_pool_start: 7000, port_pool_size: 4, ..NetworkConfig::default() };
    on_host(config, async |world, network, _| {
        let container = Container::new(network).await;
        world.host.serve(Ipv4Addr::LOCALHOST, 7000, "host");
        world.host.serve(Ipv6Addr::LOCALHOST, 7001, "host");
        world.host.serve(Ipv4Addr::UNSPECIFIED, 80, "host");
        for port in [7000, 7001, 80] {
            let wanted = [protocol::NetIn { host_port: port, container_port: 80 }];
            let refused = network.reserve_ports(container.lease.assignment(), &wanted).unwrap_err();
            assert_eq!(refused.to_string(), format!("host_port: port {port} is in use on the host"));
        }
        assert_eq!(container.publish(network, 80).await, 7002);
        // What listens inside a container does not count, nor does a connection that was closed.
        container.namespace.serve(Ipv4Addr::UNSPECIFIED, 81, "container");
        let wanted = [protocol::NetIn { host_port: 81, container_port: 0 }];
        assert!(network.reserve_ports(container.lease.assignment(), &wanted).is_ok());
        assert_eq!(container.publish(network, 80).await, 7003);
        let wanted = [protocol::NetIn::default()];
        let exhausted = network.reserve_ports(container.lease.assignment(), &wanted).unwrap_err().to_string();
        assert!(exhausted.starts_with("no free host port: all 4 of the pool, from 7000 on"), "{exhausted}");
        assert_eq!(network.usage().ports_in_use, 2);
    });
}
