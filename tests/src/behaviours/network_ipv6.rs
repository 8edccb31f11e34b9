//! A server whose operator has given it IPv6 addresses for containers, and denied them
//! [`FAR_NETWORK_IPV6`](crate::neighbour::FAR_NETWORK_IPV6).

use std::net::Ipv6Addr;

use futures_util::future::{join, join_all};
use protocol::{IpRange, NetOutProtocol, NetOutRule, PortRange};

use crate::{
    behaviours::packets::{NO_NEIGHBOUR, WORD, ask, info, listen, pings},
    neighbour::{FAR_IPV6, HOST_IPV6, NEIGHBOUR_IPV6, serve_here},
    world::World,
};

async fn address(world: &World, handle: &str) -> Ipv6Addr {
    info(world, handle).await.container_ipv6.parse().expect("an IPv6 address")
}

/// Beside its IPv4 address; by `info` and by name.
pub async fn each_container_has_an_address_of_its_own(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let (one, other) = (world.create().await, world.create().await);
    let (ipv6, others) = (address(world, &one).await, address(world, &other).await);
    assert_ne!(ipv6, others);
    let hosts = world.run_to_end(&one, &["cat", "/etc/hosts"]).await.text();
    for address in [ipv6.to_string(), info(world, &one).await.container_ip] {
        assert!(hosts.lines().any(|line| line == format!("{address} {one}")), "{address}: {hosts}");
    }
    assert!(pings(world, &one, ipv6).await);
}

/// As a client of the host's.
pub async fn the_world_is_within_reach(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(80).await;
    let handle = world.create().await;
    assert_eq!(ask(world, &handle, NEIGHBOUR_IPV6, 80).await, Ok(HOST_IPV6.to_string()));
    assert!(pings(world, &handle, NEIGHBOUR_IPV6).await);
}

/// Neither other containers nor the host, by none of its addresses.
pub async fn others_are_out_of_reach(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    serve_here(2222);
    let (server, client) = (world.create().await, world.create().await);
    let _listener = listen(world, &server, 8080).await;
    let (to, own) = (address(world, &server).await, address(world, &client).await);
    assert_eq!(ask(world, &server, to, 8080).await.as_deref(), Ok(WORD), "it does listen");
    let gateway = Ipv6Addr::from(u128::from(own) & !3 | 1);
    assert_eq!(u128::from(own), u128::from(gateway) + 1);
    let tries = [(to, 8080), (HOST_IPV6, 2222), (gateway, 2222)]
        .map(|(address, port)| join(ask(world, &client, address, port), pings(world, &client, address)));
    for (said, pinged) in join_all(tries).await {
        said.expect_err("another subnet, or the host");
        assert!(!pinged);
    }
    // Link-local addresses: the host's end of the link has none that could be reached.
    let on_host = std::fs::read_to_string("/proc/thread-self/net/if_inet6").expect("the host's addresses");
    let link_local = on_host.lines().filter(|line| line.starts_with("fe80") && !line.ends_with("uplink"));
    assert_eq!(link_local.count(), 0, "{on_host}");
}

/// As for IPv4, with ICMPv6 for ICMP.
pub async fn rules_open_holes_in_denied_networks(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(80).await;
    let handle = world.create().await;
    let networks = vec![IpRange { start: Some(FAR_IPV6.into()), end: None }];
    let tcp = NetOutRule {
        protocol: NetOutProtocol::Tcp,
        ports: vec![PortRange { start: 80, end: 80 }],
        networks: networks.clone(),
        ..NetOutRule::default()
    };
    let icmp = NetOutRule { protocol: NetOutProtocol::IcmpV6, networks, ..NetOutRule::default() };
    for (rules, open) in
        [(vec![], [false, false]), (vec![tcp.clone()], [true, false]), (vec![icmp.clone()], [false, true])]
    {
        world.backend().replace_net_out(&handle, rules.clone()).await.expect("rules");
        let tries = join(ask(world, &handle, FAR_IPV6, 80), pings(world, &handle, FAR_IPV6));
        let (said, pinged) = tries.await;
        assert_eq!([said.is_ok(), pinged], open, "{rules:?}: {said:?}");
    }
}
