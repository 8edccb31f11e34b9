//! What only a real kernel shows: isolation, limits, terminals, output under load. On the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use protocol::{
    ContainerSpec, Limits, MemoryLimits, PidLimits, Process, ProcessSpec, Properties, ResourceLimits, Signal,
    TtySpec, WindowSize,
};
use tests::{
    columns::{Behaviour, check},
    linux::linux,
    patience::patience,
    world::World,
};

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

fn sh(script: &str) -> ProcessSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    ProcessSpec { path: "/bin/sh".to_owned(), args, ..ProcessSpec::default() }
}

async fn read_all(output: &protocol::Output) -> Vec<u8> {
    let mut stream = output.open();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.expect("output"));
    }
    bytes
}

/// Runs a process to its end: its output, and its status.
async fn ended(process: Process) -> (String, i32) {
    let output = read_all(&process.stdout).await;
    (String::from_utf8_lossy(&output).into_owned(), process.exit.await.expect("exit status"))
}

async fn output(world: &World, handle: &str, spec: ProcessSpec) -> String {
    let (text, status) = ended(world.backend().run(handle, spec).await.expect("run")).await;
    assert_eq!(status, 0, "{text}");
    text
}

async fn create(world: &World, handle: &str, limits: Limits) -> String {
    let spec = ContainerSpec { handle: handle.to_owned(), limits, ..ContainerSpec::default() };
    world.backend().create(spec).await.expect("create")
}

#[test]
fn capabilities_are_the_default_ones_to_the_bit() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "caps", Limits::default()).await;
            let script = "grep Cap /proc/self/status | cut -f 2 | tr '\\n' ' '";
            let mask = "00000000a80425fb";
            let none = "0000000000000000";
            let root = output(world, &handle, sh(script)).await;
            assert_eq!(root, format!("{mask} {mask} {mask} {mask} {none} "));
            let user = ProcessSpec { user: "vcap".into(), ..sh(script) };
            assert_eq!(output(world, &handle, user).await, format!("{mask} {none} {none} {mask} {none} "));
            let init = output(world, &handle, sh("grep Cap /proc/1/status | cut -f 2 | tr '\\n' ' '")).await;
            assert_eq!(init, format!("{mask} {mask} {mask} {mask} {none} "));
        })
    });
}

#[test]
fn a_process_sees_the_container_and_nothing_of_the_host() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "what-it-is-called", Limits::default()).await;
            let see = async |script: &str| output(world, &handle, sh(script)).await;
            assert_eq!(see("cat /proc/1/comm").await, "garden-init\n");
            assert_eq!(see("hostname").await, "what-it-is-called\n");
            assert!(see("cat /etc/hosts").await.contains("what-it-is-called"));
            // Init and the shell.
            assert_eq!(see("set -- /proc/[0-9]*; echo $#").await.trim(), "2");
            // The directory that ls reads is the fourth.
            assert_eq!(see("ls /proc/self/fd | wc -l").await.trim(), "4");
            assert_eq!(see("ls /sys/class/net | tr '\\n' ' '").await, "eth0 lo ");
            assert_eq!(
                see("id -u; id -g; cut -d ' ' -f 1-20 /proc/self/uid_map | tr -s ' '").await.lines().count(),
                4
            );
            let mounts = see("cat /proc/self/mountinfo").await;
            let allowed = ["/", "/dev", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf"];
            for line in mounts.lines() {
                let place = line.split(' ').nth(4).expect("a mount point");
                let below = allowed
                    .iter()
                    .any(|top| place == *top || place.starts_with(&format!("{top}/")) && *top != "/");
                assert!(below, "{line}");
            }
            let (_, status) =
                ended(world.backend().run(&handle, sh("echo 1 > /proc/sys/kernel/panic")).await.unwrap())
                    .await;
            assert_ne!(status, 0, "/proc/sys is read-only");
            let (_, status) =
                ended(world.backend().run(&handle, sh("mknod /tmp/x b 7 0 && cat /tmp/x")).await.unwrap())
                    .await;
            assert_ne!(status, 0, "devices cannot be used by making them");
        })
    });
}

#[test]
fn the_memory_limit_kills_and_is_an_event_before_the_exit_status() {
    on_linux(|world| {
        Box::pin(async move {
            let memory = MemoryLimits { limit_in_bytes: 32 << 20 };
            let handle = create(world, "memory", Limits { memory, ..Limits::default() }).await;
            assert_eq!(world.backend().memory_limits(&handle).await.expect("limits"), memory);
            let hog =
                world.backend().run(&handle, sh("exec dd if=/dev/zero of=/dev/null bs=200M count=1")).await;
            assert_eq!(hog.expect("run").exit.await, Ok(137));
            let info = world.backend().info(&handle).await.expect("info").into_value();
            assert_eq!(info.events, Some(vec!["Out of memory".to_owned()]));
            // The container goes on.
            assert_eq!(output(world, &handle, sh("echo still here")).await, "still here\n");
        })
    });
}

