//! Who reaches whom.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::OwnedFd,
};

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType};

use crate::{
    Defences, FirewallKind, NetworkConfig,
    network::{
        Network,
        tests::world::{Container, Namespace, PATIENCE, TAG, on_host},
    },
};

/// A UDP socket in a namespace.
fn udp(namespace: &Namespace, address: Ipv4Addr, port: u16) -> UdpSocket {
    namespace.run(move || {
        let socket = UdpSocket::bind(SocketAddr::new(address.into(), port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

fn ip(namespace: &Namespace, command: &str) {
    let words: Vec<&str> = std::iter::once("ip").chain(command.split(' ')).collect();
    namespace.show(&words);
}

#[test]
fn a_container_reaches_the_world_under_the_hosts_address() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let container = Container::new(network).await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        assert_eq!(
            container.namespace.ask(world.outside_address, 80).unwrap(),
            format!("world to {}", world.host_address)
        );
    });
}

#[test]
fn containers_do_not_reach_each_other() {
    on_host(NetworkConfig::default(), async |_, network, _| {
        let (server, client) = (Container::new(network).await, Container::new(network).await);
        server.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        let refused = client.namespace.ask(server.address(), 8080).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{refused}");
        // Nor is an address of the pool that nobody has looked for in the world.
        let refused = client.namespace.ask(Ipv4Addr::new(10, 254, 3, 254), 8080).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{refused}");
    });
}

#[test]
fn containers_with_subnets_outside_of_the_pool_are_no_less_apart_and_connected() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let server = Container::at(network, "198.18.0.0/30").await;
        let client = Container::at(network, "198.18.0.6").await;
        server.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        let refused = client.namespace.ask(server.address(), 8080).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{refused}");
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        assert!(client.namespace.ask(world.outside_address, 80).is_ok());
        let port = server.publish(network, 8080).await;
        assert!(world.outside.ask(world.host_address, port).is_ok());
    });
}

#[test]
fn the_host_reaches_a_container_but_not_the_other_way_round() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let container = Container::new(network).await;
        container.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "container");
        assert!(world.host.ask(container.address(), 8080).is_ok());
        world.host.serve(Ipv4Addr::UNSPECIFIED, 22, "host");
        for address in [world.host_address, container.lease.assignment().host_ip] {
            let refused = container.namespace.ask(address, 22).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{address}: {refused}");
        }
    });
}

#[test]
fn a_container_reaches_the_host_where_that_is_allowed() {
    let config = NetworkConfig { allow_host_access: true, ..NetworkConfig::default() };
    on_host(config, async |world, network, _| {
        let container = Container::new(network).await;
        world.host.serve(Ipv4Addr::UNSPECIFIED, 22, "host");
        assert!(container.namespace.ask(world.host_address, 22).is_ok());
    });
}

#[test]
fn packets_with_a_source_address_that_is_not_the_containers_are_dropped() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let (liar, other) = (Container::new(network).await, Container::new(network).await);
        let server = udp(&world.outside, world.outside_address, 53);
        let to = SocketAddr::new(world.outside_address.into(), 53);
        for address in [other.address(), Ipv4Addr::new(198, 51, 100, 7)] {
            ip(&liar.namespace, &format!("address add {address}/32 dev eth0"));
            udp(&liar.namespace, address, 0).send_to(b"spoofed", to).unwrap();
        }
        udp(&liar.namespace, liar.address(), 0).send_to(b"honest", to).unwrap();
        assert_eq!(receive(&server), "honest");
    });
}

