//! A server that is killed loses nothing and leaves nothing: at every write of a record, and at any other instant.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use garden_client::Client;
use protocol::{Backend, ContainerSpec, Error, NetIn, ProcessLimits, ProcessSpec, Properties, Result};
use tests::{
    killable::{Killable, can_make_containers, supervisors_left},
    patience::{patience, rounds},
};

/// How many times the server is killed at some instant.
const RANDOM_KILLS: u64 = 100;

fn spec(handle: &str) -> ContainerSpec {
    ContainerSpec { handle: handle.to_owned(), ..ContainerSpec::default() }
}

fn sh(id: &str, script: &str) -> ProcessSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    ProcessSpec { id: id.to_owned(), path: "/bin/sh".to_owned(), args, ..ProcessSpec::default() }
}

/// Runs a script to its end.
async fn status(client: &Client, handle: &str, script: &str) -> Result<i32> {
    client.run(handle, sh("", script)).await?.exit.await
}

async fn read_all(mut stream: protocol::ByteStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(_) => return (bytes, false),
        }
    }
    (bytes, true)
}

/// What a client knows to have happened.
#[derive(Default, Debug)]
struct Facts {
    created: bool,
    property: bool,
    port: Option<NetIn>,
    ended: bool,
    started: bool,
    stopping: bool,
    destroying: bool,
    destroyed: bool,
}

/// A container's life, with every kind of write; stops at the first answer that does not come.
async fn life(client: &Client, handle: &str, facts: &mut Facts) -> Result<()> {
    client.create(ContainerSpec { net_in: vec![NetIn::default()], ..spec(handle) }).await?;
    facts.created = true;
    client.set_property(handle, "colour", "red").await?;
    facts.property = true;
    let ended = client.run(handle, sh("ended", "echo all of it; exit 5")).await?;
    facts.ended = true;
    ended.exit.await?;
    client.run(handle, sh("running", "echo one; read line; echo two $line; exit 6")).await?;
    facts.started = true;
    let limits = Some(ProcessLimits::default());
    client.run(handle, ProcessSpec { limits, ..sh("apart", "exit 4") }).await?.exit.await?;
    client.run(handle, ProcessSpec { limits, ..sh("apart too", "exec sleep 1000") }).await?;
    facts.port = Some(client.net_in(handle, NetIn { host_port: 0, container_port: 80 }).await?);
    client.set_grace_time(handle, Duration::from_secs(3600)).await?;
    facts.stopping = true;
    client.stop(handle, true).await?;
    facts.destroying = true;
    client.destroy(handle).await?;
    facts.destroyed = true;
    Ok(())
}

/// Holds what a new server says against what the old one had said.
async fn check(client: &Client, handle: &str, facts: &Facts) {
    let listed = client.list(&Properties::new()).await.expect("list").contains(&handle.to_owned());
    if facts.destroyed || !facts.created {
        assert!(!facts.destroyed || !listed, "destroyed, and listed");
    } else {
        assert!(listed || facts.destroying, "created, and not listed: {facts:?}");
    }
    if !listed {
        assert!(matches!(client.info(handle).await, Err(Error::ContainerNotFound { .. })));
        return;
    }
    let info = client.info(handle).await.expect("info").into_value();
    let ports = info.mapped_ports.unwrap_or_default();
    assert!(!ports.is_empty(), "the port it was created with is gone");
    if facts.property {
        assert_eq!(client.property(handle, "colour").await.expect("property"), "red");
    }
    if let Some(port) = facts.port {
        assert!(ports.iter().any(|p| p.host_port == port.host_port && p.container_port == 80), "{ports:?}");
    }
    assert_eq!(status(client, handle, "exit 3").await.expect("run"), 3);
    if facts.ended {
        let process = client.attach(handle, "ended").await.expect("attach to the ended process");
        let (output, _) = read_all(process.stdout.open()).await;
        assert_eq!(String::from_utf8_lossy(&output), "all of it\n");
        assert_eq!(process.exit.await.expect("its exit status"), 5);
    }
    if facts.started && !facts.stopping {
        let process = client.attach(handle, "running").await.expect("attach to the running process");
        process.control.write_stdin("more\n".into()).await.expect("write to it");
        let (output, _) = read_all(process.stdout.open()).await;
        assert_eq!(String::from_utf8_lossy(&output), "one\ntwo more\n");
        assert_eq!(process.exit.await.expect("its exit status"), 6);
    }
    client.destroy(handle).await.expect("destroy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_write_of_a_record_loses_nothing_and_leaves_nothing() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    for write in 1.. {
        let handle = format!("write-{}-{write}", std::process::id());
        let mut facts = Facts::default();
        let client = server.start(Some(write)).await;
        let lived = life(&client, &handle, &mut facts).await;
        // Whoever loses the connection learns of it before the parent does.
        let died = lived.is_err() && server.dies().await;
        assert!(lived.is_ok() || died, "not because of a kill: {lived:?}");
        server.kill();

        let client = server.start(None).await;
        check(&client, &handle, &facts).await;
        assert_eq!(server.left_behind().await, Vec::<String>::new(), "after write {write}: {facts:?}");
        assert_eq!(supervisors_left(&handle).await, Vec::<String>::new(), "after write {write}: {facts:?}");
        server.kill();
        if lived.is_ok() {
            assert!(write > 16, "a life has at least eight writes, of two steps each: {write}");
            println!("{} steps of writes", write - 1);
            break;
        }
    }
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

/// Random numbers without a crate: the seeds of hash tables are random.
fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// What a reader has of a stream of numbered lines, through any number of servers.
#[derive(Default)]
struct Lines {
    received: Vec<u8>,
    complete: u64,
    repeated: u64,
}

impl Lines {
    /// Takes what one server sent. It begins anywhere in a line that the one before may have sent in part.
    fn take(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            let number: u64 = String::from_utf8_lossy(&line).trim().parse().expect("a whole line");
            if number < self.complete {
                self.repeated += 1;
                continue;
            }
            assert_eq!(number, self.complete, "lines are missing");
            self.complete += 1;
        }
    }
}

