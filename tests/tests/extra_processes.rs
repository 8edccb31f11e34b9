//! Processes with limits of their own, on a real kernel: what the limits hold and what they leave alone, and that nothing
//! of them is left.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, Instant},
};

use protocol::{
    Backend, ContainerSpec, CpuLimits, ImageRef, MemoryLimits, Metrics, ProcessLimits, ProcessSpec,
};
use tests::{
    columns::{Behaviour, check},
    killable::{Killable, can_make_containers},
    linux::{linux, linux_with},
    patience::patience,
    world::{World, end},
};

static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(30));
const SMALL: u64 = 32 << 20;
/// More than what is small, less than what a machine has.
const EAT_200_MIB: &str = "exec dd if=/dev/zero of=/dev/null bs=200M count=1";
/// Until told to go on.
const WAIT: &str = "echo ready; while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 7";

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

/// A process with these limits; 0 is none.
fn limited(id: &str, memory_bytes: u64, cpu_shares: u64, script: &str) -> ProcessSpec {
    let limits = ProcessLimits {
        memory: MemoryLimits { limit_in_bytes: memory_bytes },
        cpu: CpuLimits { limit_in_shares: cpu_shares, ..CpuLimits::default() },
    };
    ProcessSpec { id: id.to_owned(), limits: Some(limits), ..ProcessSpec::new("sh", ["-c", script]) }
}

async fn status(world: &World, handle: &str, spec: ProcessSpec) -> i32 {
    end(world.backend().run(handle, spec).await.expect("run")).await.status
}

async fn events(backend: &dyn Backend, handle: &str) -> Option<Vec<String>> {
    backend.info(handle).await.expect("info").into_value().events
}

/// What the process uses, while it is counted by itself.
async fn metrics(backend: &dyn Backend, id: &str) -> Option<Metrics> {
    let entries = backend.bulk_metrics(&[id.to_owned()]).await.expect("bulk metrics").0;
    let entry = entries[id].clone();
    entry.err.is_none().then_some(entry.metrics)
}

/// The groups of processes below all our groups of that tag.
fn groups(tag: &str) -> Vec<PathBuf> {
    let below = |directory: PathBuf| {
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let roots = below("/sys/fs/cgroup".into()).chain(["/sys/fs/cgroup".into()]);
    let bases = roots.map(|root: PathBuf| root.join(format!("garden-{tag}")));
    let ours = bases.flat_map(below).flat_map(|group| below(group.clone()).chain([group]));
    let of_process =
        |group: &PathBuf| group.is_dir() && group.file_name().unwrap().to_str().unwrap().starts_with("p-");
    ours.filter(of_process).collect()
}

/// The tag of the world, by a process of `handle`: the container's groups are below those of the tag.
async fn tag_of(world: &World, handle: &str) -> String {
    let pid = world.backend().run(handle, ProcessSpec::new("sleep", ["1000"])).await.expect("run");
    let marker = format!("/c-{handle}");
    let found = fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let text = fs::read_to_string(process.path().join("cgroup")).ok()?;
        let line = text.lines().find(|line| line.contains(&marker))?.to_owned();
        Some(line.split("/garden-").nth(1)?.split('/').next()?.to_owned())
    });
    pid.control.signal(protocol::Signal::Kill).await.expect("kill");
    assert_eq!(pid.exit.await, Ok(137));
    found.expect("the container's group")
}

