//! Addresses and ports.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::StreamExt;
use protocol::{IpRange, NetIn, NetOutProtocol, NetOutRule, PortMapping, PortRange};
use tokio::io::AsyncReadExt;

use crate::{
    behaviours::packets::NO_NEIGHBOUR,
    neighbour::UPLINK_MTU,
    world::{World, assert_fails_with},
};

pub(super) async fn mapped(world: &World, handle: &str) -> Vec<PortMapping> {
    world.backend().info(handle).await.expect("info").into_value().mapped_ports.unwrap_or_default()
}

pub(super) async fn map(world: &World, handle: &str, host_port: u16, container_port: u16) -> NetIn {
    world.backend().net_in(handle, NetIn { host_port, container_port }).await.expect("map a port")
}

fn mapping(ports: NetIn) -> PortMapping {
    PortMapping { host_port: ports.host_port, container_port: ports.container_port }
}

/// Host port 0: a different one each time, in `info` too.
pub async fn a_port_comes_from_the_pool(world: &World) {
    let (one, other) = (world.create().await, world.create().await);
    let first = map(world, &one, 0, 8080).await;
    let second = map(world, &other, 0, 8080).await;
    assert_eq!((first.container_port, second.container_port), (8080, 8080));
    assert!(first.host_port != 0 && second.host_port != 0 && first.host_port != second.host_port);
    assert_eq!(mapped(world, &one).await, [mapping(first)]);
    assert_eq!(mapped(world, &other).await, [mapping(second)]);
}

/// Others may be quicker to take a port that was free a moment ago, where there are others.
const ATTEMPTS: usize = 20;

/// Maps a port of the host that was free: one that the pool has just given back.
async fn map_free(world: &World, handle: &str, container_port: u16) -> NetIn {
    for attempt in 1.. {
        let other = world.create().await;
        let host_port = map(world, &other, 0, 1).await.host_port;
        // Keep the pool from giving out the same one first.
        map(world, handle, 0, 1).await;
        world.backend().destroy(&other).await.expect("destroy");
        let wanted = NetIn { host_port, container_port };
        match world.backend().net_in(handle, wanted).await {
            Ok(ports) => {
                assert_eq!(ports.host_port, host_port);
                return ports;
            }
            Err(_) if !world.traits().exclusive && attempt < ATTEMPTS => {}
            Err(error) => panic!("map a free port: {error}"),
        }
    }
    unreachable!("the loop ends by itself")
}

/// Both of them; an explicit host port leaves the pool.
pub async fn ports_given_are_kept(world: &World) {
    let handle = world.create().await;
    let ports = map_free(world, &handle, 80).await;
    assert_eq!(ports.container_port, 80);
    assert!(mapped(world, &handle).await.contains(&mapping(ports)));
    for _ in 0..3 {
        assert_ne!(map(world, &handle, 0, 1).await.host_port, ports.host_port);
    }
}

/// Whether that is given or from the pool.
pub async fn container_port_zero_is_the_hosts(world: &World) {
    let handle = world.create().await;
    let ports = map(world, &handle, 0, 0).await;
    assert_eq!(ports.host_port, ports.container_port);
    let ports = map_free(world, &handle, 0).await;
    assert_eq!(ports.host_port, ports.container_port);
}

/// Not to two containers.
pub async fn a_host_port_is_mapped_once(world: &World) {
    let (one, other) = (world.create().await, world.create().await);
    let taken = map(world, &one, 0, 80).await;
    let wanted = NetIn { host_port: taken.host_port, container_port: 80 };
    let error = world.backend().net_in(&other, wanted).await.expect_err("a taken port").to_string();
    assert!(error.contains(&taken.host_port.to_string()), "{error}");
    assert_eq!(mapped(world, &other).await, []);
    assert_eq!(mapped(world, &one).await, [mapping(taken)]);
}

/// In their order.
pub async fn ports_of_the_spec_are_mapped(world: &World) {
    let wanted = [NetIn { host_port: 0, container_port: 80 }, NetIn { host_port: 0, container_port: 443 }];
    let handle = world.create_with(|spec| spec.net_in = wanted.to_vec()).await;
    let ports = mapped(world, &handle).await;
    assert_eq!(ports.iter().map(|ports| ports.container_port).collect::<Vec<_>>(), [80, 443]);
    assert!(ports[0].host_port != 0 && ports[1].host_port != 0 && ports[0].host_port != ports[1].host_port);
}

/// With the container.
pub async fn a_ports_number_comes_back(world: &World) {
    let handle = world.create().await;
    for attempt in 1.. {
        let other = world.create().await;
        let ports = map_free(world, &other, 80).await;
        world.backend().destroy(&other).await.expect("destroy");
        match world.backend().net_in(&handle, ports).await {
            Ok(again) => return assert_eq!(again, ports),
            Err(_) if !world.traits().exclusive && attempt < ATTEMPTS => {}
            Err(error) => panic!("map a port that was given back: {error}"),
        }
    }
}

/// Of containers and of their host's ends.
pub async fn addresses_differ(world: &World) {
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let info = world.backend().info(&world.create().await).await.expect("info").into_value();
        addresses.extend([info.host_ip, info.container_ip]);
    }
    let different: std::collections::HashSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), addresses.len(), "{addresses:?}");
}

