//! Denied networks, and the outbound rules that open holes in them.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
};

use protocol::{IcmpControl, IpRange, NetOutProtocol, NetOutRule, PortRange};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType};

use crate::{
    Defences, FirewallKind, NetworkConfig,
    network::{
        Network, member,
        tests::world::{Container, PATIENCE, TAG, World, on_host},
    },
};

/// Containers may go nowhere.
fn all_denied() -> NetworkConfig {
    NetworkConfig { denied: vec!["0.0.0.0/0".parse().unwrap()], ..NetworkConfig::default() }
}

fn to(address: Ipv4Addr) -> NetOutRule {
    NetOutRule { networks: vec![IpRange { start: Some(address.into()), end: None }], ..NetOutRule::default() }
}

fn tcp(address: Ipv4Addr, port: u16) -> NetOutRule {
    NetOutRule {
        protocol: NetOutProtocol::Tcp,
        ports: vec![PortRange { start: port, end: port }],
        ..to(address)
    }
}

async fn open(network: &Network, container: &Container, rules: &[NetOutRule]) {
    network.open(container.lease.assignment(), "handle", &[], rules).await.unwrap();
}

async fn replace(network: &Network, container: &Container, rules: &[NetOutRule]) {
    network.replace_rules(container.lease.assignment(), "handle", rules).await.unwrap();
}

fn assert_denied(answer: io::Result<String>) {
    let refused = answer.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{refused}");
}

/// Whether an echo of a UDP datagram comes back.
fn udp_echo(world: &World, container: &Container) -> io::Result<()> {
    // A port of its own each time: a program that another test is just starting has the last one open a little longer.
    let address = SocketAddr::new(world.outside_address.into(), 0);
    let server = world.outside.run(move || UdpSocket::bind(address).unwrap());
    let to = server.local_addr().unwrap();
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 16];
            let (len, from) = server.recv_from(&mut buffer)?;
            server.send_to(&buffer[..len], from).map(drop)
        });
        let asked = container.namespace.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(b"echo")?;
            socket.recv(&mut [0; 16]).map(drop)
        });
        if asked.is_err() {
            // What the server waits for.
            world.outside.run(move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"end", to).unwrap());
        }
        echo.join().unwrap()?;
        asked
    })
}

/// Whether an ICMP echo request is answered, rather than refused.
fn pings(container: &Container, address: Ipv4Addr) -> bool {
    // Each with an identifier of its own: echoes with the same one are one connection.
    static NEXT_ID: AtomicU16 = AtomicU16::new(1);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let ([a, b], [c, d]) = ((0xf7ff - id).to_be_bytes(), id.to_be_bytes());
    let request = [8, 0, a, b, c, d, 0, 0];
    const ECHO_REPLY: u8 = 0;
    const UNREACHABLE: u8 = 3;
    const IP_HEADER_LEN: usize = 20;
    container.namespace.run(move || {
        let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(net::ipproto::ICMP)).unwrap();
        net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        net::sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(address.into(), 0)).unwrap();
        loop {
            let mut buffer = [0; 128];
            let (len, _) = net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()).unwrap();
            match buffer[..len].get(IP_HEADER_LEN) {
                Some(&ECHO_REPLY) => return true,
                Some(&UNREACHABLE) => return false,
                _ => {}
            }
        }
    })
}

#[test]
fn a_denied_network_is_closed_and_a_rule_opens_a_hole() {
    on_host(all_denied(), async |world, network, _| {
        let (one, other) = (Container::new(network).await, Container::new(network).await);
        for port in [80, 81] {
            world.outside.serve(Ipv4Addr::UNSPECIFIED, port, "world");
        }
        assert_denied(one.namespace.ask(world.outside_address, 80));
        open(network, &one, &[tcp(world.outside_address, 80)]).await;
        assert!(one.namespace.ask(world.outside_address, 80).is_ok());
        assert_denied(one.namespace.ask(world.outside_address, 81));
        // It is this container's hole.
        assert_denied(other.namespace.ask(world.outside_address, 80));
    });
}