async fn until_groups_are_gone(tag: &str) {
    let begun = Instant::now();
    while !groups(tag).is_empty() {
        assert!(begun.elapsed() < *PATIENCE, "left after {PATIENCE:?}: {:?}", groups(tag));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_it_has_processes(backend: &dyn Backend, id: &str, number: u64) -> Metrics {
    let begun = Instant::now();
    loop {
        let own = metrics(backend, id).await.expect("an entry");
        if own.pid.current >= number {
            return own;
        }
        assert!(begun.elapsed() < *PATIENCE, "{id} has {} processes after {PATIENCE:?}", own.pid.current);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_uncounted(backend: &dyn Backend, id: &str) {
    let begun = Instant::now();
    while metrics(backend, id).await.is_some() {
        assert!(begun.elapsed() < *PATIENCE, "{id} has metrics after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn its_own_limit_kills_it_and_is_an_event_before_the_exit_status() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let hog = world.backend().run(&handle, limited("hog", SMALL, 0, EAT_200_MIB)).await.expect("run");
            assert_eq!(hog.exit.await, Ok(137));
            let seen = events(world.backend(), &handle).await;
            assert_eq!(seen, Some(vec!["Out of memory".to_owned()]));
            let unlimited = world.run_to_end(&handle, &["sh", "-c", EAT_200_MIB]).await;
            assert_eq!(unlimited.status, 0, "the limit is the process's only");
            assert_eq!(events(world.backend(), &handle).await, seen, "one kill is one event");
        })
    });
}

#[test]
fn the_containers_limit_does_not_touch_one_with_limits_of_its_own() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create_with(|spec| spec.limits.memory.limit_in_bytes = SMALL).await;
            assert_eq!(status(world, &handle, limited("none", 0, 0, EAT_200_MIB)).await, 0);
            assert_eq!(status(world, &handle, limited("large", 400 << 20, 0, EAT_200_MIB)).await, 0);
            assert_eq!(events(world.backend(), &handle).await.unwrap_or_default(), Vec::<String>::new());
            let ordinary = world.run_to_end(&handle, &["sh", "-c", EAT_200_MIB]).await;
            assert_eq!(ordinary.status, 137, "the container's limit is in force");
        })
    });
}

#[test]
fn one_with_an_image_alone_counts_against_the_containers_limit() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create_with(|spec| spec.limits.memory.limit_in_bytes = SMALL).await;
            let with_image = |id: &str, limits, script: &str| ProcessSpec {
                image: ImageRef { uri: busybox_image().display().to_string(), ..ImageRef::default() },
                limits,
                ..limited(id, 0, 0, script)
            };
            assert_eq!(status(world, &handle, with_image("inside", None, EAT_200_MIB)).await, 137);
            assert_eq!(events(world.backend(), &handle).await, Some(vec!["Out of memory".to_owned()]));
            let none = Some(ProcessLimits::default());
            assert_eq!(status(world, &handle, with_image("beside", none, EAT_200_MIB)).await, 0);
            let waiting = world.backend().run(&handle, with_image("counted", None, WAIT)).await.expect("run");
            let own = metrics(world.backend(), "counted").await.expect("an entry");
            assert!(own.pid.current >= 1 && own.memory.total_usage_toward_limit > 0, "{own:?}");
            let all = world.backend().metrics(&handle).await.expect("metrics");
            assert!(all.pid.current > own.pid.current, "the container's counts it too: {all:?}");
            world.run_to_end(&handle, &["touch", "/dev/shm/go"]).await;
            assert_eq!(waiting.exit.await, Ok(7));
        })
    });
}

#[test]
fn its_id_is_free_when_what_it_had_of_its_own_is_gone_where_ended_processes_are_forgotten() {
    let behaviour: Behaviour = |world| {
        Box::pin(async move {
            let handle = world.create().await;
            for round in 0..5 {
                // What one leaves in its root the next one does not find.
                let script = format!("[ ! -e /mark ] && echo {round} > /mark && read x < /mark && echo $x");
                let spec = ProcessSpec {
                    image: ImageRef { uri: busybox_image().display().to_string(), ..ImageRef::default() },
                    ..limited("same", SMALL, 0, &script)
                };
                let ended = world.run_spec_to_end(&handle, spec).await;
                assert_eq!(ended.text(), format!("{round}\n"));
                assert!(world.backend().attach(&handle, "same").await.is_err());
            }
        })
    };
    check(linux_with(|config| config.cleanup_process_dirs_on_wait = true), behaviour);
}

/// The host's busybox as an image; the same for all.
fn busybox_image() -> PathBuf {
    static IMAGE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| fs::exists(path).unwrap());
        fs::copy(busybox.expect("busybox"), bin.join("busybox")).unwrap();
        for applet in ["sh", "dd", "sleep"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        directory
    });
    image.path().to_owned()
}

