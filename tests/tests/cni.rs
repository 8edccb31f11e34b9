//! A server whose containers' networks are made by plug-ins, the real ones, on hosts that have a network of their own.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, process::Command, time::Instant};

use protocol::{Backend, ContainerSpec, NetOutProtocol, NetOutRule};
use serde_json::json;
use tests::{
    cni::{Host, POLL, bridge, bridge_and_ports, port, serve, sh, spec},
    killable::{binary, can_make_containers},
    patience::patience,
};

#[tokio::test(flavor = "multi_thread")]
async fn address_names_and_ports_come_from_the_plugins_and_go_with_the_container() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("one") }).await.expect("create");
    client.create(spec("other")).await.expect("create");
    let info = client.info("one").await.expect("info");
    assert_eq!((info.container_ip.as_str(), info.host_ip.as_str()), ("10.88.0.2", "10.88.0.1"));
    let shown = sh(&client, "one", "ip -o addr; cat /etc/hosts /etc/resolv.conf").await;
    for line in [
        "lo    inet 127.0.0.1/8",
        "eth0    inet 10.88.0.2/24",
        "10.88.0.2 one",
        "nameserver 10.88.0.1",
        "search plugged.example",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }

    serve(&client, "one", 80, "eighty").await;
    serve(&client, "one", 81, "eighty-one").await;
    let first = info.mapped_ports.as_ref().unwrap()[0].host_port;
    assert_eq!(host.ask(first).await, "eighty\n");
    let second = client.net_in("one", port(81)).await.expect("net_in");
    assert_eq!(host.ask(second.host_port).await, "eighty-one\n");
    assert_eq!(host.ask(first).await, "eighty\n", "still");
    assert_eq!(sh(&client, "other", "nc 10.88.0.2 80 < /dev/null").await, "eighty\n");
    let metrics = client.metrics("one").await.expect("metrics");
    assert!(metrics.network.is_none());

    assert_eq!(host.leases().len(), 2, "what is looked for at the end is found while it is there");
    client.destroy("one").await.expect("destroy");
    client.destroy("other").await.expect("destroy");
    assert_eq!(host.left(), Vec::<String>::new());
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_goes_on_with_the_network_and_says_what_is_not_as_it_was() {
    // portmap's own CHECK fails in a container without IPv6.
    let Some((host, mut server)) = Host::new(|directory| json!([bridge(directory), {"type": "firewall"}]))
    else {
        return;
    };
    let client = server.start(None).await;
    client.create(spec("whole")).await.expect("create");
    client.create(spec("broken")).await.expect("create");
    server.kill();
    let links = host.namespace.command(&["ip", "-o", "link", "show", "master", "cni0"]);
    let last = links.lines().last().and_then(|line| line.split([' ', '@']).nth(1)).expect("a link");
    host.namespace.command(&["ip", "link", "set", last, "nomaster"]);
    let client = server.start(None).await;
    let begun = Instant::now();
    while !server.log().contains("is not as its CNI plug-ins have made it") {
        assert!(begun.elapsed() < patience(20), "{}", server.log());
        tokio::time::sleep(POLL).await;
    }
    let log = server.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("not as its CNI")).collect();
    assert!(told.len() == 1 && told[0].contains("broken") && told[0].contains("bridge"), "{log}");
    assert_eq!(client.info("broken").await.expect("info").container_ip, "10.88.0.3");
    client.destroy("broken").await.expect("destroy");
    client.destroy("whole").await.expect("destroy");
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_published_by_a_new_server_and_closed_by_clean_up() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("kept") }).await.expect("create");
    serve(&client, "kept", 80, "eighty").await;
    serve(&client, "kept", 81, "eighty-one").await;
    server.kill();
    let client = server.start(None).await;
    let first = client.info("kept").await.expect("info").mapped_ports.clone().unwrap()[0].host_port;
    assert_eq!(host.ask(first).await, "eighty\n");
    let second = client.net_in("kept", port(81)).await.expect("net_in");
    assert_eq!(host.ask(second.host_port).await, "eighty-one\n");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
    assert_eq!(host.left(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_and_a_bandwidth_are_passed_on_to_plugins_that_take_them() {
    let chain = |directory: &std::path::Path| {
        let mut bridge = bridge(directory);
        bridge["capabilities"] = json!({"ips": true});
        json!([bridge, {"type": "bandwidth", "capabilities": {"bandwidth": true}}])
    };
    let Some((host, mut server)) = Host::new(chain) else { return };
    let client = server.start(None).await;
    let mut asked = ContainerSpec { network: "10.88.0.77/24".into(), privileged: true, ..spec("asked") };
    asked.limits.bandwidth.rate_bytes_per_second = 1_000_000;
    client.create(asked.clone()).await.expect("create");
    assert_eq!(client.info("asked").await.expect("info").container_ip, "10.88.0.77");
    assert_eq!(client.bandwidth_limits("asked").await.expect("limits"), asked.limits.bandwidth);
    let queues = || host.namespace.command(&["tc", "qdisc", "show"]);
    assert_eq!(queues().matches("rate 8Mbit").count(), 2, "one for each direction: {}", queues());

    let mut silly = ContainerSpec { handle: "silly".into(), ..asked.clone() };
    silly.limits.bandwidth.burst_bytes = 100;
    let error = client.create(silly).await.unwrap_err().to_string();
    assert!(error.contains("limits.bandwidth_limits.burst"), "{error}");
    let error =
        client.create(ContainerSpec { handle: "other".into(), ..asked }).await.unwrap_err().to_string();
    assert!(error.contains("10.88.0.77"), "{error}");
    client.destroy("asked").await.expect("destroy");
    assert!(!queues().contains("tbf"), "{}", queues());
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_plugins_cannot_be_told_is_refused() {
    let Some((host, mut server)) = Host::new(|directory| json!([bridge(directory)])) else { return };
    let client = server.start(None).await;
    let rule = NetOutRule { protocol: NetOutProtocol::All, ..NetOutRule::default() };
    let mut limited = spec("refused");
    limited.limits.bandwidth.rate_bytes_per_second = 1 << 20;
    let refused = [
        (ContainerSpec { net_out: vec![rule.clone()], ..spec("refused") }, "netout"),
        (ContainerSpec { net_in: vec![port(80)], ..spec("refused") }, "portMappings"),
        (ContainerSpec { network: "10.88.0.9/24".into(), ..spec("refused") }, "\"ips\""),
        (limited, "\"bandwidth\""),
    ];
    for (spec, named) in refused {
        let error = client.create(spec).await.unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    client.create(spec("made")).await.expect("create");
    let error = client.net_out("made", vec![rule]).await.unwrap_err().to_string();
    assert!(error.contains("cannot be enforced on a network that CNI plug-ins make"), "{error}");
    let error = client.net_in("made", port(80)).await.unwrap_err().to_string();
    assert!(error.contains("portMappings"), "{error}");
    client.destroy("made").await.expect("destroy");
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_makes_networks_itself_takes_away_those_of_plugins_and_the_other_way_round() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("plugged") }).await.expect("create");
    server.kill();

    let mut server = server.with_options(&[]);
    let client = server.start(None).await;
    client.info("plugged").await.expect_err("it has been destroyed");
    assert_eq!(host.left(), Vec::<String>::new());
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("own") }).await.expect("create");

    server.kill();
    let mut server = server.with_options(&host.options().each_ref().map(String::as_str));
    let client = server.start(None).await;
    client.info("own").await.expect_err("it has been destroyed");
    assert!(!host.namespace.command(&["nft", "list", "tables"]).contains(&server.base_group()));
    host.close(server).await;
}

