//! Processes start, run as somebody, and end.

use std::collections::HashSet;

use futures_util::StreamExt;
use protocol::{BindMount, Error, Process, ProcessSpec, Signal, TtySpec};

use crate::world::{World, assert_fails_with, at_once, command_spec, end};

/// Each stream has its own bytes.
pub async fn output_and_exit_status(world: &World) {
    let handle = world.create().await;
    let ended = world.run_to_end(&handle, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
    assert_eq!((ended.status, &ended.stdout[..], &ended.stderr[..]), (3, &b"out\n"[..], &b"err\n"[..]));
}

/// By name and by path.
pub async fn exit_statuses_of_true_and_false(world: &World) {
    let handle = world.create().await;
    for (command, status) in [("true", 0), ("false", 1), ("/bin/true", 0), ("/bin/false", 1)] {
        assert_eq!(world.run_to_end(&handle, &[command]).await.status, status, "{command}");
    }
}

async fn signalled(process: Process, signal: Signal) -> i32 {
    process.control.signal(signal).await.expect("signal");
    process.exit.await.expect("an exit status")
}

/// 128 + 15.
pub async fn sigterm_ends_with_143(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["sleep", "1000"]).await;
    assert_eq!(signalled(process, Signal::Terminate).await, 143);
}

/// 128 + 9.
pub async fn sigkill_ends_with_137(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["sleep", "1000"]).await;
    assert_eq!(signalled(process, Signal::Kill).await, 137);
}

/// The first has no effect, the second has.
pub async fn sigkill_reaches_what_ignores_sigterm(world: &World) {
    let handle = world.create().await;
    let script = "trap '' TERM; echo ready; cat; echo survived; exec cat";
    let process = world.run(&handle, &["sh", "-c", script]).await;
    let mut stdout = process.stdout.open();
    assert_eq!(stdout.next().await.expect("a word").expect("a word"), "ready\n");
    process.control.signal(Signal::Terminate).await.expect("signal");
    process.control.write_stdin("still here\n".into()).await.expect("write");
    assert_eq!(stdout.next().await.expect("an echo").expect("an echo"), "still here\n");
    assert_eq!(signalled(process, Signal::Kill).await, 137);
}

/// The reference stops listening there.
pub async fn sigkill_reaches_a_process_whose_input_was_closed(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["sleep", "1000"]).await;
    process.control.write_stdin("unread".into()).await.expect("write");
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(signalled(process, Signal::Kill).await, 137);
}

/// Whatever it was just doing.
pub async fn a_signal_reaches_a_process_straight_after_its_start(world: &World) {
    let handle = world.create().await;
    for _ in 0..5 {
        let process = world.run(&handle, &["sleep", "1000"]).await;
        assert_eq!(signalled(process, Signal::Terminate).await, 143);
    }
}

/// And is no error.
pub async fn a_signal_to_an_ended_process_does_nothing(world: &World) {
    let handle = world.create().await;
    let spec = ProcessSpec { id: "p".into(), ..command_spec(&["sh", "-c", "exit 7"]) };
    let process = world.backend().run(&handle, spec).await.expect("run");
    let control = process.control.clone();
    assert_eq!(process.exit.await, Ok(7));
    // Through HTTP the connection has gone with the process: what is written there goes nowhere.
    let _ = control.signal(Signal::Kill).await;
    let attached = world.backend().attach(&handle, "p").await.expect("attach");
    let _ = attached.control.signal(Signal::Kill).await;
    assert_eq!(attached.exit.await, Ok(7));
}

/// A different one for each process.
pub async fn an_id_is_made_up(world: &World) {
    let handle = world.create().await;
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let process = world.run(&handle, &["true"]).await;
        assert!(!process.id.is_empty() && ids.insert(process.id.clone()), "{:?}", process.id);
        assert_eq!(process.exit.await, Ok(0));
    }
}

/// While the process runs and after its end, in its own container.
pub async fn an_id_stays_taken(world: &World) {
    let handle = world.create().await;
    let spec = ProcessSpec { id: "the-id".into(), ..command_spec(&["cat"]) };
    let process = world.backend().run(&handle, spec.clone()).await.expect("run");
    assert_eq!(process.id, "the-id");
    assert_fails_with(world.backend().run(&handle, spec.clone()).await, "process the-id already exists");
    process.control.write_stdin("unharmed".into()).await.expect("write");
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(end(process).await.text(), "unharmed");
    assert_fails_with(world.backend().run(&handle, spec.clone()).await, "process the-id already exists");
    let other = world.create().await;
    let process = world.backend().run(&other, spec).await.expect("run in another container");
    assert_eq!(signalled(process, Signal::Kill).await, 137);
}

/// Running ones only.
pub async fn running_processes_are_in_info(world: &World) {
    let handle = world.create().await;
    let ids = async || {
        world
            .backend()
            .info(&handle)
            .await
            .expect("info")
            .into_value()
            .process_ids
            .clone()
            .unwrap_or_default()
    };
    assert_eq!(ids().await, [""; 0]);
    let running = world.run(&handle, &["sleep", "1000"]).await;
    assert_eq!(world.run(&handle, &["true"]).await.exit.await, Ok(0));
    assert_eq!(ids().await, [running.id.as_str()]);
    assert_eq!(signalled(running, Signal::Kill).await, 137);
    assert_eq!(ids().await, [""; 0]);
}

