//! Processes as only a real kernel has them: many at once, trees, terminals, what is in PATH. On the Linux backend, in
//! process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use protocol::{Process, ProcessSpec, Signal, TtySpec, WindowSize};
use tests::{
    columns::{Behaviour, check},
    linux::linux,
    patience::patience,
    world::{World, assert_fails_with, end},
};

/// Nothing here takes longer.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(30));

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

fn sh(script: &str) -> ProcessSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    ProcessSpec { path: "/bin/sh".into(), args, dir: "/".into(), ..ProcessSpec::default() }
}

async fn run(world: &World, handle: &str, script: &str) -> (String, i32) {
    let ended = end(world.backend().run(handle, sh(script)).await.expect("run")).await;
    (ended.text(), ended.status)
}

/// Runs a script until it prints what is wanted.
async fn until(world: &World, handle: &str, script: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let (text, _) = run(world, handle, script).await;
        if text.trim() == wanted {
            return;
        }
        assert!(begun.elapsed() < *PATIENCE, "{script}: {text:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads until what was read contains `part`.
async fn read_until(output: &mut protocol::ByteStream, part: &str) -> String {
    let mut text = String::new();
    while !text.contains(part) {
        let next = tokio::time::timeout(*PATIENCE, output.next()).await;
        let chunk = next.unwrap_or_else(|_| panic!("only {text:?}, no {part:?}"));
        text.push_str(&String::from_utf8_lossy(&chunk.expect("more output").expect("output")));
    }
    text
}

async fn on_terminal(world: &World, handle: &str, script: &str) -> Process {
    let spec = ProcessSpec { tty: Some(TtySpec::default()), ..sh(script) };
    world.backend().run(handle, spec).await.expect("run")
}

#[test]
fn two_hundred_processes_run_at_once_each_with_its_own_output_and_end() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let mut processes = Vec::new();
            for n in 0..200 {
                let script = format!("read line; echo $line {n}; echo error {n} >&2; exit {n}");
                processes.push(world.backend().run(&handle, sh(&script)).await.expect("run"));
            }
            let alive = run(world, &handle, "ps -o args | grep -c '[r]ead line'").await.0;
            assert_eq!(alive.trim(), "200");
            for (n, process) in processes.into_iter().enumerate() {
                process.control.write_stdin("hello\n".into()).await.expect("write");
                let ended = end(process).await;
                assert_eq!(ended.text(), format!("hello {n}\n"));
                assert_eq!(String::from_utf8_lossy(&ended.stderr), format!("error {n}\n"));
                assert_eq!(ended.status, n as i32);
            }
        })
    });
}

#[test]
fn orphans_of_a_tree_that_forks_twice_are_reaped_and_all_of_it_ends_with_a_stop() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            // Twenty that are orphans at once and end at once, five that stay and do not listen.
            let script = "for i in $(seq 20); do (sh -c 'sleep 0.01 &' &); done
                for i in 1 2 3 4 5; do (sh -c \"trap '' TERM; sleep 7777 & wait\" &); done; exit 4";
            assert_eq!(run(world, &handle, script).await.1, 4);
            let sleepers = "ps -o args | grep -c '^sleep 7777'";
            until(world, &handle, sleepers, "5").await;
            let zombies = "ps -o stat | grep -c '^Z'";
            until(world, &handle, zombies, "0").await;
            until(world, &handle, "ps -o ppid,args | grep 'sleep 0.01' | grep -vc grep", "0").await;
            world.backend().stop(&handle, true).await.expect("stop");
            assert_eq!(run(world, &handle, sleepers).await.0.trim(), "0");
            assert_eq!(run(world, &handle, zombies).await.0.trim(), "0");
        })
    });
}

#[test]
fn what_is_in_path_and_cannot_be_executed_is_passed_over() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "mkdir -p /one/tool /two /three /here && echo no > /two/tool
                printf '#!/bin/sh\\necho found\\n' > /three/tool && chmod 755 /three/tool && cp /three/tool /here/";
            assert_eq!(run(world, &handle, script).await.1, 0);
            let tool = |path: &str| ProcessSpec {
                path: "tool".into(),
                env: vec![format!("PATH={path}")],
                dir: "/here".into(),
                ..ProcessSpec::default()
            };
            // A directory, a file without the right to be executed, what is missing.
            let found =
                end(world.backend().run(&handle, tool("/one:/two:/nowhere:/three")).await.expect("run"));
            assert_eq!(found.await.text(), "found\n");
            // An empty or relative entry would mean the working directory, which may be anybody's.
            for path in ["", ":", "/one:/two", ".:relative", "/nowhere"] {
                let refused = world.backend().run(&handle, tool(path)).await;
                assert_fails_with(refused, "executable file not found in $PATH");
            }
            // With a slash it is a path, from the working directory on.
            let named = ProcessSpec { path: "./tool".into(), ..tool("") };
            assert_eq!(end(world.backend().run(&handle, named).await.expect("run")).await.text(), "found\n");
            for path in ["/one/tool", "/two/tool", "/three"] {
                let spec = ProcessSpec { path: path.into(), ..ProcessSpec::default() };
                assert_fails_with(world.backend().run(&handle, spec).await, "Permission denied");
            }
        })
    });
}

