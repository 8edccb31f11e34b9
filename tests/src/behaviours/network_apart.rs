//! Who reaches whom, with packets.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::future::{join, join_all};

use crate::{
    attack::{attack, victim},
    behaviours::packets::{NO_NEIGHBOUR, WORD, address, ask, info, listen, pings},
    neighbour::{HOST, NEIGHBOUR, serve_here},
    world::World,
};

/// Subnets that are neither the pool's nor a host's.
const SHARED: &str = "10.77.1.0/24";
const OTHER: &str = "10.77.2.0/24";

/// By TCP and by ICMP, be their subnets of the pool or named.
pub async fn containers_of_other_subnets_are_out_of_reach(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let server = world.create().await;
    let named = world.create_with(|spec| spec.network = OTHER.into()).await;
    let clients = [
        world.create().await,
        world.create_with(|spec| spec.network = "10.77.3.6".into()).await,
        world.create_with(|spec| spec.network = SHARED.into()).await,
    ];
    for server in [server, named] {
        let to = address(world, &server).await;
        let _listener = listen(world, &server, 8080).await;
        assert_eq!(ask(world, &server, to, 8080).await.as_deref(), Ok(WORD), "it does listen");
        let tries = clients.iter().map(|client| join(ask(world, client, to, 8080), pings(world, client, to)));
        for (said, pinged) in join_all(tries).await {
            said.expect_err("another subnet");
            assert!(!pinged);
        }
    }
}

/// By every protocol and on every port.
pub async fn containers_that_share_a_subnet_reach_each_other(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let server = world.create_with(|spec| spec.network = SHARED.into()).await;
    let client = world.create_with(|spec| spec.network = "10.77.1.99/24".into()).await;
    let _listener = listen(world, &server, 8080).await;
    assert_eq!(ask(world, &client, address(world, &server).await, 8080).await.as_deref(), Ok(WORD));
    for (from, to) in [(&client, &server), (&server, &client)] {
        assert!(pings(world, from, address(world, to).await).await);
    }
    // The rest of the world is there for both.
    assert!(pings(world, &client, NEIGHBOUR).await && pings(world, &server, NEIGHBOUR).await);
}

/// By none of its addresses.
pub async fn the_host_is_out_of_reach(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    serve_here(2222);
    let handles = [world.create().await, world.create_with(|spec| spec.network = SHARED.into()).await];
    for handle in &handles {
        let gateway: Ipv4Addr = info(world, handle).await.host_ip.parse().expect("an address");
        let tries =
            [HOST, gateway].map(|host| join(ask(world, handle, host, 2222), pings(world, handle, host)));
        for (said, pinged) in join_all(tries).await {
            said.expect_err("the host");
            assert!(!pinged);
        }
        assert!(pings(world, handle, NEIGHBOUR).await, "others are within reach");
    }
}

/// Where there is no pool of IPv6 addresses a container has none, and neither has the host's end of its link.
pub async fn link_local_addresses_lead_nowhere(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let handle = world.create().await;
    let script = "grep eth0 /proc/net/if_inet6; ping -6 -c 1 -W 1 ff02::1%eth0 > /dev/null && echo answered";
    assert_eq!(world.run_to_end(&handle, &["sh", "-c", script]).await.text(), "");
    let on_host = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let of_containers =
        on_host.lines().filter(|line| line.split_whitespace().last().is_some_and(is_containers));
    assert_eq!(of_containers.count(), 0, "{on_host}");
}

fn is_containers(link: &str) -> bool {
    !matches!(link, "lo" | "uplink")
}

/// What is sent under another address does not arrive, be that another container's or a stranger's.
pub async fn a_packet_needs_the_address_of_its_container(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    let (liar, other) = (victim(world, |_| ()).await, world.create().await);
    let server = neighbour.udp(NEIGHBOUR, 5353).await;
    let target = format!("{NEIGHBOUR}:5353");
    let own = address(world, &liar).await;
    // The lies first: they would arrive first.
    for source in [address(world, &other).await, Ipv4Addr::new(192, 0, 2, 9), own] {
        assert_eq!(attack(world, &liar, &["spoof", &source.to_string(), &target]).await, "sent");
    }
    let mut packet = [0; 100];
    let (_, from) = server.recv_from(&mut packet).await.expect("the honest packet");
    // Under the host's address, as everything that leaves it.
    assert_eq!(from.ip(), IpAddr::from(HOST));
    assert!(server.try_recv_from(&mut packet).is_err(), "one packet was honest");
}