#[test]
fn the_pids_limit_holds_a_fork_bomb_while_another_container_goes_on() {
    on_linux(|world| {
        Box::pin(async move {
            let limits = Limits { pid: PidLimits { max: 20 }, ..Limits::default() };
            let bomb = create(world, "bomb", limits).await;
            let other = create(world, "other", Limits::default()).await;
            let script = "f() { f | f & }; f; sleep 0.3; exit 0";
            let process = world.backend().run(&bomb, sh(script)).await.expect("run");
            assert_eq!(output(world, &other, sh("echo fine")).await, "fine\n");
            let metrics = world.backend().metrics(&bomb).await.expect("metrics");
            assert!(metrics.pid.current <= 20, "{:?}", metrics.pid);
            assert_eq!(metrics.pid.max, 20);
            world.backend().stop(&bomb, true).await.expect("stop");
            process.exit.await.expect("it has ended");
        })
    });
}

#[test]
fn a_terminal_has_a_size_that_can_be_changed_and_ends_lines_as_terminals_do() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "terminal", Limits::default()).await;
            let tty = Some(TtySpec::default());
            let script = "tty; stty size; read line; stty size; echo $line; exit 5";
            let process = world.backend().run(&handle, ProcessSpec { tty, ..sh(script) }).await.expect("run");
            let mut stdout = process.stdout.open();
            let mut text = String::new();
            while !text.contains("24 80\r\n") {
                let chunk = stdout.next().await.expect("its first size").expect("output");
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
            assert_eq!(text, "/dev/pts/0\r\n24 80\r\n");
            let window_size = Some(WindowSize { columns: 132, rows: 43 });
            process.control.set_tty(TtySpec { window_size }).await.expect("resize");
            process.control.write_stdin("typed\n".into()).await.expect("type");
            let mut rest = String::new();
            while let Some(chunk) = stdout.next().await {
                rest.push_str(&String::from_utf8_lossy(&chunk.expect("output")));
            }
            assert_eq!(rest, "43 132\r\ntyped\r\n");
            assert_eq!(read_all(&process.stderr).await, b"");
            assert_eq!(process.exit.await, Ok(5));
        })
    });
}

#[test]
fn resource_limits_are_those_of_the_spec() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "rlimits", Limits::default()).await;
            let rlimits = ResourceLimits { nofile: Some(77), core: Some(0), ..ResourceLimits::default() };
            let spec = ProcessSpec { rlimits, user: "vcap".into(), ..sh("ulimit -n; ulimit -Hn; ulimit -c") };
            assert_eq!(output(world, &handle, spec).await, "77\n77\n0\n");
        })
    });
}

#[test]
fn a_resource_limit_above_the_hosts_is_had_or_lowered_as_the_host_allows() {
    use rustix::process::{Resource, getrlimit};
    use rustix::thread::{CapabilitySet, capabilities};
    on_linux(|world| {
        Box::pin(async move {
            let Some(hard) = getrlimit(Resource::Nproc).maximum else {
                return world.skip("there is no hard limit of processes here");
            };
            let own = capabilities(None).expect("capabilities").effective;
            let wanted = hard + 1;
            let expected = if own.contains(CapabilitySet::SYS_RESOURCE) { wanted } else { hard };
            let handle = create(world, "above", Limits::default()).await;
            let rlimits = ResourceLimits { nproc: Some(wanted), ..ResourceLimits::default() };
            let spec = ProcessSpec { rlimits, ..sh("grep '^Max processes' /proc/self/limits | tr -s ' '") };
            let found = output(world, &handle, spec).await;
            assert_eq!(found.trim(), format!("Max processes {expected} {expected} processes"));
        })
    });
}

#[test]
fn every_byte_of_a_process_that_ends_at_once_is_there_however_late() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "bytes", Limits::default()).await;
            for size in [0, 1, 65_536, 65_537, 1_000_000, 15_000_000] {
                let script = format!("head -c {size} /dev/zero | tr '\\0' x; exit 4");
                let process = world.backend().run(&handle, sh(&script)).await.expect("run");
                let Process { stdout, exit, .. } = process;
                assert_eq!(exit.await, Ok(4));
                // After the end, and once more.
                for _ in 0..2 {
                    let bytes = read_all(&stdout).await;
                    assert_eq!(bytes.len(), size);
                    assert!(bytes.iter().all(|byte| *byte == b'x'));
                }
            }
        })
    });
}

#[test]
fn a_slow_reader_gets_every_byte_of_more_than_a_ring_holds() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "slow", Limits::default()).await;
            let size = 40_000_000;
            let script = format!("head -c {size} /dev/zero");
            let process = world.backend().run(&handle, sh(&script)).await.expect("run");
            let mut stream = process.stdout.open();
            let mut received = 0;
            let mut chunks = 0;
            while let Some(chunk) = stream.next().await {
                received += chunk.expect("output").len();
                chunks += 1;
                if chunks % 100 == 0 {
                    // Slower than the process, and never for as long as a stalled one.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            assert_eq!(received, size);
            assert_eq!(process.exit.await, Ok(0));
        })
    });
}

