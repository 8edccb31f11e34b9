//! What is left of networks that plug-ins make when the server dies, a plug-in fails, a supervisor dies: nothing.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, time::Instant};

use futures_util::future::join_all;
use protocol::{Backend, ContainerSpec};
use rustix::process::{Pid, Signal, kill_process};
use tests::{
    cni::{Host, POLL, bridge_and_ports, port, spec},
    killable::{supervisors, supervisors_left},
    patience::patience,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_between_any_two_plugins_leaves_nothing() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let mut died = 0;
    loop {
        let client = server.start(Some(died + 1)).await;
        let created = client.create(ContainerSpec { net_in: vec![port(80)], ..spec("cut") }).await;
        if created.is_ok() {
            break;
        }
        assert!(server.dies().await, "{created:?}");
        server.kill();
        died += 1;
        let client = server.start(None).await;
        if client.info("cut").await.is_ok() {
            client.destroy("cut").await.expect("destroy");
        }
        assert_eq!(host.left(), Vec::<String>::new(), "after death {died}");
        assert_eq!(supervisors_left("cut").await, Vec::<String>::new());
        server.kill();
    }
    // One record before the first plug-in, one after each of three, and one at the end, with two deaths at each.
    assert_eq!(died, 10);
    server.kill();
    let client = server.start(None).await;
    client.destroy("cut").await.expect("destroy");
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_fails_the_create_in_its_own_words_and_nothing_is_left() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    for (script, expected) in [
        (
            r#"[ $CNI_COMMAND = ADD ] && echo '{"code": 100, "msg": "not today"}' && exit 1"#,
            "not today (code 100)",
        ),
        ("[ $CNI_COMMAND = ADD ] && echo hello && exit 0", "is no result"),
        ("[ $CNI_COMMAND = ADD ] && echo >&2 oops && exit 2", "oops"),
    ] {
        host.replace_plugin("firewall", script);
        let error = client.create(spec("unlucky")).await.unwrap_err().to_string();
        assert!(error.contains("firewall") && error.contains(expected), "{error}");
        assert_eq!(host.left(), Vec::<String>::new());
        client.info("unlucky").await.expect_err("it does not exist");
    }
    fs::remove_file(host.path("plugins/firewall")).unwrap();
    client.create(spec("lucky")).await.expect("create");

    // What cannot be taken away now is taken away later.
    host.replace_plugin("bridge", "exit 4");
    let error = client.destroy("lucky").await.unwrap_err().to_string();
    assert!(error.contains("bridge") && error.contains("exit status: 4"), "{error}");
    fs::remove_file(host.path("plugins/bridge")).unwrap();
    let begun = Instant::now();
    while client.info("lucky").await.is_ok() {
        assert!(begun.elapsed() < patience(20), "{}", server.log());
        tokio::time::sleep(POLL).await;
    }
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_supervisor_was_killed_leaves_nothing_either() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    let handle = format!("orphan-{}", std::process::id());
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec(&handle) }).await.expect("create");
    let found = supervisors(&handle);
    let pid = found[0].split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    kill_process(pid.expect("a supervisor"), Signal::KILL).expect("kill");
    assert_eq!(supervisors_left(&handle).await, Vec::<String>::new());
    client.destroy(&handle).await.expect("destroy");
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_have_an_address_each_and_leave_nothing() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    let handles: Vec<String> = (0..12).map(|number| format!("many-{number}")).collect();
    let create = |handle| client.create(ContainerSpec { net_in: vec![port(80)], ..spec(handle) });
    for made in join_all(handles.iter().map(|handle| create(handle))).await {
        made.expect("create");
    }
    let mut addresses = Vec::new();
    for handle in &handles {
        addresses.push(client.info(handle).await.expect("info").container_ip.clone());
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), handles.len());
    for gone in join_all(handles.iter().map(|handle| client.destroy(handle))).await {
        gone.expect("destroy");
    }
    host.close(server).await;
}