/// Makes, uses and destroys containers until told to stop, and keeps book of those that must exist.
async fn load(client: Client, prefix: String, stop: Arc<AtomicBool>, exist: Arc<Mutex<BTreeSet<String>>>) {
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        count += 1;
        let handle = format!("{prefix}-{count}");
        if client.create(spec(&handle)).await.is_err() {
            return;
        }
        exist.lock().unwrap().insert(handle.clone());
        match status(&client, &handle, "exit 3").await {
            Ok(status) => assert_eq!(status, 3),
            Err(_) => return,
        }
        exist.lock().unwrap().remove(&handle);
        if client.destroy(&handle).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_instants_under_load_lose_nothing_and_leave_nothing() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let prefix = format!("random-{}", std::process::id());
    let constant = format!("{prefix}-constant");
    let client = server.start(None).await;
    client.create(spec(&constant)).await.expect("create");
    let script = "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); usleep 500; done; exit 9";
    client.run(&constant, sh("counter", script)).await.expect("run");

    let mut lines = Lines::default();
    let mut leaver_started = false;
    let kills = rounds(RANDOM_KILLS);
    // The load is under way by then, wherever it runs.
    let latest = patience(15) / 100;
    for kill in 0..kills {
        let client = if kill == 0 { client.clone() } else { server.start(None).await };
        if leaver_started {
            let leaver = client.attach(&constant, &format!("leaver-{}", kill - 1)).await.expect("attach");
            assert_eq!(leaver.exit.await.expect("the exit status of a process that ended meanwhile"), 42);
        }
        let exist: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let loads: Vec<_> = (0..4)
            .map(|worker| {
                let prefix = format!("{prefix}-{kill}-{worker}");
                tokio::spawn(load(client.clone(), prefix, Arc::clone(&stop), Arc::clone(&exist)))
            })
            .collect();
        let counter = client.attach(&constant, "counter").await.expect("attach to the counter");
        let reading = tokio::spawn(read_all(counter.stdout.open()));
        let id = format!("leaver-{kill}");
        leaver_started = client.run(&constant, sh(&id, "usleep 50000; exit 42")).await.is_ok();

        tokio::time::sleep(Duration::from_micros(random(latest.as_micros() as u64))).await;
        server.kill();
        stop.store(true, Ordering::SeqCst);
        for load in loads {
            load.await.expect("the load");
        }
        lines.take(&reading.await.expect("the reader").0);

        let client = server.start(None).await;
        let listed: BTreeSet<String> =
            client.list(&Properties::new()).await.expect("list").iter().cloned().collect();
        let exist = exist.lock().unwrap().clone();
        assert!(listed.contains(&constant));
        assert!(exist.is_subset(&listed), "created, and not listed: {:?}", exist.difference(&listed));
        for handle in listed.iter().filter(|handle| **handle != constant) {
            assert_eq!(status(&client, handle, "exit 3").await.expect("run"), 3, "{handle}");
            client.destroy(handle).await.expect("destroy");
        }
        server.kill();
    }

    let client = server.start(None).await;
    let counter = client.attach(&constant, "counter").await.expect("attach to the counter");
    let reading = tokio::spawn(read_all(counter.stdout.open()));
    assert_eq!(status(&client, &constant, "touch /stop").await.expect("touch"), 0);
    let (rest, whole) = reading.await.expect("the reader");
    assert!(whole, "the last server was not killed");
    lines.take(&rest);
    assert_eq!(counter.exit.await.expect("exit status"), 9);
    assert_eq!(lines.received, b"", "it ended with a whole line");
    println!("{} lines, {} of them twice, over {kills} kills", lines.complete, lines.repeated);
    assert!(lines.complete > 1000);

    client.destroy(&constant).await.expect("destroy");
    assert_eq!(supervisors_left(&prefix).await, Vec::<String>::new());
    assert_eq!(server.left_behind().await, Vec::<String>::new());
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}
