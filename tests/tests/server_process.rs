//! What only a server that is a process of its own can show: what it hands on, opens, and finds again.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    time::{Duration, Instant},
};

use protocol::{Backend, ContainerSpec, ProcessSpec, Properties};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tests::{
    killable::{Killable, binary, can_make_containers},
    patience::patience,
    world::end,
};

fn spec(handle: &str) -> ContainerSpec {
    ContainerSpec { handle: handle.to_owned(), ..ContainerSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_groups_are_not_the_containers() {
    if !can_make_containers() {
        return;
    }
    let script = "$) = '0 4242 4343'; exec @ARGV or exit 9";
    let mut server = Killable::new().started_by(&["perl", "-e", script, "--"]);
    let client = server.start(None).await;
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server's status");
    assert!(status.lines().any(|line| line.starts_with("Groups:") && line.contains("4242")), "{status}");
    client.create(spec("groups")).await.expect("create");
    for user in ["root", "vcap"] {
        let args = vec!["-c".to_owned(), "grep ^Groups: /proc/self/status /proc/1/status".to_owned()];
        let run = ProcessSpec { path: "sh".into(), args, user: user.into(), ..ProcessSpec::default() };
        let text = end(client.run("groups", run).await.expect("run")).await.text();
        assert!(
            text.lines().count() == 2 && !text.contains("4242") && !text.contains("4343"),
            "{user}: {text}"
        );
    }
    client.destroy("groups").await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_opens_no_file() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let properties = Properties::from([("colour".to_owned(), "red".to_owned())]);
    client.create(ContainerSpec { properties: properties.clone(), ..spec("listed") }).await.expect("create");
    client.create(spec("other")).await.expect("create");
    client.info("listed").await.expect("info");
    // From here on the server can open nothing: neither a group's files nor a record nor a connection.
    let pid = Pid::from_raw(server.pid().try_into().unwrap()).unwrap();
    let as_it_was = getrlimit(Resource::Nofile);
    let set = |limit| prlimit(Some(pid), Resource::Nofile, limit).expect("set the server's limit");
    set(Rlimit { current: Some(0), ..as_it_was });
    let metrics = client.metrics("listed").await;
    metrics.expect_err("metrics are read from files, which shows that none can be opened");
    let everything = Properties::from([("garden.state".to_owned(), "all".to_owned())]);
    for (filter, handles) in [
        (Properties::new(), &["listed", "other"][..]),
        (properties, &["listed"][..]),
        (everything, &["listed", "other"][..]),
    ] {
        let mut listed = client.list(&filter).await.expect("list").to_vec();
        listed.sort();
        assert_eq!(listed, handles, "{filter:?}");
    }
    set(as_it_was);
    for handle in ["listed", "other"] {
        client.destroy(handle).await.expect("destroy");
    }
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_time_outlives_the_server() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let grace_time = Duration::from_secs(2);
    client.create(ContainerSpec { grace_time, ..spec("given") }).await.expect("create");
    client.create(spec("set")).await.expect("create");
    client.set_grace_time("set", grace_time).await.expect("set the grace time");
    client.create(spec("kept")).await.expect("create");
    server.kill();

    let client = server.start(None).await;
    let begun = Instant::now();
    loop {
        let mut left = client.list(&Properties::new()).await.expect("list").to_vec();
        left.sort();
        if left == ["kept"] {
            break;
        }
        assert!(begun.elapsed() < patience(30), "still there: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.destroy("kept").await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_an_earlier_version_is_found_again_and_destroyed() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    client.create(spec("earlier")).await.expect("create");
    let sleep = ProcessSpec { id: "sleeps".into(), ..ProcessSpec::new("sleep", ["1000"]) };
    client.run("earlier", sleep).await.expect("run");
    server.kill();
    // The first version's records were files of one object, with neither ranges of ids nor processes with something to
    // themselves.
    let path = server.path("depot/containers/earlier/record.json");
    let lines = fs::read_to_string(&path).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    for newer in ["ids", "apart"] {
        record.as_object_mut().unwrap().remove(newer).expect(newer);
    }
    fs::write(&path, record.to_string()).unwrap();

    let client = server.start(None).await;
    let process = client.attach("earlier", "sleeps").await.expect("attach");
    client.destroy("earlier").await.expect("destroy");
    assert_eq!(process.exit.await, Ok(137));
    assert_eq!(server.left_behind().await, Vec::<String>::new());
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[test]
fn the_documented_pools_are_the_default() {
    let output = std::process::Command::new(binary("garden-server")).arg("config").output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["network-pool = \"10.254.0.0/22\"", "port-pool-start = 61001", "port-pool-size = 4534"] {
        assert!(
            text.lines().any(|found| found.split("  #").next() == Some(line)),
            "{line} is not in\n{text}"
        );
    }
}
