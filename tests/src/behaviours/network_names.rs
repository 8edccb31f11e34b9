//! Names. The host's `resolv.conf` has a search domain, a name server on loopback and [the neighbour](NEIGHBOUR), the
//! operator has added a host.

use crate::{
    behaviours::packets::{NO_NEIGHBOUR, info},
    neighbour::{NAMED, NEIGHBOUR},
    world::World,
};

async fn read(world: &World, handle: &str, path: &str) -> String {
    world.run_to_end(handle, &["cat", path]).await.text()
}

/// But for those that only the host itself reaches.
pub async fn containers_ask_the_hosts_name_servers(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    let handle = world.create().await;
    let resolv_conf = read(world, &handle, "/etc/resolv.conf").await;
    assert_eq!(resolv_conf, format!("search internal\nnameserver {NEIGHBOUR}\n"));
    neighbour.serve_names(NEIGHBOUR).await;
    let ended = world.run_to_end(&handle, &["nslookup", "-type=a", "web.internal"]).await;
    assert!(ended.text().contains(&format!("Address: {NAMED}")), "{}", ended.text());
}

/// By its host name, and by what the operator has named.
pub async fn hosts_are_known_by_name(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let handle = world.create().await;
    let hosts = read(world, &handle, "/etc/hosts").await;
    let own = format!("{} {handle}", info(world, &handle).await.container_ip);
    for line in ["127.0.0.1 localhost", &own, "192.0.2.8 db.internal db"] {
        assert!(hosts.lines().any(|found| found == line), "{line}: {hosts}");
    }
}
