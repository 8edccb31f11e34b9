//! `--cleanup-process-dirs-on-wait`: whoever waits for a process is told its exit status, and then it is forgotten.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    time::{Duration, Instant},
};

use protocol::{Backend, ContainerSpec, Error, ProcessSpec, Result};
use rustix::process::{Pid, Signal, kill_process};
use tests::{
    columns::{Behaviour, check},
    killable::{Killable, can_make_containers},
    linux::linux_with,
    patience::patience,
    world::{World, end},
};

fn on_linux(behaviour: Behaviour) {
    check(linux_with(|config| config.cleanup_process_dirs_on_wait = true), behaviour);
}

fn sh(id: &str, script: &str) -> ProcessSpec {
    ProcessSpec { id: id.to_owned(), ..ProcessSpec::new("sh", ["-c", script]) }
}

fn is_unknown<T>(attached: Result<T>) -> bool {
    matches!(attached, Err(Error::ProcessNotFound { .. }))
}

/// Runs it, and is told that it has ended.
async fn run(world: &World, handle: &str, spec: ProcessSpec) -> String {
    end(world.backend().run(handle, spec).await.expect("run")).await.text()
}

#[test]
fn one_that_was_waited_for_is_unknown_and_its_id_free_at_once() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            for round in 0..20 {
                let said = run(world, &handle, sh("same", &format!("echo {round}"))).await;
                assert_eq!(said, format!("{round}\n"));
                assert!(is_unknown(world.backend().attach(&handle, "same").await));
            }
        })
    });
}

#[test]
fn who_closes_the_input_of_one_that_is_just_being_forgotten_is_told_of_no_error() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            for round in 0..200 {
                let started = world.backend().run(&handle, sh("same", "exit 3")).await.expect("run");
                let waiting = tokio::spawn(started.exit);
                assert_eq!(started.control.close_stdin().await, Ok(()), "round {round}");
                assert_eq!(waiting.await.expect("the task"), Ok(3));
            }
        })
    });
}

#[test]
fn who_was_told_can_still_read_what_it_wrote_and_so_can_others_who_are_there() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let started =
                world.backend().run(&handle, sh("one", "read line; echo $line")).await.expect("run");
            let other = world.backend().attach(&handle, "one").await.expect("attach");
            started.control.write_stdin("all of it\n".into()).await.expect("write");
            assert_eq!(started.exit.await, Ok(0));
            // Its id is another's, which has nothing to do with it.
            assert_eq!(run(world, &handle, sh("one", "echo something else")).await, "something else\n");
            for output in [started.stdout, other.stdout] {
                let read = tests::files::collect(output.open()).await.expect("all output");
                assert_eq!(String::from_utf8_lossy(&read), "all of it\n");
            }
            assert_eq!(other.exit.await, Ok(0));
        })
    });
}

#[test]
fn one_that_ended_while_no_server_was_there_is_known_to_the_next_one_until_that_has_told() {
    if !can_make_containers() {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut server = Killable::new().with_options(&["--cleanup-process-dirs-on-wait"]);
        let client = server.start(None).await;
        client
            .create(ContainerSpec { handle: "box".into(), ..ContainerSpec::default() })
            .await
            .expect("create");
        let seconds = (1_000_000 + std::process::id()).to_string();
        let spec = ProcessSpec { id: "left".into(), ..ProcessSpec::new("sleep", [seconds.as_str()]) };
        let left = client.run("box", spec).await.expect("run");
        server.kill();
        left.exit.await.expect_err("nobody knows");
        for found in [true, false] {
            let pid = wait_for(&seconds, found);
            pid.into_iter().for_each(|pid| kill_process(pid, Signal::KILL).expect("kill"));
        }
        let client = server.start(None).await;
        assert_eq!(client.attach("box", "left").await.expect("attach").exit.await, Ok(137));
        assert!(is_unknown(client.attach("box", "left").await));
        // Its id is free when the supervisor does not know it any more: no later server can find it.
        end(client.run("box", sh("left", "exit 8")).await.expect("run")).await;
        end(client.run("box", sh("left", "exit 9")).await.expect("run")).await;
        client.destroy("box").await.expect("destroy");
        assert_eq!(server.clean_up().await, Vec::<String>::new());
    });
}

/// Waits for a program with that argument to be there, or to be gone.
fn wait_for(argument: &str, there: bool) -> Option<Pid> {
    let begun = Instant::now();
    loop {
        let found = fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
            let line = fs::read(process.path().join("cmdline")).ok()?;
            let is_it = line.split(|byte| *byte == 0).nth(1) == Some(argument.as_bytes());
            let pid: i32 = process.file_name().to_str()?.parse().ok()?;
            Pid::from_raw(pid).filter(|_| is_it)
        });
        if found.is_some() == there {
            return found;
        }
        assert!(begun.elapsed() < patience(10), "there: {}", found.is_some());
        std::thread::sleep(Duration::from_millis(5));
    }
}