/// Looked up in PATH, and by path.
pub async fn a_missing_executable_has_its_own_error(world: &World) {
    let handle = world.create().await;
    let run = async |program: &str| world.backend().run(&handle, command_spec(&[program])).await;
    let error = run("no-such-program").await.expect_err("no program");
    let Error::ExecutableNotFound { message } = &error else { panic!("{error:?}") };
    assert!(message.contains("executable file not found in $PATH"), "{message}");
    assert!(message.contains("no-such-program"), "{message}");
    for program in ["/no/such/program", "/etc"] {
        let error = run(program).await.expect_err("no program");
        assert!(matches!(&error, Error::ExecutableNotFound { .. }), "{program}: {error:?}");
        assert!(error.to_string().contains(program), "{error}");
    }
    assert_eq!(world.run_to_end(&handle, &["true"]).await.status, 0);
}

/// In the words that clients look for.
pub async fn an_unknown_user_is_named(world: &World) {
    let handle = world.create().await;
    let spec = ProcessSpec { user: "stranger".into(), ..command_spec(&["true"]) };
    let wanted = "unable to find user stranger: no matching entries in passwd file";
    assert_fails_with(world.backend().run(&handle, spec).await, wanted);
}

/// By name, by number, by number and group; root by default.
pub async fn a_process_runs_as_its_user(world: &World) {
    let handle = world.create().await;
    let id = world.traits().user.id;
    let name = world.traits().user.name.as_str();
    for (user, uid, gid) in [
        (String::new(), 0, 0),
        ("root".into(), 0, 0),
        (name.into(), id, id),
        (id.to_string(), id, id),
        ("1234:4321".into(), 1234, 4321),
        (format!("{name}:root"), id, 0),
    ] {
        let script = "id -u; id -g";
        let spec = ProcessSpec { user: user.clone(), dir: "/".into(), ..command_spec(&["sh", "-c", script]) };
        let ended = world.run_spec_to_end(&handle, spec).await;
        assert_eq!(ended.text(), format!("{uid}\n{gid}\n"), "user {user:?}: {ended:?}");
    }
}

/// The later value wins.
pub async fn the_environment_is_the_containers_then_the_processs(world: &World) {
    let handle = world.create_with(|spec| spec.env = vec!["A=container".into(), "B=container".into()]).await;
    let spec = ProcessSpec {
        env: vec!["B=process".into(), "C=with = and space".into()],
        ..command_spec(&["sh", "-c", "echo \"$A,$B,$C\""])
    };
    assert_eq!(world.run_spec_to_end(&handle, spec).await.text(), "container,process,with = and space\n");
}

/// USER, HOME and PATH, and nothing of the server's own.
pub async fn the_environment_has_defaults(world: &World) {
    let handle = world.create().await;
    for user in ["root", world.traits().user.name.as_str()] {
        let spec = ProcessSpec { user: user.into(), ..command_spec(&["env"]) };
        let text = world.run_spec_to_end(&handle, spec).await.text();
        let mut names: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
        names.sort_unstable();
        let path = match user {
            "root" => "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            _ => "/usr/local/bin:/usr/bin:/bin",
        };
        let home = if user == "root" { "/root".to_owned() } else { format!("/home/{user}") };
        assert_eq!(names, [("HOME", home.as_str()), ("PATH", path), ("USER", user)]);
    }
}

/// A missing one is made.
pub async fn the_working_directory_is_home_or_as_given(world: &World) {
    let handle = world.create().await;
    let user = world.traits().user.name.as_str();
    let pwd = async |user: &str, dir: &str| {
        let spec = ProcessSpec { user: user.into(), dir: dir.into(), ..command_spec(&["pwd"]) };
        world.run_spec_to_end(&handle, spec).await.text()
    };
    assert_eq!(pwd("", "").await, "/root\n");
    assert_eq!(pwd(user, "").await, format!("/home/{user}\n"));
    assert_eq!(pwd(user, "/tmp").await, "/tmp\n");
    assert_eq!(pwd(user, "/tmp/new/dir").await, "/tmp/new/dir\n");
    assert_eq!(pwd("1234", "").await, "/\n", "a user without a home");
    let ended = world.run_to_end(&handle, &["stat", "-c", "%u", "/tmp/new/dir"]).await;
    assert_eq!(ended.text(), format!("{}\n", world.traits().user.id));
}

/// Each with its own output.
pub async fn many_processes_at_once(world: &World) {
    let handle = world.create().await;
    let runs = (0..16).map(|number| {
        let (backend, handle) = (world.shared(), handle.clone());
        async move {
            let script = format!("echo {number}; exit {number}");
            let process = backend.run(&handle, command_spec(&["sh", "-c", &script])).await.expect("run");
            (number, end(process).await)
        }
    });
    for (number, ended) in at_once(runs).await {
        assert_eq!((ended.status, ended.text()), (number, format!("{number}\n")));
    }
}