#[test]
fn a_user_file_that_is_no_file_is_refused_and_a_huge_one_is_bounded() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let as_user = async |user: &str| {
                let spec = ProcessSpec { user: user.into(), ..sh("id -u") };
                tokio::time::timeout(*PATIENCE, world.backend().run(&handle, spec)).await.expect("no hang")
            };
            // With such a file not even root's processes start: one that runs puts it right again.
            let script = "mv /etc/passwd /tmp/kept; mkfifo /etc/passwd; echo made; read line
                rm /etc/passwd; cp /tmp/kept /etc/passwd; echo restored";
            let process = world.backend().run(&handle, sh(script)).await.expect("run");
            let mut output = process.stdout.open();
            read_until(&mut output, "made\n").await;
            assert_fails_with(as_user("vcap").await, "/etc/passwd of the container: not a regular file");
            process.control.write_stdin("go on\n".into()).await.expect("write");
            read_until(&mut output, "restored\n").await;
            assert_eq!(end(as_user("vcap").await.expect("run")).await.text(), "1000\n");
            let with_passwd = async |script: &str| assert_eq!(run(world, &handle, script).await.1, 0);
            // A user behind 8 MiB of empty lines is not found, one before them is.
            let script = "(cat /tmp/kept; dd if=/dev/zero bs=1M count=8 2> /dev/null | tr '\\0' '\\n'
                echo late:x:8:8::/:/x) > /etc/passwd";
            with_passwd(script).await;
            assert_eq!(end(as_user("vcap").await.expect("run")).await.text(), "1000\n");
            assert_fails_with(as_user("late").await, "unable to find user late");
            with_passwd("rm /etc/passwd").await;
            assert_fails_with(as_user("vcap").await, "unable to find user vcap");
            assert_eq!(end(as_user("4711").await.expect("run")).await.text(), "4711\n");
        })
    });
}

#[test]
fn a_terminal_tells_of_its_new_size_and_of_control_c() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "trap 'stty size' WINCH; trap 'echo interrupted' INT; stty isig; echo ready
                while true; do read line && echo got $line; done";
            let process = on_terminal(world, &handle, script).await;
            let mut output = process.stdout.open();
            read_until(&mut output, "ready\r\n").await;
            let window_size = Some(WindowSize { columns: 100, rows: 50 });
            process.control.set_tty(TtySpec { window_size }).await.expect("resize");
            // The shell minds its traps when it is done with what it does.
            process.control.write_stdin("one\n".into()).await.expect("type");
            let seen = read_until(&mut output, "50 100\r\n").await;
            assert!(!seen.contains("24 80"), "{seen}");
            process.control.write_stdin("\u{3}".into()).await.expect("type");
            process.control.write_stdin("two\n".into()).await.expect("type");
            read_until(&mut output, "interrupted\r\n").await;
            process.control.signal(Signal::Kill).await.expect("kill");
            assert_eq!(process.exit.await, Ok(137));
        })
    });
}

#[test]
fn who_is_on_a_terminal_is_hung_up_on_when_its_first_process_ends() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let left = "trap 'echo hung up > /tmp/left; exit' HUP; touch /tmp/waits; while true; do sleep 0.02; done";
            let script = format!("sh -c \"{left}\" & until [ -e /tmp/waits ]; do sleep 0.02; done; exit 5");
            let process = on_terminal(world, &handle, &script).await;
            assert_eq!(process.exit.await, Ok(5));
            until(world, &handle, "cat /tmp/left", "hung up").await;
        })
    });
}

#[test]
fn a_terminal_ends_for_its_client_when_the_container_is_destroyed() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let process =
                on_terminal(world, &handle, "trap '' HUP TERM; echo ready; while true; do read x; done")
                    .await;
            let mut output = process.stdout.open();
            read_until(&mut output, "ready\r\n").await;
            world.backend().destroy(&handle).await.expect("destroy");
            let rest = async { while output.next().await.is_some() {} };
            tokio::time::timeout(*PATIENCE, rest).await.expect("the end of the output");
            assert_eq!(process.exit.await, Ok(137));
        })
    });
}

#[test]
fn a_process_that_ignores_sigterm_goes_on_until_it_is_killed() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "trap 'echo not yet' TERM; echo ready; while true; do sleep 0.02; done";
            let process = world.backend().run(&handle, sh(script)).await.expect("run");
            let mut output = process.stdout.open();
            read_until(&mut output, "ready\n").await;
            for _ in 0..3 {
                process.control.signal(Signal::Terminate).await.expect("terminate");
                read_until(&mut output, "not yet\n").await;
            }
            process.control.close_stdin().await.expect("close its input");
            process.control.signal(Signal::Kill).await.expect("kill");
            let begun = Instant::now();
            assert_eq!(process.exit.await, Ok(137));
            assert!(begun.elapsed() < *PATIENCE);
        })
    });
}