/// In the spec and later, several at once.
pub async fn outbound_rules_are_taken(world: &World) {
    // From the block that is reserved for documentation.
    let address: IpAddr = "192.0.2.1".parse().expect("an address");
    let rule = NetOutRule {
        protocol: NetOutProtocol::Tcp,
        networks: vec![IpRange { start: Some(address), end: None }],
        ports: vec![PortRange { start: 80, end: 81 }],
        ..Default::default()
    };
    let handle = world.create_with(|spec| spec.net_out = vec![rule.clone()]).await;
    world.backend().net_out(&handle, vec![rule.clone(), NetOutRule::default()]).await.expect("rules");
    world.backend().net_out(&handle, vec![]).await.expect("no rules");
}

/// From the host's loopback.
pub async fn a_mapped_port_leads_into_the_container(world: &World) {
    if !world.traits().real {
        return world.skip("the fake's containers have no network that a packet could cross");
    }
    let handle = world.create().await;
    let port = map(world, &handle, 0, 8080).await.host_port;
    let script = "echo listening; exec nc -l -p 8080 -e echo pong";
    let process = world.run(&handle, &["sh", "-c", script]).await;
    process.stdout.open().next().await.expect("a word").expect("a word");
    // The word comes before nc listens: until then the connection is refused.
    let mut stream = loop {
        match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("connect to port {port}: {error}"),
        }
    };
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert_eq!(answer, "pong\n");
}

/// The host has the first address of it, the container the second.
pub async fn each_container_has_a_subnet_of_four_addresses(world: &World) {
    for _ in 0..2 {
        let (host, container) = addresses(world, &world.create().await).await;
        assert_eq!((host % 4, container), (1, host + 1));
    }
}

/// The host's end and the container's, as numbers.
async fn addresses(world: &World, handle: &str) -> (u32, u32) {
    let info = world.backend().info(handle).await.expect("info").into_value();
    let number = |text: &str| u32::from(text.parse::<Ipv4Addr>().expect("an address"));
    (number(&info.host_ip), number(&info.container_ip))
}

/// Others may use these of a backend that is not ours alone.
const NOT_OURS: &str = "the backend is others' too, who may have these subnets";

async fn at(world: &World, network: &str) -> protocol::Result<String> {
    let mut spec = world.spec();
    spec.network = network.into();
    world.backend().create(spec).await
}

async fn assert_at(world: &World, network: &str, host: [u8; 4], container: [u8; 4]) {
    let handle = at(world, network).await.expect(network);
    let wanted = (u32::from_be_bytes(host), u32::from_be_bytes(container));
    assert_eq!(addresses(world, &handle).await, wanted, "{network}");
}

/// A subnet, whose next free address is the container's, or an address with the subnet that it is in.
pub async fn a_spec_names_a_subnet_or_an_address(world: &World) {
    if !world.traits().exclusive {
        return world.skip(NOT_OURS);
    }
    assert_at(world, "10.78.1.0/24", [10, 78, 1, 1], [10, 78, 1, 2]).await;
    assert_at(world, "10.78.1.0/24", [10, 78, 1, 1], [10, 78, 1, 3]).await;
    assert_at(world, "10.78.1.77/24", [10, 78, 1, 1], [10, 78, 1, 77]).await;
    assert_at(world, "10.78.2.0/30", [10, 78, 2, 1], [10, 78, 2, 2]).await;
    assert_at(world, "10.78.2.6", [10, 78, 2, 5], [10, 78, 2, 6]).await;
}

/// The subnet's own address, its gateway's and the one for all; and what another container has.
pub async fn addresses_that_no_container_can_have_are_refused(world: &World) {
    if !world.traits().exclusive {
        return world.skip(NOT_OURS);
    }
    at(world, "10.78.3.9/24").await.expect("a free address");
    for taken in ["10.78.3.1/24", "10.78.3.255/24", "10.78.3.9/24", "10.78.4.5", "10.78.4.7", "10.78.4.4"] {
        assert_fails_with(at(world, taken).await, "network");
    }
    assert_eq!(world.all_handles().await.len(), 1);
}

/// Of the pool, and of another container that is not the same.
pub async fn subnets_that_overlap_are_refused(world: &World) {
    if !world.traits().exclusive {
        return world.skip(NOT_OURS);
    }
    let (of_pool, _) = addresses(world, &world.create().await).await;
    let of_pool = Ipv4Addr::from(of_pool & !3);
    at(world, "10.78.5.0/24").await.expect("a subnet");
    for overlapping in
        [format!("{of_pool}/30"), format!("{of_pool}/24"), "10.78.5.128/25".into(), "10.78.4.0/23".into()]
    {
        let error = at(world, &overlapping).await.expect_err(&overlapping).to_string();
        assert!(error.contains("network") && error.contains("overlaps"), "{overlapping}: {error}");
    }
    at(world, "10.78.5.0/24").await.expect("an equal one is shared");
}

/// With the container.
pub async fn an_address_comes_back(world: &World) {
    if !world.traits().exclusive {
        return world.skip(NOT_OURS);
    }
    for _ in 0..3 {
        let handle = at(world, "10.78.6.6").await.expect("a free address");
        assert_fails_with(at(world, "10.78.6.6").await, "in use");
        world.backend().destroy(&handle).await.expect("destroy");
    }
}

/// No packet is larger than those that the host sends.
pub async fn links_are_as_wide_as_the_hosts_uplink(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let mtu = world.run_to_end(&world.create().await, &["cat", "/sys/class/net/eth0/mtu"]).await;
    assert_eq!(mtu.text().trim(), UPLINK_MTU.to_string());
}
