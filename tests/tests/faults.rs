//! Hostile or unlucky use of containers on a real kernel: each of these has gone wrong once.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{process::Command, time::Duration};

use futures_util::{StreamExt, future::join_all};
use nix::{
    sys::signal::{Signal as NixSignal, kill},
    unistd::Pid as NixPid,
};
use protocol::{
    Backend, BindMount, ContainerSpec, Error, FilesQuery, Limits, MemoryLimits, ProcessSpec, Properties,
    ResourceLimits, TtySpec,
};
use tests::{
    columns::{Behaviour, check},
    killable::{Killable, can_make_containers, supervisors, supervisors_left},
    linux::linux,
    patience::patience,
    world::{World, end},
};

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

fn sh(script: &str) -> ProcessSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    ProcessSpec { path: "/bin/sh".to_owned(), args, ..ProcessSpec::default() }
}

/// Runs a process to its end: its output, and its status.
async fn ended(world: &World, handle: &str, spec: ProcessSpec) -> (String, i32) {
    let ended = end(world.backend().run(handle, spec).await.expect("run")).await;
    (ended.text(), ended.status)
}

/// A signal to the supervisor of a container.
fn signal_supervisor(handle: &str, signal: NixSignal) {
    // The container's init has the same name: the supervisor is the one that was there first.
    let mut pids: Vec<u32> =
        supervisors(handle).iter().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    pids.sort_unstable();
    let pid = NixPid::from_raw(i32::try_from(pids[0]).expect("a pid"));
    kill(pid, signal).expect("signal the supervisor");
}

#[test]
fn a_supervisor_that_does_not_answer_is_killed_by_destroy() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            signal_supervisor(&handle, NixSignal::SIGSTOP);
            world.backend().destroy(&handle).await.expect("destroy");
            assert_eq!(supervisors_left(&handle).await, Vec::<String>::new());
        })
    });
}

#[test]
fn a_container_whose_supervisor_died_can_be_stopped_and_destroyed() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let process = world.backend().run(&handle, sh("sleep 1000")).await.expect("run");
            signal_supervisor(&handle, NixSignal::SIGKILL);
            assert_eq!(process.exit.await, Ok(137));
            world.backend().stop(&handle, false).await.expect("stop");
            world.backend().destroy(&handle).await.expect("destroy");
        })
    });
}

#[test]
fn changes_while_a_container_is_destroyed_are_refused_and_do_no_harm() {
    on_linux(|world| {
        Box::pin(async move {
            for _ in 0..10 {
                let handle = world.create().await;
                let change = async {
                    loop {
                        match world.backend().set_property(&handle, "k", "v").await {
                            Ok(()) => tokio::task::yield_now().await,
                            Err(error) => break error,
                        }
                    }
                };
                let (destroyed, refused) = tokio::join!(world.backend().destroy(&handle), change);
                destroyed.expect("destroy");
                let expected =
                    matches!(refused, Error::DestroyInProgress { .. } | Error::ContainerNotFound { .. });
                assert!(expected, "{refused:?}");
            }
        })
    });
}

#[test]
fn a_hundred_thousand_variables_hold_nobody_up() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let env: Vec<String> =
                (0..80_000).map(|n| format!("V{n}=")).chain(["V7=last".to_owned()]).collect();
            let (text, status) = ended(world, &handle, ProcessSpec { env, ..sh("echo $V7") }).await;
            assert_eq!((text.as_str(), status), ("last\n", 0));
        })
    });
}

#[test]
fn two_stops_at_once_leave_processes_their_time() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "trap 'sleep 1; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
            let process = world.backend().run(&handle, sh(script)).await.expect("run");
            process.stdout.open().next().await.expect("a word").expect("a word");
            let stops =
                join_all([world.backend().stop(&handle, false), world.backend().stop(&handle, false)]).await;
            assert!(stops.iter().all(Result::is_ok), "{stops:?}");
            assert_eq!(process.exit.await, Ok(7));
        })
    });
}

#[test]
fn the_highest_number_is_no_user() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create_with(|spec| spec.privileged = true).await;
            for user in ["4294967295", "1000:4294967295"] {
                let spec = ProcessSpec { user: user.into(), ..sh("id") };
                world.backend().run(&handle, spec).await.expect_err(user);
            }
        })
    });
}