#[test]
fn only_what_is_denied_is_closed() {
    let config =
        NetworkConfig { denied: vec!["198.51.100.0/24".parse().unwrap()], ..NetworkConfig::default() };
    on_host(config, async |world, network, _| {
        let container = Container::new(network).await;
        world.outside.show(&["ip", "address", "add", "198.51.100.7/32", "dev", "lo"]);
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        assert!(container.namespace.ask(world.outside_address, 80).is_ok());
        assert_denied(container.namespace.ask(Ipv4Addr::new(198, 51, 100, 7), 80));
    });
}

#[test]
fn a_rule_is_of_one_protocol_or_of_all() {
    on_host(all_denied(), async |world, network, _| {
        let container = Container::new(network).await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        let rule = |protocol| NetOutRule { protocol, ..to(world.outside_address) };
        for (protocol, expected) in [
            (NetOutProtocol::Tcp, [true, false, false]),
            (NetOutProtocol::Udp, [false, true, false]),
            (NetOutProtocol::Icmp, [false, false, true]),
            (NetOutProtocol::All, [true, true, true]),
        ] {
            replace(network, &container, &[rule(protocol)]).await;
            let passes = [
                container.namespace.ask(world.outside_address, 80).is_ok(),
                udp_echo(world, &container).is_ok(),
                pings(&container, world.outside_address),
            ];
            assert_eq!(passes, expected, "{protocol:?}");
        }
    });
}

#[test]
fn a_rule_may_be_of_one_type_and_code_of_icmp() {
    on_host(all_denied(), async |world, network, _| {
        let container = Container::new(network).await;
        let rule = |kind, code| NetOutRule {
            protocol: NetOutProtocol::Icmp,
            icmps: Some(IcmpControl { kind, code }),
            ..to(world.outside_address)
        };
        for (rule, passes) in [
            (rule(8, None), true),
            (rule(8, Some(0)), true),
            (rule(8, Some(1)), false),
            (rule(13, None), false),
        ] {
            replace(network, &container, std::slice::from_ref(&rule)).await;
            assert_eq!(pings(&container, world.outside_address), passes, "{rule:?}");
        }
    });
}

#[test]
fn networks_and_ports_of_a_rule_are_ranges_with_both_ends() {
    on_host(all_denied(), async |world, network, _| {
        let container = Container::new(network).await;
        for last in 3..=6 {
            world.outside.show(&["ip", "address", "add", &format!("198.51.100.{last}/32"), "dev", "lo"]);
        }
        for port in 79..=82 {
            world.outside.serve(Ipv4Addr::UNSPECIFIED, port, "world");
        }
        let address = |last| Ipv4Addr::new(198, 51, 100, last);
        let rule = NetOutRule {
            protocol: NetOutProtocol::Tcp,
            networks: vec![IpRange { start: Some(address(4).into()), end: Some(address(5).into()) }],
            ports: vec![PortRange { start: 80, end: 81 }],
            ..NetOutRule::default()
        };
        open(network, &container, &[rule]).await;
        for last in 3..=6 {
            for port in 79..=82 {
                let passes = (4..=5).contains(&last) && (80..=81).contains(&port);
                let answer = container.namespace.ask(address(last), port);
                assert_eq!(answer.is_ok(), passes, "{last} {port}");
            }
        }
    });
}

