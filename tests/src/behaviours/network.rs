//! Addresses and ports.

use std::net::IpAddr;

use futures_util::StreamExt;
use protocol::{IpRange, NetIn, NetOutProtocol, NetOutRule, PortMapping, PortRange};
use tokio::io::AsyncReadExt;

use crate::world::World;

async fn mapped(world: &World, handle: &str) -> Vec<PortMapping> {
    world.backend().info(handle).await.expect("info").into_value().mapped_ports.unwrap_or_default()
}

async fn map(world: &World, handle: &str, host_port: u16, container_port: u16) -> NetIn {
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