#[test]
fn its_groups_have_what_was_asked_for_and_go_with_what_it_left_behind() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let tag = tag_of(world, &handle).await;
            assert_eq!(groups(&tag), Vec::<PathBuf>::new());
            // A child that outlives it, and does not hold its output.
            let script = format!("sleep 1000 >/dev/null 2>&1 </dev/null & {WAIT}");
            let spec = limited("apart", SMALL, 512, &script);
            let process = world.backend().run(&handle, spec).await.expect("run");
            let read = |names: [&str; 2]| {
                let of_all = groups(&tag);
                of_all
                    .iter()
                    .find_map(|group| names.iter().find_map(|name| fs::read_to_string(group.join(name)).ok()))
            };
            let memory = read(["memory.limit_in_bytes", "memory.max"]);
            assert_eq!(memory.expect("a limit").trim(), SMALL.to_string());
            let shares = read(["cpu.shares", "cpu.weight"]).expect("shares");
            assert!(["512", "20"].contains(&shares.trim()), "{shares}");
            // It and its child.
            let own = until_it_has_processes(world.backend(), "apart", 2).await;
            assert_eq!(own.memory.hierarchical_memory_limit, SMALL);
            let container = world.backend().metrics(&handle).await.expect("metrics");
            assert_eq!(container.pid.current, 1, "the container's own: its init");
            world.run_to_end(&handle, &["touch", "/dev/shm/go"]).await;
            assert_eq!(process.exit.await, Ok(7));
            until_groups_are_gone(&tag).await;
            until_uncounted(world.backend(), "apart").await;
        })
    });
}

#[test]
fn of_two_at_once_with_one_id_one_wins() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            for round in 0..10 {
                let id = format!("twice-{round}");
                let run = || world.backend().run(&handle, limited(&id, 0, 0, "exit 3"));
                let (first, second) = tokio::join!(run(), run());
                let (won, lost) = match (first, second) {
                    (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
                    (first, second) => panic!("{:?} {:?}", first.err(), second.err()),
                };
                assert_eq!(won.exit.await, Ok(3));
                assert!(lost.to_string().contains("already exists"), "{lost}");
            }
        })
    });
}

#[test]
fn one_that_cannot_start_leaves_no_group() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let tag = tag_of(world, &handle).await;
            let missing = ProcessSpec { path: "/not/there".to_owned(), ..limited("one", 0, 0, "") };
            world.backend().run(&handle, missing).await.expect_err("no such program");
            until_groups_are_gone(&tag).await;
            assert_eq!(status(world, &handle, limited("one", 0, 0, "exit 4")).await, 4, "its id is free");
        })
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_the_server_with_its_limits_and_its_metrics() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let handle = client.create(ContainerSpec::default()).await.expect("create");
    let script = format!("{WAIT} | cat; {EAT_200_MIB}");
    client.run(&handle, limited("hog", SMALL, 0, &script)).await.expect("run");
    client.run(&handle, limited("other", 0, 0, "sleep 1000")).await.expect("run");
    let before = metrics(&client, "hog").await.expect("an entry");
    server.kill();

    let client = server.start(None).await;
    let after = metrics(&client, "hog").await.expect("an entry");
    assert_eq!(after.memory.hierarchical_memory_limit, SMALL);
    assert!(after.age >= before.age, "{:?} then {:?}", before.age, after.age);
    assert_eq!(client.list(&protocol::Properties::new()).await.expect("list").len(), 1);
    let process = client.attach(&handle, "hog").await.expect("attach");
    end(client.run(&handle, ProcessSpec::new("touch", ["/dev/shm/go"])).await.expect("run")).await;
    assert_eq!(process.exit.await.expect("exit"), 137);
    assert_eq!(events(&client, &handle).await, Some(vec!["Out of memory".to_owned()]));
    until_uncounted(&client, "hog").await;
    assert!(metrics(&client, "other").await.is_some(), "the other goes on");

    client.destroy(&handle).await.expect("destroy");
    assert_eq!(server.left_behind().await, Vec::<String>::new());
    server.clean_up().await;
}
