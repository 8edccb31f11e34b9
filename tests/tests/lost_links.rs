//! Links that somebody deleted by hand, and records from before a reboot.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use garden_client::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::{Backend, BandwidthLimits, ContainerSpec, NetIn, ProcessSpec, Properties};
use tests::{
    killable::{Killable, can_make_containers, supervisors, supervisors_left},
    world::end,
};

/// A container with a port and a limit, and whose handle no other test has.
async fn create(client: &Client, server: &Killable, name: &str) -> String {
    let mut spec = ContainerSpec { handle: format!("{}{name}", server.link_prefix()), ..Default::default() };
    spec.net_in = vec![NetIn { host_port: 0, container_port: 8080 }];
    spec.limits.bandwidth = BandwidthLimits { rate_bytes_per_second: 1 << 20, burst_bytes: 64 << 10 };
    client.create(spec).await.expect("create")
}

async fn info(client: &Client, handle: &str) -> protocol::ContainerInfo {
    client.info(handle).await.expect("info").into_value()
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip");
    String::from_utf8(output.stdout).unwrap()
}

/// The link by which the host reaches a container.
async fn link(client: &Client, handle: &str) -> String {
    let route = ip(&["-4", "-o", "route", "show", &info(client, handle).await.container_ip]);
    route.split(' ').skip_while(|word| *word != "dev").nth(1).expect("a link").to_owned()
}

/// What a program in the container answers at its published port.
async fn answer(client: &Client, handle: &str) -> String {
    let host_port = info(client, handle).await.mapped_ports.expect("ports")[0].host_port;
    let spec = ProcessSpec::new("sh", ["-c", "exec nc -l -p 8080 -e echo pong"]);
    let process = client.run(handle, spec).await.expect("run");
    let answer = loop {
        match tokio::net::TcpStream::connect(("127.0.0.1", host_port)).await {
            Ok(mut stream) => {
                let mut answer = String::new();
                tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("an answer");
                break answer;
            }
            // Until nc listens.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                tokio::task::yield_now().await
            }
            Err(error) => panic!("connect: {error}"),
        }
    };
    end(process).await;
    answer
}

fn kill_supervisors(handle: &str) {
    for line in supervisors(handle) {
        let pid = line.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid");
        // The container's init goes with its supervisor.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_link_was_deleted_is_destroyed() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let handle = create(&client, &server, "destroyed").await;
    ip(&["link", "delete", &link(&client, &handle).await]);
    client.destroy(&handle).await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_names_the_container_whose_link_was_deleted_and_makes_it_again() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let (handle, other) = (create(&client, &server, "lost").await, create(&client, &server, "other").await);
    let (lost, kept) = (link(&client, &handle).await, link(&client, &other).await);
    let before = (info(&client, &handle).await, ip(&["-o", "link", "show", &kept]));
    ip(&["link", "delete", &lost]);
    server.kill();
    let client = server.start(None).await;
    let said = format!("was made again handle=\"{handle}\"");
    assert!(server.log().contains(&said), "{}", server.log());
    assert_eq!(link(&client, &handle).await, lost);
    let after = info(&client, &handle).await;
    assert_eq!((&after.container_ip, &after.mapped_ports), (&before.0.container_ip, &before.0.mapped_ports));
    assert_eq!(answer(&client, &handle).await, "pong\n");
    let queue = Command::new("tc").args(["qdisc", "show", "dev", &lost]).output().expect("tc");
    assert!(String::from_utf8_lossy(&queue.stdout).contains("tbf"));
    assert_eq!(ip(&["-o", "link", "show", &kept]), before.1, "what was there is still what it was");
    client.destroy(&handle).await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_link_cannot_be_made_again_is_named_and_can_be_destroyed() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let handle = create(&client, &server, "dead").await;
    ip(&["link", "delete", &link(&client, &handle).await]);
    server.kill();
    kill_supervisors(&handle);
    assert_eq!(supervisors_left(&handle).await, Vec::<String>::new());
    let client = server.start(None).await;
    assert!(server.log().contains("cannot be made again"), "{}", server.log());
    client.destroy(&handle).await.expect("destroy");
    let handle = create(&client, &server, "next").await;
    assert_eq!(answer(&client, &handle).await, "pong\n");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_before_a_reboot_is_forgotten_and_its_addresses_and_ports_are_free() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let network = server.named_address().to_string();
    let spec = || ContainerSpec { network: network.clone(), ..Default::default() };
    let (handle, named) =
        (create(&client, &server, "before").await, client.create(spec()).await.expect("create"));
    let port = info(&client, &handle).await.mapped_ports.expect("ports")[0].host_port;
    server.kill();
    kill_supervisors(&handle);
    kill_supervisors(&named);
    // As if the depot had outlived the host: of the containers themselves nothing does.
    fs::write(server.path("depot/host/boot_id"), "another\n").expect("another boot");
    let client = server.start(None).await;
    assert_eq!(client.list(&Properties::new()).await.expect("list").to_vec(), Vec::<String>::new());
    assert!(!Path::new(&server.path("depot/containers").join(&handle)).exists());
    client.create(spec()).await.expect("the address is free");
    let handle = create(&client, &server, "after").await;
    let other = client.create(ContainerSpec::default()).await.expect("create");
    let taken = info(&client, &handle).await.mapped_ports.expect("ports")[0].host_port;
    if taken != port {
        client.net_in(&other, NetIn { host_port: port, container_port: 80 }).await.expect("the port is free");
    }
    assert_eq!(answer(&client, &handle).await, "pong\n");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}
