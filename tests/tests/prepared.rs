//! What is made ahead of containers: used, replaced, given up, and gone with the server.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};

use garden_client::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::{Backend, ContainerSpec, ProcessSpec, Properties};
use rustix::{
    io::ioctl_fionread,
    process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use tests::{
    killable::{Killable, can_make_containers},
    patience::patience,
    world::end,
};
use tokio::task::JoinHandle;

static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(30));

/// Waits for something to be as it should.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < *PATIENCE, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Children of a process that run the supervisors' program under that name.
fn children(of: u32, comm: &str) -> BTreeSet<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm") == format!("{comm}\n").as_bytes()
            && read("cmdline").starts_with(b"garden-init\0 ")
            && parent(*pid) == Some(of)
    })
    .collect()
}

/// Supervisors of a server that have no container yet.
fn waiting(server: u32) -> BTreeSet<u32> {
    let templates = children(server, "garden-template");
    templates.into_iter().flat_map(|template| children(template, "garden-init")).collect()
}

/// Who lives at the other ends of the host's links.
fn waiting_addresses(server: &Killable) -> Vec<Ipv4Addr> {
    let output = Command::new("ip").args(["-4", "-o", "route", "show"]).output().expect("ip");
    let routes = String::from_utf8(output.stdout).unwrap();
    let ours = format!("dev {}", server.link_prefix());
    let addresses =
        routes.lines().filter(|line| line.contains(&ours)).filter_map(|line| line.split(' ').next());
    addresses.map(|address| address.parse().expect("an address")).collect()
}

async fn full(server: &Killable, number: usize) -> BTreeSet<u32> {
    until("prepared", || {
        let waiting = waiting(server.pid());
        // A link is the last thing that is made.
        (waiting.len() == number && waiting_addresses(server).len() >= number).then_some(waiting)
    })
    .await
}

async fn works(client: &dyn Backend, handle: &str) {
    // Not its `operstate`, which says so up to a second later.
    let spec = ProcessSpec::new("cat", ["/sys/class/net/eth0/carrier"]);
    let ended = end(client.run(handle, spec).await.expect("run")).await;
    assert_eq!((ended.text().as_str(), ended.status), ("1\n", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_made_of_what_was_prepared_and_more_is_prepared() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new().with_options(&["--prepared-containers", "2"]);
    let client = server.start(None).await;
    let before = full(&server, 2).await;
    let handle = client.create(ContainerSpec::default()).await.expect("create");
    let used = before.iter().filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with(format!("garden-init\0{handle}\0").as_bytes())
    });
    assert_eq!(used.count(), 1, "one of those that waited has the container");
    works(&client, &handle).await;
    let after = full(&server, 2).await;
    assert_eq!(before.intersection(&after).count(), 1, "{before:?} {after:?}");
    client.destroy(&handle).await.expect("destroy");
    server.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_supervisors_are_copied_from_is_replaced_when_it_dies() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new().with_options(&["--prepared-containers", "0"]);
    let client = server.start(None).await;
    let first = client.create(ContainerSpec::default()).await.expect("create");
    let template = children(server.pid(), "garden-template");
    assert_eq!(template.len(), 1, "{template:?}");
    let pid = nix::unistd::Pid::from_raw(*template.first().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
        .expect("kill what supervisors are copied from");
    until("dead", || (!children(server.pid(), "garden-template").contains(template.first()?)).then_some(()))
        .await;
    // The containers do not depend on it.
    works(&client, &first).await;
    let second = client.create(ContainerSpec::default()).await.expect("create");
    works(&client, &second).await;
    assert_eq!(children(server.pid(), "garden-template").len(), 1);
    for handle in [first, second] {
        client.destroy(&handle).await.expect("destroy");
    }
    server.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_supervisors_are_copied_from_is_replaced_when_it_hangs() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new().with_options(&["--prepared-containers", "0"]);
    let client = server.start(None).await;
    let first = client.create(ContainerSpec::default()).await.expect("create");
    let template = children(server.pid(), "garden-template");
    template.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let second = tokio::time::timeout(*PATIENCE, client.create(ContainerSpec::default()));
    let second = second.await.expect("in time").expect("create");
    let replacement = children(server.pid(), "garden-template");
    assert!(replacement.len() == 1 && replacement != template, "{template:?} {replacement:?}");
    for handle in [first, second] {
        works(&client, &handle).await;
        client.destroy(&handle).await.expect("destroy");
    }
    server.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prepared_and_died_is_passed_over() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new().with_options(&["--prepared-containers", "3"]);
    let client = server.start(None).await;
    let prepared = full(&server, 3).await;
    for pid in prepared.iter().copied() {
        signal(pid, Signal::SIGKILL);
    }
    are_gone(&prepared).await;
    let handle = client.create(ContainerSpec::default()).await.expect("create");
    works(&client, &handle).await;
    full(&server, 3).await;
    server.clean_up().await;
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).expect("signal a supervisor of ours");
}