#[test]
fn a_process_that_nobody_reads_never_blocks_and_its_lost_bytes_are_counted() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "unread", Limits::default()).await;
            let script = "head -c 30000000 /dev/zero; echo the end";
            let process = world.backend().run(&handle, sh(script)).await.expect("run");
            assert_eq!(process.exit.await, Ok(0));
            let rest = read_all(&process.stdout).await;
            assert_eq!(rest.len(), 16 << 20, "a ring full");
            assert!(rest.ends_with(b"the end\n"));
            let samples = world.backend().telemetry();
            let dropped = samples.iter().find(|sample| sample.name == "garden_dropped_output_bytes_total");
            let lost = 30_000_008 - (16 << 20);
            assert_eq!(dropped.expect("the metric").value, f64::from(lost));
        })
    });
}

#[test]
fn the_exit_status_waits_for_no_child_that_holds_the_output_open() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "holder", Limits::default()).await;
            let begun = Instant::now();
            let process =
                world.backend().run(&handle, sh("sleep 1000 & echo started; exit 6")).await.expect("run");
            assert_eq!(ended(process).await, ("started\n".to_owned(), 6));
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        })
    });
}

#[test]
fn a_tree_of_orphans_is_reaped_by_init_and_ended_by_stop() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "orphans", Limits::default()).await;
            let script = "for i in 1 2 3 4 5; do (true & (trap '' TERM; sleep 1000) &) ; done; exit 0";
            let process = world.backend().run(&handle, sh(script)).await.expect("run");
            assert_eq!(process.exit.await, Ok(0));
            world.backend().stop(&handle, true).await.expect("stop");
            let left = output(world, &handle, sh("ps -o comm,stat | grep -c -e sleep -e Z; true")).await;
            assert_eq!(left.trim(), "0");
        })
    });
}

#[test]
fn a_hundred_processes_run_at_once_in_one_container() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "many", Limits::default()).await;
            let mut processes = Vec::new();
            for n in 0..100 {
                let script = format!("read line; echo $line {n}; exit {n}");
                processes.push(world.backend().run(&handle, sh(&script)).await.expect("run"));
            }
            let info = world.backend().info(&handle).await.expect("info").into_value();
            assert_eq!(info.process_ids.map(|ids| ids.len()), Some(100));
            for (n, process) in processes.into_iter().enumerate() {
                process.control.write_stdin("hello\n".into()).await.expect("write");
                assert_eq!(ended(process).await, (format!("hello {n}\n"), n as i32));
            }
        })
    });
}

#[test]
fn a_signal_reaches_a_process_straight_after_its_start_and_its_stream_ends() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = create(world, "signals", Limits::default()).await;
            for (signal, status) in [(Signal::Kill, 137), (Signal::Terminate, 143)] {
                for _ in 0..20 {
                    let process = world.backend().run(
                        &handle,
                        ProcessSpec {
                            path: "sleep".into(),
                            args: vec!["1000".into()],
                            ..ProcessSpec::default()
                        },
                    );
                    let process = process.await.expect("run");
                    process.control.signal(signal).await.expect("signal");
                    assert_eq!(ended(process).await, (String::new(), status));
                }
            }
        })
    });
}

#[test]
fn handles_with_odd_characters_are_containers_like_others() {
    on_linux(|world| {
        Box::pin(async move {
            let longest = "x".repeat(255);
            for odd in
                ["a b:c,d=e\\f\"g'h", "..a", "ü-日本", "cgroup.procs", "tasks", "-rf", longest.as_str()]
            {
                let handle = create(world, odd, Limits::default()).await;
                assert_eq!(output(world, &handle, sh("echo $HOME")).await, "/root\n", "{odd}");
                assert_eq!(world.backend().list(&Properties::new()).await, Ok([odd.to_owned()].into()));
                world.backend().destroy(&handle).await.expect("destroy");
            }
        })
    });
}

#[test]
fn lives_leave_no_descriptors_behind_in_the_server() {
    on_linux(|world| {
        Box::pin(async move {
            // Those of this world's own rings: other tests of this process come and go meanwhile.
            let rings = || {
                let links = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
                let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
                targets.filter(|target| target.to_string_lossy().contains("memfd:stdout")).count()
            };
            let before = rings();
            for _ in 0..20 {
                let handle = create(world, "again", Limits::default()).await;
                assert_eq!(output(world, &handle, sh("echo out")).await, "out\n");
                world.backend().destroy(&handle).await.expect("destroy");
            }
            let begun = Instant::now();
            while rings() > before + 5 {
                assert!(begun.elapsed() < patience(20), "{} rings are held", rings());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    });
}
