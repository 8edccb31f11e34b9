//! A server whose operator lets containers reach the host.

use std::net::Ipv4Addr;

use crate::{
    behaviours::packets::{NO_NEIGHBOUR, address, ask, info, listen},
    neighbour::{HOST, serve_here},
    world::World,
};

/// By each of its addresses.
pub async fn the_host_is_within_reach(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    serve_here(2222);
    let handle = world.create().await;
    let gateway: Ipv4Addr = info(world, &handle).await.host_ip.parse().expect("an address");
    let own = address(world, &handle).await.to_string();
    for host in [HOST, gateway] {
        assert_eq!(ask(world, &handle, host, 2222).await, Ok(own.clone()), "{host}");
    }
}

/// That is about the host alone.
pub async fn other_containers_are_out_of_reach_all_the_same(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let (server, client) = (world.create().await, world.create().await);
    let _listener = listen(world, &server, 8080).await;
    ask(world, &client, address(world, &server).await, 8080).await.expect_err("another subnet");
}