/// Sends a UDP datagram with an IP header of its own from the namespace.
fn send_as(namespace: &Namespace, source: Ipv4Addr, to: SocketAddrV4, text: &'static str) {
    const IP_HEADER: [u8; 12] = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    let [high, low] = (8 + text.len() as u16).to_be_bytes();
    let [port_high, port_low] = to.port().to_be_bytes();
    let mut packet = IP_HEADER.to_vec();
    packet.extend(source.octets());
    packet.extend(to.ip().octets());
    packet.extend([0x80, 0, port_high, port_low, high, low, 0, 0]);
    packet.extend(text.as_bytes());
    namespace.run(move || {
        let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(net::ipproto::RAW)).unwrap();
        net::sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::from(to)).unwrap();
    });
}

#[test]
fn of_all_source_addresses_the_containers_own_alone_gets_in() {
    let config = NetworkConfig { allow_host_access: true, ..NetworkConfig::default() };
    on_host(config, async |world, network, _| {
        let (liar, other) = (Container::new(network).await, Container::new(network).await);
        let (sharer, neighbour) =
            (Container::at(network, "198.18.0.0/24").await, Container::at(network, "198.18.0.0/24").await);
        for (container, beside) in [(&liar, &other), (&sharer, &neighbour)] {
            let assignment = container.lease.assignment();
            let subnet = assignment.subnet.network();
            let lies = [
                beside.address(),
                assignment.host_ip,
                subnet.network(),
                subnet.broadcast(),
                world.host_address,
                world.outside_address,
                Ipv4Addr::new(0, 0, 0, 1),
                Ipv4Addr::new(127, 0, 0, 1),
                Ipv4Addr::new(192, 0, 2, 1),
                Ipv4Addr::new(224, 0, 0, 1),
                Ipv4Addr::BROADCAST,
            ];
            for (at, address) in [(&world.outside, world.outside_address), (&world.host, assignment.host_ip)]
            {
                let server = udp(at, address, 0);
                let to = SocketAddrV4::new(address, server.local_addr().unwrap().port());
                for lie in lies {
                    send_as(&container.namespace, lie, to, "spoofed");
                }
                send_as(&container.namespace, container.address(), to, "honest");
                assert_eq!(receive(&server), "honest");
            }
        }
    });
}

#[test]
#[cfg(debug_assertions)]
fn it_is_the_firewall_that_a_false_source_address_does_not_pass() {
    on_host(NetworkConfig::default(), async |world, network, state_dir| {
        let (liar, other) = (Container::new(network).await, Container::new(network).await);
        let defences = Defences::without(crate::Defence::SourceAddress);
        drop(Network::start(&world.config, TAG, state_dir, &defences).await.unwrap());
        let server = udp(&world.outside, world.outside_address, 53);
        let to = SocketAddrV4::new(world.outside_address, 53);
        send_as(&liar.namespace, other.address(), to, "spoofed");
        assert_eq!(receive(&server), "spoofed");
    });
}