#[test]
fn input_ends_while_files_are_streamed_in() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let cat = world.backend().run(&handle, sh("cat")).await.expect("run");
            let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(1);
            let body = futures_util::stream::unfold(receiver, |mut receiver| async {
                Some((receiver.recv().await?, receiver))
            });
            let (backend, into) = (world.shared(), handle.clone());
            let streaming = tokio::spawn(async move {
                backend
                    .stream_in(&into, FilesQuery { path: "/in".into(), ..Default::default() }, Box::pin(body))
                    .await
            });
            sender.send(Ok(bytes::Bytes::from(vec![0; 100]))).await.expect("the stream is read");
            // Until its child is there.
            let (_, status) = ended(world, &handle, sh("until [ -d /in ]; do usleep 1000; done")).await;
            assert_eq!(status, 0);
            cat.control.close_stdin().await.expect("close");
            assert_eq!(cat.exit.await, Ok(0));
            assert!(!streaming.is_finished());
            drop(sender);
            streaming.await.expect("the task").expect_err("a hundred bytes are no tar");
        })
    });
}

#[test]
fn a_low_limit_of_open_files_is_the_programs_alone() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let rlimits = ResourceLimits { nofile: Some(4), ..ResourceLimits::default() };
            let spec = ProcessSpec { rlimits, user: "vcap".into(), ..sh("ulimit -n") };
            assert_eq!(ended(world, &handle, spec).await, ("4\n".to_owned(), 0));
        })
    });
}

#[test]
fn working_directories_are_made_by_many_at_once_and_through_dots() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            for round in 0..5 {
                let runs = (0..8).map(|_| {
                    let dir = format!("/new{round}/x/y");
                    ended(world, &handle, ProcessSpec { dir, user: "vcap".into(), ..sh("pwd; stat -c %U .") })
                });
                for outcome in join_all(runs).await {
                    assert_eq!(outcome, (format!("/new{round}/x/y\nvcap\n"), 0));
                }
            }
            let dotted = ProcessSpec { dir: "/q/../w".into(), ..sh("pwd") };
            assert_eq!(ended(world, &handle, dotted).await, ("/w\n".to_owned(), 0));
        })
    });
}

#[test]
fn an_oom_kill_of_a_child_is_an_event_though_its_parent_succeeds() {
    on_linux(|world| {
        Box::pin(async move {
            let memory = MemoryLimits { limit_in_bytes: 32 << 20 };
            let handle = world.create_with(|spec| spec.limits = Limits { memory, ..Limits::default() }).await;
            let script = "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 0";
            assert_eq!(ended(world, &handle, sh(script)).await.1, 0);
            let info = world.backend().info(&handle).await.expect("info").into_value();
            assert_eq!(info.events, Some(vec!["Out of memory".to_owned()]));
        })
    });
}

#[test]
fn a_terminal_that_nobody_has_open_for_a_moment_is_not_at_its_end() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "T=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.3; echo LATER >$T; exit 6";
            let spec = ProcessSpec { tty: Some(TtySpec::default()), ..sh(script) };
            assert_eq!(ended(world, &handle, spec).await, ("LATER\r\n".to_owned(), 6));
        })
    });
}

#[test]
fn many_bind_mounts_are_made_and_too_many_refused() {
    on_linux(|world| {
        Box::pin(async move {
            let folder = tempfile::tempdir().expect("a folder");
            let binds = |count: usize| -> Vec<BindMount> {
                let source = folder.path().display().to_string();
                let bind = |n| BindMount {
                    src_path: source.clone(),
                    dst_path: format!("/b{n}"),
                    ..Default::default()
                };
                (0..count).map(bind).collect()
            };
            let handle = world.create_with(|spec| spec.bind_mounts = binds(60)).await;
            let (text, _) = ended(world, &handle, sh("grep -c ' /b[0-9]' /proc/self/mountinfo")).await;
            assert_eq!(text.trim(), "60");
            let spec = ContainerSpec { bind_mounts: binds(1000), ..ContainerSpec::default() };
            let error = world.backend().create(spec).await.expect_err("too many");
            assert!(error.to_string().contains("bind_mounts"), "{error}");
        })
    });
}