#[test]
fn rules_that_have_nothing_in_common_open_what_each_of_them_says() {
    on_host(all_denied(), async |world, network, _| {
        let container = Container::new(network).await;
        for last in 3..=8 {
            world.outside.show(&["ip", "address", "add", &format!("198.51.100.{last}/32"), "dev", "lo"]);
        }
        for port in 80..=83 {
            world.outside.serve(Ipv4Addr::UNSPECIFIED, port, "world");
        }
        let address = |last| Ipv4Addr::new(198, 51, 100, last);
        // To each address another port, one that overlaps two of them, and one that is of the other protocol.
        let mut rules: Vec<_> = (3..=6).map(|last| tcp(address(last), 77 + u16::from(last))).collect();
        let mut wide = tcp(address(6), 82);
        wide.networks[0].end = Some(address(7).into());
        wide.ports[0].end = 83;
        rules.push(wide);
        rules.push(NetOutRule { protocol: NetOutProtocol::Udp, ..tcp(address(8), 80) });
        open(network, &container, &rules).await;
        for last in 3..=8 {
            for port in 80..=83 {
                let own = last <= 6 && port == 77 + u16::from(last);
                let passes = own || (6..=7).contains(&last) && (82..=83).contains(&port);
                assert_eq!(container.namespace.ask(address(last), port).is_ok(), passes, "{last} {port}");
            }
        }
    });
}

#[test]
fn rules_open_no_way_to_other_containers_or_to_the_host() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let (server, client) = (Container::new(network).await, Container::new(network).await);
        server.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        world.host.serve(Ipv4Addr::UNSPECIFIED, 22, "host");
        open(network, &client, &[NetOutRule::default()]).await;
        assert_denied(client.namespace.ask(server.address(), 8080));
        assert_denied(client.namespace.ask(world.host_address, 22));
    });
}

#[test]
fn a_published_port_is_reached_through_the_hosts_address_by_the_rules_for_that_address() {
    on_host(all_denied(), async |world, network, _| {
        let (server, client) = (Container::new(network).await, Container::new(network).await);
        server.namespace.serve(Ipv4Addr::UNSPECIFIED, 8080, "web");
        let port = server.publish(network, 8080).await;
        assert_denied(client.namespace.ask(world.host_address, port));
        replace(network, &client, &[tcp(server.address(), 8080)]).await;
        assert_denied(client.namespace.ask(world.host_address, port));
        replace(network, &client, &[tcp(world.host_address, port)]).await;
        assert!(client.namespace.ask(world.host_address, port).is_ok());
        assert_denied(client.namespace.ask(server.address(), 8080));
    });
}

#[test]
fn the_last_rule_that_matches_counts() {
    on_host(all_denied(), async |world, network, _| {
        let container = Container::new(network).await;
        let logged = NetOutRule { log: true, ..tcp(world.outside_address, 80) };
        open(network, &container, &[logged, tcp(world.outside_address, 81)]).await;
        open(network, &container, &[tcp(world.outside_address, 80)]).await;
        let link = &container.lease.assignment().host_link;
        let chain = world.chain(link);
        let (before, expected): (_, &[_]) = match world.config.firewall {
            FirewallKind::Iptables => (
                "--ctorigdstport ",
                &["80 -j RETURN", "81 -j RETURN", "80 -j LOG --log-prefix \"handle \"", "80 -j RETURN"],
            ),
            _ => ("proto-dst ", &["80 accept", "81 accept", "80 log prefix \"handle \" accept"]),
        };
        let ports: Vec<&str> = chain.lines().filter_map(|line| line.split(before).nth(1)).collect();
        assert_eq!(ports, expected);
    });
}

#[test]
fn a_connection_that_was_let_through_goes_on_without_its_rule() {
    on_host(all_denied(), async |world, network, _| {
        let container = Container::new(network).await;
        let address = SocketAddr::new(world.outside_address.into(), 80);
        let listener = world.outside.run(move || std::net::TcpListener::bind(address).unwrap());
        open(network, &container, &[tcp(world.outside_address, 80)]).await;
        let mut inside = container.namespace.run(move || std::net::TcpStream::connect(address).unwrap());
        let (mut outside, _) = listener.accept().unwrap();
        replace(network, &container, &[]).await;
        assert_denied(container.namespace.ask(world.outside_address, 80));
        let mut word = [0; 4];
        io::Write::write_all(&mut inside, b"ping").unwrap();
        io::Read::read_exact(&mut outside, &mut word).unwrap();
        io::Write::write_all(&mut outside, b"pong").unwrap();
        io::Read::read_exact(&mut inside, &mut word).unwrap();
        assert_eq!(&word, b"pong");
    });
}

