//! A server that has many streams, and few descriptors or none.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    io::Read,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::{
    echo::{Echo, end_input, line, metric, send, server_with},
    killable::{Killable, can_make_containers},
    patience::patience,
    raw::{Process, ask_on, count},
};

async fn finish(server: Killable) {
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

/// Waits for something to be as it should.
fn until(mut holds: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < patience(30), "{}", otherwise());
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many streams of that kind the server counts.
fn open_streams(socket: &Path, kind: &str) -> u64 {
    metric(socket, &format!("garden_open_streams{{kind=\"{kind}\"}}"))
}

/// Waits for the server to notice that all have left.
fn until_no_streams_are_open(socket: &Path) {
    let open = || [open_streams(socket, "process"), open_streams(socket, "output")];
    until(|| open() == [0, 0], || format!("clients that left count as there: {:?}", open()));
}

/// Changes how many descriptors a server may have.
fn set_limit(server: &Killable, limit: usize) {
    let (pid, limit) = (server.pid().to_string(), format!("--nofile={limit}:20000"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(status.expect("prlimit").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_of_containers_are_served_at_once() {
    if can_make_containers() {
        a_thousand_streams(Killable::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_of_the_fake_are_served_at_once() {
    // The soft limit that many systems start a service with.
    let server = Killable::new().started_by(&["prlimit", "--nofile=1024:"]);
    a_thousand_streams(server.with_options(&["--backend", "fake"])).await;
}

async fn a_thousand_streams(server: Killable) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit of open files");
    let server = server_with("streams-many", server).await;
    let socket = server.path("socket");
    // Four streams each.
    let mut all: Vec<_> = (0..250)
        .map(|number| {
            let echo = Echo::start(&socket, "streams-many");
            let stderr = echo.process.output(&socket, "stderr").expect("its error output");
            let attached = Process::attach(&socket, "streams-many", echo.process.id()).expect("attach");
            (number, echo, stderr, attached)
        })
        .collect();
    assert_eq!((open_streams(&socket, "process"), open_streams(&socket, "output")), (500, 500));
    for (number, _, _, attached) in &all {
        send(attached, &format!("to {number}\\n"));
    }
    for (number, echo, _, attached) in &mut all {
        assert_eq!(line(&mut echo.stdout), format!("to {number}\n"));
        end_input(attached);
    }
    for (number, mut echo, stderr, mut attached) in all {
        assert_eq!(echo.process.exit_status().expect("the end"), 0, "{number}");
        assert_eq!(attached.exit_status().expect("the end"), 0, "{number}");
        assert_eq!((count(echo.stdout).expect("stdout"), count(stderr).expect("stderr")), (0, 0));
    }

    // And each client that leaves is noticed, though nothing is written.
    let silent: Vec<_> = (0..250)
        .map(|_| {
            let process = Process::run(&socket, "streams-many", &["sleep", "1000"]).expect("run");
            let outputs = ["stdout", "stderr", "stderr"].map(|which| process.output(&socket, which));
            (process, outputs)
        })
        .collect();
    assert_eq!((open_streams(&socket, "process"), open_streams(&socket, "output")), (250, 750));
    drop(silent);
    until_no_streams_are_open(&socket);
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_descriptors_the_server_waits_and_what_is_open_goes_on() {
    if !can_make_containers() {
        return;
    }
    let server = Killable::new().started_by(&["prlimit", "--nofile=150:150"]);
    let mut server = server_with("streams-limit", server).await;
    let socket = server.path("socket");
    let mut echo = Echo::start(&socket, "streams-limit");
    let complaint = "cannot accept a connection";
    let crowd: Vec<_> = (0..300).map(|_| UnixStream::connect(&socket).expect("connect")).collect();
    until(|| server.log().contains(complaint), || server.log());
    for _ in 0..20 {
        echo.round_trip();
        thread::sleep(Duration::from_millis(50));
    }
    // It tries twenty times in that time.
    assert!(server.log().matches(complaint).count() < 5, "said over and over: {}", server.log());
    drop(crowd);
    Echo::start(&socket, "streams-limit").end();
    echo.end();
    server.kill();
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_descriptors_do_not_reach_the_server_is_not_said_to_run() {
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-few", Killable::new()).await;
    let socket = server.path("socket");
    Echo::start(&socket, "streams-few").end();
    let pid = server.pid();
    let (mut ran, mut refused) = (0, 0);
    for spare in 0..12 {
        // Accepted before there is a limit.
        let connection = UnixStream::connect(&socket).expect("connect");
        let answered = ask_on(connection.try_clone().expect("a descriptor"), "GET", "/ping", "");
        answered.expect("ping").read_exact(&mut [0; 3]).expect("its body");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
        set_limit(&server, open + spare);
        let process = Process::run_on(connection, "streams-few", &["echo", "whole"]);
        set_limit(&server, 1000);
        match process {
            Ok(mut process) => {
                assert_eq!(process.exit_status().expect("its end"), 0);
                let output = process.output(&socket, "stdout").expect("its output");
                assert_eq!(count(output).expect("output"), 6, "with {spare} descriptors to spare");
                ran += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} were refused");
    finish(server).await;
}

/// Numbers of the ended supervisors among the descendants of a server that nobody has waited for.
fn unreaped_supervisors(server: u32) -> Vec<u32> {
    let stats = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let all: Vec<(u32, String, u32)> = stats
        .filter_map(|stat| {
            let (process, rest) = stat.rsplit_once(") ")?;
            let (state, rest) = rest.split_once(' ')?;
            let (pid, name) = process.split_once(" (")?;
            let parent = rest.split(' ').next()?.parse().ok()?;
            Some((pid.parse().ok()?, format!("{name} {state}"), parent))
        })
        .collect();
    let children = all.iter().filter(|(_, _, parent)| *parent == server).map(|(pid, ..)| *pid);
    let parents: Vec<u32> = children.chain([server]).collect();
    let ended = all.iter().filter(|(_, is, parent)| is == "garden-init Z" && parents.contains(parent));
    ended.map(|(pid, ..)| *pid).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn supervisors_that_the_server_has_no_descriptors_for_are_gone_without_a_trace() {
    if !can_make_containers() {
        return;
    }
    let server = Killable::new().with_options(&["--prepared-containers", "0"]);
    let server = server_with("streams-none", server).await;
    let (socket, pid) = (server.path("socket"), server.pid());
    let mut refused = 0;
    for spare in 0..12 {
        // Accepted before there is a limit.
        let connection = UnixStream::connect(&socket).expect("connect");
        let answered = ask_on(connection.try_clone().expect("a descriptor"), "GET", "/ping", "");
        answered.expect("ping").read_exact(&mut [0; 3]).expect("its body");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
        set_limit(&server, open + spare);
        let body = format!("{{\"handle\":\"streams-none-{spare}\"}}");
        refused += usize::from(ask_on(connection, "POST", "/containers", &body).is_err());
        set_limit(&server, 1000);
    }
    assert!(refused > 0);
    let unreaped = || unreaped_supervisors(pid);
    until(|| unreaped().is_empty(), || format!("nobody waits for {:?}", unreaped()));
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_while_there_are_no_descriptors_are_noticed_once_there_are() {
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-leave", Killable::new().with_options(&["--log-level", "debug"])).await;
    let socket = server.path("socket");
    let echo = Echo::start(&socket, "streams-leave");
    set_limit(&server, 0);
    drop(echo);
    let complaint = "cannot watch for the end of a connection";
    until(|| server.log().matches(complaint).count() >= 2, || server.log());
    set_limit(&server, 1000);
    until_no_streams_are_open(&socket);
    finish(server).await;
}
