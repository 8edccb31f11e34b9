//! Published ports, with packets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{
    behaviours::{
        network::map,
        packets::{NO_NEIGHBOUR, WORD, ask, listen},
    },
    neighbour::{HOST, Neighbour, ask_from_here},
    world::World,
};

async fn ask_on_host(address: Ipv4Addr, port: u16) -> std::io::Result<String> {
    let address = SocketAddr::new(address.into(), port);
    tokio::task::spawn_blocking(move || ask_from_here(address)).await.expect("a task")
}

/// From the host's loopback, from the host by its address, and from other hosts.
pub async fn a_published_port_is_within_everybodys_reach(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    let handle = world.create().await;
    let _listener = listen(world, &handle, 8080).await;
    let port = map(world, &handle, 0, 8080).await.host_port;
    for address in [Ipv4Addr::LOCALHOST, HOST] {
        assert_eq!(ask_on_host(address, port).await.expect("an answer"), WORD, "{address}");
    }
    assert_eq!(neighbour.ask(HOST, port).await.expect("an answer"), WORD);
}

/// By the host's address, as others do.
pub async fn containers_reach_their_own_and_anothers_published_port(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let (server, client) = (world.create().await, world.create().await);
    let _listener = listen(world, &server, 8080).await;
    let port = map(world, &server, 0, 8080).await.host_port;
    for from in [&server, &client] {
        assert_eq!(ask(world, from, HOST, port).await.as_deref(), Ok(WORD));
    }
}

/// The same host port leads to another container then, and no longer to this one.
pub async fn a_port_goes_with_its_container(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    let handle = world.create().await;
    let _listener = listen(world, &handle, 8080).await;
    let port = map(world, &handle, 0, 8080).await.host_port;
    assert_eq!(neighbour.ask(HOST, port).await.expect("an answer"), WORD);
    world.backend().destroy(&handle).await.expect("destroy");
    neighbour.ask(HOST, port).await.expect_err("nobody has the port");
    let next = world.create().await;
    let _listener = listen(world, &next, 9090).await;
    map(world, &next, port, 9090).await;
    assert_eq!(neighbour.ask(HOST, port).await.expect("an answer"), WORD);
}

/// Has packets for 127.0.0.9 leave the neighbour by its link, as an attacker on the host's own network would.
async fn send_loopback_to_the_host(neighbour: &Neighbour) {
    neighbour
        .sh("ip address delete 127.0.0.1/8 dev lo
            sysctl -qw net.ipv4.conf.eth0.route_localnet=1
            ip route add 127.0.0.9 via 203.0.113.1")
        .await;
}

/// What listens on the host's loopback hears nothing from other hosts, though published ports are reached by loopback
/// (CVE-2020-8558).
pub async fn the_hosts_loopback_is_closed_to_others(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    let handle = world.create().await;
    let _listener = listen(world, &handle, 8080).await;
    let port = map(world, &handle, 0, 8080).await.host_port;
    assert_eq!(ask_on_host(Ipv4Addr::LOCALHOST, port).await.expect("an answer"), WORD);
    let bind =
        async |address: Ipv4Addr| tokio::net::UdpSocket::bind((address, 5353)).await.expect("a UDP socket");
    let (private, public) = (bind(Ipv4Addr::new(127, 0, 0, 9)).await, bind(HOST).await);
    send_loopback_to_the_host(neighbour).await;
    let client = neighbour.udp(Ipv4Addr::new(203, 0, 113, 2), 0).await;
    client.send_to(b"private", "127.0.0.9:5353").await.expect("send");
    // Packets of one link do not overtake each other: with this one there, the first one's fate is settled.
    client.send_to(b"public", (HOST, 5353)).await.expect("send");
    let mut packet = [0; 16];
    let heard = tokio::time::timeout(Duration::from_secs(10), public.recv(&mut packet)).await;
    assert_eq!(heard.expect("a packet in time").expect("a packet"), "public".len());
    assert!(private.try_recv(&mut packet).is_err(), "a packet for the host's loopback came from outside");
}
