//! Containers of a server with a pool of IPv6 addresses.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::net::Ipv6Addr;

use garden_client::Client;
use protocol::{Backend, ContainerSpec, ProcessSpec};
use tests::{
    killable::{Killable, can_make_containers},
    world::end,
};

async fn says(client: &Client, handle: &str, script: &str) -> String {
    let ended = end(client.run(handle, ProcessSpec::new("sh", ["-c", script])).await.expect("run")).await;
    assert_eq!(ended.status, 0, "{script}");
    ended.text()
}

async fn address(client: &Client, handle: &str) -> Ipv6Addr {
    client.info(handle).await.expect("info").container_ipv6.parse().expect("an IPv6 address")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_an_ipv6_address_of_the_pool_and_the_next_server_knows_it() {
    if !can_make_containers() {
        return;
    }
    let server = Killable::new();
    // Of this server alone, as its other addresses are.
    let [_, _, high, low] = server.named_address().octets();
    let prefix = format!("fd67:7264:{:x}:", u16::from_be_bytes([high, low]));
    let mut server = server.with_options(&["--network-pool-ipv6", &format!("{prefix}:/112")]);
    let client = server.start(None).await;
    // What was prepared has one as well as what is made for the request.
    let prepared = client.create(ContainerSpec::default()).await.expect("create");
    let privileged = ContainerSpec { privileged: true, ..ContainerSpec::default() };
    let privileged = client.create(privileged).await.expect("create");
    let mut before = Vec::new();
    for handle in [&prepared, &privileged] {
        let own = address(&client, handle).await;
        assert!(own.to_string().starts_with(&prefix), "{own}");
        let addresses = says(&client, handle, "cat /proc/net/if_inet6").await;
        let eth0: Vec<&str> = addresses.lines().filter(|line| line.ends_with(" eth0")).collect();
        assert_eq!(eth0.len(), 1, "{addresses}");
        assert!(eth0[0].starts_with(&format!("{:032x} ", u128::from(own))), "{addresses}");
        assert!(says(&client, handle, "cat /etc/hosts").await.contains(&format!("{own} ")));
        before.push(own);
    }
    assert_ne!(before[0], before[1]);
    server.kill();
    let client = server.start(None).await;
    assert_eq!([address(&client, &prepared).await, address(&client, &privileged).await], before[..]);
    let third = client.create(ContainerSpec::default()).await.expect("create");
    assert!(!before.contains(&address(&client, &third).await));
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}