#[test]
fn the_hosts_loopback_is_closed_to_containers_even_where_the_host_is_open() {
    let config = NetworkConfig { allow_host_access: true, ..NetworkConfig::default() };
    on_host(config, async |world, network, state_dir| {
        let container = Container::new(network).await;
        let loopback = Ipv4Addr::new(127, 0, 0, 9);
        let server = udp(&world.host, loopback, 53);
        // The container's own loopback out of the way, packets to 127.0.0.9 leave by its link.
        ip(&container.namespace, "address delete 127.0.0.1/8 dev lo");
        container.namespace.set_sysctl("conf/eth0/route_localnet", "1");
        let gateway = container.lease.assignment().host_ip;
        ip(&container.namespace, &format!("route add {loopback} via {gateway}"));
        let client = udp(&container.namespace, container.address(), 0);
        let open = udp(&world.host, gateway, 54);
        client.send_to(b"first", (loopback, 53)).unwrap();
        // Packets of one link do not overtake each other: with this one through, the first one's fate is settled.
        client.send_to(b"through", (gateway, 54)).unwrap();
        assert_eq!(receive(&open), "through");
        // Without the firewall it does come through: the test is one.
        match world.config.firewall {
            FirewallKind::Iptables => world.host.show(&["iptables", "-t", "raw", "-F", "garden-t-raw"]),
            _ => world.host.show(&["nft", "flush", "chain", "ip", "garden-t", "raw-prerouting"]),
        };
        client.send_to(b"second", (loopback, 53)).unwrap();
        assert_eq!(receive(&server), "second");
        drop(Network::start(&world.config, TAG, state_dir, &Defences::default()).await.unwrap());
        client.send_to(b"third", (loopback, 53)).unwrap();
        client.send_to(b"through again", (gateway, 54)).unwrap();
        assert_eq!(receive(&open), "through again");
        assert!(world.firewall().to_lowercase().contains("127.0.0.0/8"));
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn ipv6_of_a_container_goes_nowhere() {
    on_host(
        NetworkConfig { allow_host_access: true, ..NetworkConfig::default() },
        async |world, network, _| {
            let container = Container::new(network).await;
            let link = container.lease.assignment().host_link.clone();
            let addresses = world.host.show(&["ip", "-6", "-o", "address"]);
            assert!(!addresses.contains(&link), "{addresses}");
            assert!(!container.namespace.show(&["ip", "-6", "-o", "address"]).contains("eth0"));
            let closed = match world.config.firewall {
                FirewallKind::Iptables => "-A garden-t-raw -i gt-+ -j DROP",
                _ => "iifname \"gt-*\" drop",
            };
            assert!(world.firewall().contains(closed));
        },
    );
}

/// An ICMP message of eight bytes by a raw socket.
fn send_icmp(from: &Namespace, to: Ipv4Addr, message: [u8; 8]) {
    from.run(move || {
        let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(net::ipproto::ICMP)).unwrap();
        net::sendto(&socket, &message, SendFlags::empty(), &SocketAddr::new(to.into(), 0)).unwrap();
    });
}

/// The types of the ICMP messages that come in, up to the first echo request.
fn icmp_types(socket: &OwnedFd) -> Vec<u8> {
    const IP_HEADER_LEN: usize = 20;
    let mut types = Vec::new();
    while types.last() != Some(&8) {
        let mut buffer = [0; 128];
        let (len, _) = net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty()).unwrap();
        types.extend(buffer[..len].get(IP_HEADER_LEN));
    }
    types
}

fn icmp_listener(namespace: &Namespace) -> OwnedFd {
    namespace.run(|| {
        let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(net::ipproto::ICMP)).unwrap();
        net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        socket
    })
}

#[test]
fn packets_that_belong_to_no_connection_reach_neither_containers_nor_denied_networks() {
    // An answer to what nobody asked, and a request, each with its checksum.
    const REPLY: [u8; 8] = [0, 0, 0xff, 0xfe, 0, 1, 0, 0];
    const REQUEST: [u8; 8] = [8, 0, 0xf7, 0xfe, 0, 1, 0, 0];
    let denied = Ipv4Addr::new(198, 51, 100, 7);
    let config =
        NetworkConfig { denied: vec!["198.51.100.0/24".parse().unwrap()], ..NetworkConfig::default() };
    on_host(config, async move |world, network, _| {
        let (sender, other) = (Container::new(network).await, Container::new(network).await);
        world.outside.show(&["ip", "address", "add", &format!("{denied}/32"), "dev", "lo"]);
        let (of_other, of_outside) = (icmp_listener(&other.namespace), icmp_listener(&world.outside));
        send_icmp(&sender.namespace, other.address(), REPLY);
        send_icmp(&world.host, other.address(), REQUEST);
        assert_eq!(icmp_types(&of_other), [8]);
        send_icmp(&sender.namespace, denied, REPLY);
        // Nor elsewhere: it would go under the container's own address.
        send_icmp(&sender.namespace, world.outside_address, REPLY);
        send_icmp(&sender.namespace, world.outside_address, REQUEST);
        assert_eq!(icmp_types(&of_outside), [8]);
    });
}
