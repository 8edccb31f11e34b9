//! What a kill of the server leaves in force of its containers' network, and what the next server makes of it. On a host
//! of the test's own.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use futures_util::StreamExt;
use garden_client::Client;
use protocol::{
    Backend, ContainerSpec, IpRange, NetIn, NetOutProtocol, NetOutRule, PortMapping, PortRange, ProcessSpec,
};
use tests::{
    killable::{Killable, can_make_containers},
    neighbour::{FAR, FAR_NETWORK, HOST, Neighbour, on_own_host},
    world::end,
};

fn tcp(port: u16) -> NetOutRule {
    NetOutRule {
        protocol: NetOutProtocol::Tcp,
        networks: vec![IpRange { start: Some(FAR.into()), end: None }],
        ports: vec![PortRange { start: port, end: port }],
        ..NetOutRule::default()
    }
}

/// Which of two ports of the neighbour's, in a network that is denied, the container reaches.
async fn reached(client: &Client) -> [bool; 2] {
    let mut reached = [false; 2];
    for (port, reached) in [80, 81].into_iter().zip(&mut reached) {
        let script = format!("nc -w 10 {FAR} {port} < /dev/null");
        let process = client.run("c", ProcessSpec::new("sh", ["-c", script.as_str()])).await.expect("run");
        *reached = end(process).await.text().trim() == HOST.to_string();
    }
    reached
}

async fn mapped(client: &Client) -> Vec<PortMapping> {
    client.info("c").await.expect("info").into_value().mapped_ports.unwrap_or_default()
}

async fn ports_and_rules_outlive(mut server: Killable) {
    let neighbour = Neighbour::of_this_host();
    neighbour.serve(80).await;
    neighbour.serve(81).await;
    let client = server.start(None).await;
    let spec = ContainerSpec {
        handle: "c".into(),
        net_in: vec![NetIn { host_port: 0, container_port: 8080 }],
        net_out: vec![tcp(80)],
        ..ContainerSpec::default()
    };
    client.create(spec).await.expect("create");
    let script = "echo begun; exec nc -ll -p 8080 -e echo pong";
    let listener = client.run("c", ProcessSpec::new("sh", ["-c", script])).await.expect("run");
    listener.stdout.open().next().await.expect("a word").expect("a word");
    let ports = mapped(&client).await;
    let port = ports[0].host_port;
    // The word comes before nc listens.
    while neighbour.ask(HOST, port).await.is_err() {}
    assert_eq!(reached(&client).await, [true, false]);

    server.kill();
    assert_eq!(neighbour.ask(HOST, port).await.expect("an answer without a server"), "pong");
    let client = server.start(None).await;
    assert_eq!(mapped(&client).await, ports);
    assert_eq!(neighbour.ask(HOST, port).await.expect("an answer"), "pong");
    assert_eq!(reached(&client).await, [true, false]);

    client.replace_net_out("c", vec![tcp(81)]).await.expect("rules");
    assert_eq!(reached(&client).await, [false, true]);
    server.kill();
    let client = server.start(None).await;
    assert_eq!(reached(&client).await, [false, true]);
    client.destroy("c").await.expect("destroy");
    neighbour.ask(HOST, port).await.expect_err("the port has gone with its container");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[test]
fn published_ports_and_outbound_rules_outlive_the_server() {
    if !can_make_containers() {
        return;
    }
    for firewall in ["nftables", "iptables"] {
        // Its name on this machine is taken where all others look for theirs.
        let server = Killable::new().with_options(&["--firewall", firewall, "--deny-network", FAR_NETWORK]);
        on_own_host(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(ports_and_rules_outlive(server));
        });
    }
}