#[test]
fn replacing_rules_leaves_no_moment_without_those_that_stay() {
    on_host(all_denied(), async |world, network, _| {
        let container = Arc::new(Container::new(network).await);
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        let address = world.outside_address;
        let stays = tcp(address, 80);
        open(network, &container, std::slice::from_ref(&stays)).await;
        let done = Arc::new(AtomicBool::new(false));
        let (asker, stop) = (Arc::clone(&container), Arc::clone(&done));
        let asking = std::thread::spawn(move || {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                asker.namespace.ask(address, 80).unwrap();
                asked += 1;
            }
            asked
        });
        for round in 0..50 {
            replace(network, &container, &[stays.clone(), tcp(address, 1000 + round)]).await;
        }
        done.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
}

#[test]
fn three_thousand_rules_come_in_one_step_and_go_with_the_container() {
    on_host(all_denied(), async |world, network, _| {
        let container = Container::new(network).await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        let mut rules: Vec<_> = (0..3000u32).map(|n| tcp(Ipv4Addr::from(0x0a00_0000 + n), 443)).collect();
        rules[0] = tcp(world.outside_address, 80);
        open(network, &container, &rules).await;
        assert!(container.namespace.ask(world.outside_address, 80).is_ok());
        network.release(container.lease.assignment(), &[]).await.unwrap();
        let left = world.firewall();
        assert!(!left.contains(&container.lease.assignment().host_link), "{left}");
    });
}

#[test]
fn a_new_server_gives_containers_their_rules_again_and_forgets_those_of_others() {
    on_host(all_denied(), async |world, network, state| {
        let (kept, gone) = (Container::new(network).await, Container::new(network).await);
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        let rules = [tcp(world.outside_address, 80)];
        for container in [&kept, &gone] {
            open(network, container, &rules).await;
        }
        let next = Network::start(&world.config, TAG, state, &Defences::default()).await.unwrap();
        // Even before the records are read.
        assert!(kept.namespace.ask(world.outside_address, 80).is_ok());
        let lease = next.adopt(kept.lease.assignment(), &[]).unwrap();
        next.sweep(vec![member(lease.assignment(), "handle", &[], &rules)]).await.unwrap();
        assert!(kept.namespace.ask(world.outside_address, 80).is_ok());
        let table = world.firewall();
        assert!(!table.contains(&gone.lease.assignment().host_link), "{table}");
        next.replace_rules(lease.assignment(), "handle", &[]).await.unwrap();
        assert_denied(kept.namespace.ask(world.outside_address, 80));
    });
}

#[test]
fn rules_that_would_be_too_many_lines_of_iptables_are_refused_and_leave_nothing() {
    on_host(all_denied(), async |world, network, _| {
        if world.config.firewall != FirewallKind::Iptables {
            return;
        }
        let container = Container::new(network).await;
        world.outside.serve(Ipv4Addr::UNSPECIFIED, 80, "world");
        // Each range is 62 networks.
        let mut wide = tcp(Ipv4Addr::new(0, 0, 0, 1), 80);
        wide.networks[0].end = Some(Ipv4Addr::new(255, 255, 255, 254).into());
        let rules = vec![wide; 200];
        let refused = network.open(container.lease.assignment(), "handle", &[], &rules).await.unwrap_err();
        let refused = protocol::Error::failed(&refused).to_string();
        assert!(refused.contains("more than 8192 lines of iptables"), "{refused}");
        assert_denied(container.namespace.ask(world.outside_address, 80));
        open(network, &container, &rules[..1]).await;
        assert!(container.namespace.ask(world.outside_address, 80).is_ok());
    });
}