/// Perl, which every Debian has, for two system calls: `add_key` and `keyctl`, on the session keyring.
const JOIN_AND_ADD_KEY: &str = r#"my ($t, $n, $v) = ("user", "garden-test", "secret");
    syscall(250, 1, 0) > 0 or exit 11; syscall(248, $t, $n, $v, 6, -3) > 0 or exit 12; exec @ARGV"#;
const SEARCH_KEY: &str =
    r#"my ($t, $n) = ("user", "garden-test"); exit(syscall(250, 10, -3, $t, $n, 0) < 0 ? 1 : 0)"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_keys_are_not_the_containers() {
    if !can_make_containers() {
        return;
    }
    let starter = ["perl", "-e", JOIN_AND_ADD_KEY, "--"];
    let control = Command::new("perl").args(&starter[1..]).args(["perl", "-e", SEARCH_KEY]).status();
    assert!(control.expect("perl").success(), "what a process with the key starts finds it");

    let mut server = Killable::new().started_by(&starter);
    let client = server.start(None).await;
    // In the place of the busybox tree's own, so that the host's perl runs in there.
    let bind = |path: &str| BindMount { src_path: path.into(), dst_path: path.into(), ..Default::default() };
    let bind_mounts = ["/usr", "/lib", "/lib64"].into_iter().map(bind).collect();
    let spec = ContainerSpec { handle: "faults-keys".into(), bind_mounts, ..ContainerSpec::default() };
    client.create(spec).await.expect("create");
    let perl = async |script: &str, user: &str| {
        let args = vec!["-e".to_owned(), script.to_owned()];
        let user = user.to_owned();
        let spec = ProcessSpec { path: "/usr/bin/perl".into(), args, user, ..ProcessSpec::default() };
        client.run("faults-keys", spec).await.expect("run").exit.await
    };
    for user in ["root", "vcap"] {
        assert_eq!(perl("exit 3", user).await, Ok(3), "perl runs in there");
        assert_eq!(perl(SEARCH_KEY, user).await, Ok(1), "{user} must not find the key");
    }
    client.destroy("faults-keys").await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_entry_in_the_depot_keeps_no_server_from_starting() {
    if !can_make_containers() {
        return;
    }
    let mut server = Killable::new();
    let client = server.start(None).await;
    let spec = ContainerSpec { handle: "faults-kept".into(), ..ContainerSpec::default() };
    client.create(spec).await.expect("create");
    server.kill();
    std::fs::write(server.path("depot/containers/strange"), "no directory").expect("write");
    std::fs::create_dir_all(server.path("depot/containers/broken/sub/sub")).expect("make");
    std::fs::write(server.path("depot/containers/broken/record.json"), "{").expect("write");
    let client = server.start(None).await;
    client.info("faults-kept").await.expect("the container is there");
    client.destroy("faults-kept").await.expect("destroy");
    tokio::time::timeout(patience(5), client.ping()).await.expect("in time").expect("ping");
    server.kill();
    std::fs::remove_file(server.path("depot/containers/strange")).expect("remove");
    std::fs::remove_dir_all(server.path("depot/containers/broken")).expect("remove");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[test]
fn what_could_not_be_destroyed_is_tried_again_without_being_asked() {
    if !can_make_containers() {
        return;
    }
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let mut server = Killable::new();
        let client = server.start(None).await;
        client
            .create(ContainerSpec { handle: "box".into(), ..ContainerSpec::default() })
            .await
            .expect("create");
        // Nobody expects it there, and a directory with something in it is not removed.
        let in_the_way = server.path("depot/containers/box/somebodys");
        std::fs::create_dir_all(in_the_way.join("thing")).expect("make a directory");
        let error = client.destroy("box").await.expect_err("something is in the way").to_string();
        assert!(error.contains("somebodys") && error.contains("will be tried again"), "{error}");
        assert_eq!(client.list(&Properties::default()).await.expect("list").to_vec(), ["box"]);
        std::fs::remove_dir_all(&in_the_way).expect("remove a directory");
        let begun = std::time::Instant::now();
        while !client.list(&Properties::default()).await.expect("list").is_empty() {
            assert!(begun.elapsed() < patience(40), "it is not tried again: {}", server.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(server.clean_up().await, Vec::<String>::new());
    });
}