/// Whoever sees the exit status finds the event.
pub async fn out_of_memory_is_an_event_before_the_exit_status(world: &World) {
    let handle = world.create_with(|spec| spec.limits.memory.limit_in_bytes = 32 << 20).await;
    let hungry = ["dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"];
    let status = world.run(&handle, &hungry).await.exit.await;
    let info = world.backend().info(&handle).await.expect("info").into_value();
    assert_eq!((status, info.events), (Ok(137), Some(vec!["Out of memory".into()])));
}

/// In the PATH that the process has, not in the server's; a path with a slash is taken as it is.
pub async fn a_program_is_looked_up_in_the_path_of_the_process(world: &World) {
    let handle = world.create_with(|spec| spec.env = vec!["PATH=/nowhere".into()]).await;
    let with = |path: &str, command: &str| ProcessSpec {
        env: path.split(' ').filter(|path| !path.is_empty()).map(|path| format!("PATH={path}")).collect(),
        ..command_spec(&[command])
    };
    for (path, command, found) in [
        ("", "true", false),
        ("/nowhere:/tmp", "true", false),
        ("/nowhere:/bin", "true", true),
        ("/bin", "true", true),
        ("/nowhere", "/bin/true", true),
    ] {
        let result = world.backend().run(&handle, with(path, command)).await;
        match result {
            Ok(process) if found => assert_eq!(process.exit.await, Ok(0), "{path} {command}"),
            Err(Error::ExecutableNotFound { .. }) if !found => {}
            other => panic!("{path:?} {command}: {other:?}"),
        }
    }
}

/// Also one that its owner has closed to others.
pub async fn a_working_directory_out_of_reach_is_refused(world: &World) {
    let handle = world.create().await;
    let spec =
        |user: &str, dir: &str| ProcessSpec { user: user.into(), dir: dir.into(), ..command_spec(&["pwd"]) };
    world.stream_in(&handle, "", "/tmp", &[("file", b"x")]).await;
    assert_fails_with(world.backend().run(&handle, spec("", "/tmp/file")).await, "/tmp/file");
    let user = world.traits().user.name.as_str();
    assert_fails_with(world.backend().run(&handle, spec(user, "/root")).await, "/root");
    assert_eq!(world.run_spec_to_end(&handle, spec("", "/root")).await.text(), "/root\n");
}

/// With a terminal too: nothing hangs it up.
pub async fn a_process_outlives_its_client(world: &World) {
    let handle = world.create().await;
    for tty in [None, Some(TtySpec::default())] {
        let id = format!("kept-{}", tty.is_some());
        let spec = ProcessSpec { id: id.clone(), tty, ..command_spec(&["cat"]) };
        let process = world.backend().run(&handle, spec).await.expect("run");
        let mut stdout = process.stdout.open();
        process.control.write_stdin("one\n".into()).await.expect("write");
        let echo = stdout.next().await.expect("an echo").expect("an echo");
        assert!(echo.starts_with(b"one"), "{echo:?}");
        drop((process, stdout));
        let attached = world.backend().attach(&handle, &id).await.expect("attach");
        let mut stdout = attached.stdout.open();
        attached.control.write_stdin("two\n".into()).await.expect("write");
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("two") {
            text.extend_from_slice(&stdout.next().await.expect("an echo").expect("an echo"));
        }
        assert_eq!(signalled(attached, Signal::Kill).await, 137);
    }
}

/// An extra image is what bind mounts of a process's own belong to.
pub async fn bind_mounts_without_an_image_are_refused(world: &World) {
    let handle = world.create().await;
    let bind = BindMount { src_path: "/tmp".into(), dst_path: "/mnt".into(), ..Default::default() };
    let spec = ProcessSpec { bind_mounts: vec![bind], ..command_spec(&["true"]) };
    assert_fails_with(world.backend().run(&handle, spec).await, "bind_mounts");
}

/// And no process is left of it.
pub async fn wrong_fields_are_named(world: &World) {
    let handle = world.create().await;
    for (spec, field) in [
        (ProcessSpec::default(), "path"),
        (ProcessSpec { env: vec!["no-equals-sign".into()], ..command_spec(&["true"]) }, "env"),
        (ProcessSpec { env: vec!["=no name".into()], ..command_spec(&["true"]) }, "env"),
        (ProcessSpec { user: "stranger".into(), ..command_spec(&["true"]) }, "user"),
        (ProcessSpec { user: "root:strangers".into(), ..command_spec(&["true"]) }, "group"),
    ] {
        let spec = ProcessSpec { id: "p".into(), ..spec };
        assert_fails_with(world.backend().run(&handle, spec).await, field);
        assert_eq!(
            world.backend().attach(&handle, "p").await.err(),
            Some(Error::process_not_found("p")),
            "{field}"
        );
    }
    assert_eq!(
        world.backend().info(&handle).await.expect("info").process_ids.clone().unwrap_or_default(),
        [""; 0]
    );
}