/// Waits until they have ended to their last step, by which their connections are closed.
async fn are_gone(pids: &BTreeSet<u32>) {
    let gone = || pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    until("gone", || gone().then_some(())).await;
}

/// Whether a request waits for a supervisor to read it.
fn is_asked(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the supervisor");
    let open = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("its descriptors").flatten();
    let mut sockets = open.filter(|fd| {
        fs::read_link(fd.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    });
    sockets.any(|fd| {
        let number = fd.file_name().to_str().expect("a number").parse().expect("a number");
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).expect("its socket");
        ioctl_fionread(socket).expect("how much waits") > 0
    })
}

/// A create that does not get beyond what was prepared, which hangs.
async fn create_that_hangs(
    server: &Killable,
    client: &Client,
) -> (u32, JoinHandle<protocol::Result<String>>) {
    let prepared = *full(server, 1).await.first().unwrap();
    signal(prepared, Signal::SIGSTOP);
    let client = client.clone();
    let spec = ContainerSpec { handle: "hangs".into(), ..ContainerSpec::default() };
    let creating = tokio::spawn(async move { client.create(spec).await });
    until("asked to start", || is_asked(prepared).then_some(())).await;
    (prepared, creating)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_before_it_starts_its_container_is_replaced() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let (prepared, creating) = create_that_hangs(&server, &client).await;
    signal(prepared, Signal::SIGKILL);
    let handle = creating.await.expect("the task").expect("create");
    works(&client, &handle).await;
    client.destroy(&handle).await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_before_it_starts_its_container_is_destroyed_by_the_next_server() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let (prepared, creating) = create_that_hangs(&server, &client).await;
    server.kill();
    creating.await.expect("the task").expect_err("the server is gone");

    let client = server.start(None).await;
    let everything = Properties::from([("garden.state".to_owned(), "all".to_owned())]);
    assert_eq!(client.list(&everything).await.expect("list").to_vec(), Vec::<String>::new());
    assert!(!server.path("depot/containers/hangs").exists());
    // Once it goes on, it finds nothing to start.
    signal(prepared, Signal::SIGCONT);
    until("gone", || (!Path::new(&format!("/proc/{prepared}")).exists()).then_some(())).await;
    let handle = client.create(ContainerSpec { handle: "hangs".into(), ..ContainerSpec::default() }).await;
    works(&client, &handle.expect("create")).await;
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_address_is_the_next_containers_as_soon_as_its_container_is_destroyed() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    for privileged in [false, true, false] {
        let network = server.named_address().to_string();
        let spec = ContainerSpec { network: network.clone(), privileged, ..Default::default() };
        let handle = client.create(spec.clone()).await.expect("create");
        assert_eq!(client.info(&handle).await.expect("info").container_ip, network);
        works(&client, &handle).await;
        client.create(spec).await.expect_err("it is a container's now");
        client.destroy(&handle).await.expect("destroy");
    }
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_nothing_prepared() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new().with_options(&["--prepared-containers", "3"]);
    let client = server.start(None).await;
    let handle = client.create(ContainerSpec::default()).await.expect("create");
    let prepared = full(&server, 3).await;
    server.kill();
    let alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    until("gone", || (!prepared.iter().any(alive)).then_some(())).await;
    until("links gone", || (waiting_addresses(&server).len() == 1).then_some(())).await;
    let client = server.start(None).await;
    works(&client, &handle).await;
    client.destroy(&handle).await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_get_what_there_is_and_the_rest_is_made_for_them() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new().with_options(&["--prepared-containers", "4"]);
    let client = server.start(None).await;
    full(&server, 4).await;
    // As many as the pool of addresses has subnets: those that are prepared are among them.
    let creates = (0..16).map(|_| client.create(ContainerSpec::default()));
    let handles = futures_util::future::join_all(creates).await;
    let handles: Vec<String> = handles.into_iter().map(|handle| handle.expect("create")).collect();
    for handle in &handles {
        works(&client, handle).await;
    }
    server.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_gives_its_place_on_the_network_back() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new().with_options(&["--prepared-containers", "4"]);
    let client = server.start(None).await;
    // More than the pool of addresses has subnets, all in all.
    for _ in 0..5 {
        let prepared = full(&server, 4).await;
        for pid in prepared.iter().copied() {
            signal(pid, Signal::SIGKILL);
        }
        // Others may have taken their places already, if one of them was counted as just made.
        are_gone(&prepared).await;
        let handle = client.create(ContainerSpec::default()).await.expect("create");
        works(&client, &handle).await;
        client.destroy(&handle).await.expect("destroy");
    }
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}