#[test]
fn options_that_make_no_sense_are_refused_at_start_with_file_and_field() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.conflist");
    fs::write(&file, r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "../bridge"}]}"#).unwrap();
    let server = |options: &[&str]| {
        let output = Command::new(binary("garden-server"))
            .args(["--backend", "linux", "--depot"])
            .arg(directory.path().join("depot"))
            .arg("--store")
            .arg(directory.path().join("store"))
            .arg("--bind-socket")
            .arg(directory.path().join("socket"))
            .args(options)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap()
    };
    let path = file.display().to_string();
    let said = server(&["--cni-config", &path, "check"]);
    assert!(said.contains("bad.conflist") && said.contains("plugins[0].type"), "{said}");
    if !can_make_containers() {
        return;
    }
    let said = server(&["--cni-config", &path]);
    assert!(said.contains("bad.conflist") && said.contains("plugins[0].type"), "{said}");
    fs::write(&file, r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "no-such-plugin"}]}"#)
        .unwrap();
    let said = server(&["--cni-config", &path]);
    assert!(said.contains("no-such-plugin") && said.contains("/opt/cni/bin"), "{said}");
    for option in [&["--deny-network", "10.0.0.0/8"][..], &["--mtu", "1400"], &["--allow-host-access"]] {
        let said = server(&[&["--cni-config", &path], option].concat());
        assert!(said.contains(&option[0][2..]) && said.contains("CNI plug-ins"), "{option:?}: {said}");
    }
    let said = server(&["--cni-plugin-dir", "relative"]);
    assert!(said.contains("cni-plugin-dir") && said.contains("relative"), "{said}");
}
