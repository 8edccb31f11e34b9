//! The classic streams at their limits: a server process of its own, real containers, the wire by hand.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol::{Backend, ContainerSpec};
use tests::{
    killable::{Killable, can_make_containers, supervisors},
    raw::{Process, Stream, ask, ask_on, count},
    soak::soak,
};

const MIB: u64 = 1024 * 1024;
const RING_BYTES: u64 = 16 * MIB;
/// What a reader may hold of what the ring has let go of.
const CHUNK_BYTES: u64 = 256 * 1024;

/// A server with one container.
async fn server_with(handle: &str, server: Killable) -> Killable {
    let mut server = server;
    let client = server.start(None).await;
    let spec = ContainerSpec { handle: handle.to_owned(), ..ContainerSpec::default() };
    client.create(spec).await.expect("create");
    server
}

async fn finish(server: Killable) {
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

/// Sends input, as JSON text without quotes.
fn send(process: &Process, text: &str) {
    let payload = format!("{{\"source\":0,\"data\":\"{text}\"}}");
    process.input().write_all(payload.as_bytes()).expect("send input");
}

fn end_input(process: &Process) {
    process.input().write_all(b"{\"source\":0}").expect("end the input");
}

fn line(from: &mut Stream) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    line
}

/// The value of a metric, named with its labels.
fn metric(socket: &Path, name: &str) -> u64 {
    let mut metrics = ask(socket, "GET", "/metrics", "").expect("metrics");
    loop {
        let line = line(&mut metrics);
        assert!(!line.is_empty(), "no metric {name}");
        if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')) {
            return value.trim().parse::<f64>().expect("a number") as u64;
        }
    }
}

/// A `cat`, and what it gives back.
struct Echo {
    process: Process,
    stdout: Stream,
}

impl Echo {
    fn start(socket: &Path, handle: &str) -> Echo {
        let process = Process::run(socket, handle, &["cat"]).expect("run cat");
        let stdout = process.output(socket, "stdout").expect("its output");
        Echo { process, stdout }
    }

    fn round_trip(&mut self) -> Duration {
        let begun = Instant::now();
        send(&self.process, "ping\\n");
        assert_eq!(line(&mut self.stdout), "ping\n");
        begun.elapsed()
    }

    fn end(mut self) {
        end_input(&self.process);
        assert_eq!(self.process.exit_status().expect("its end"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_up_its_own_process_only_and_that_for_five_seconds() {
    const SIZE: u64 = 60_000_000;
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-dead", Killable::new()).await;
    let socket = server.path("socket");
    let script = format!("read go; head -c {SIZE} /dev/zero");
    let mut writer = Process::run(&socket, "streams-dead", &["sh", "-c", &script]).expect("run");
    let dead = writer.output(&socket, "stdout").expect("its output");
    let mut other = Echo::start(&socket, "streams-dead");

    let begun = Instant::now();
    send(&writer, "go\\n");
    let ended = thread::spawn(move || {
        let status = writer.exit_status();
        (status, begun.elapsed())
    });
    let mut slowest = Duration::ZERO;
    while !ended.is_finished() {
        slowest = slowest.max(other.round_trip());
        thread::sleep(Duration::from_millis(10));
    }
    let (status, took) = ended.join().expect("the waiting thread");
    assert_eq!(status.expect("the writer's end"), 0);
    assert!(took >= Duration::from_secs(5), "nobody waited for the reader: {took:?}");
    assert!(slowest < Duration::from_secs(4), "another process was held up: {slowest:?}");
    other.end();

    let dropped = metric(&socket, "garden_dropped_output_bytes_total");
    assert!(server.log().contains("a client has stopped reading"), "{}", server.log());
    let received = count(dead).expect("the rest");
    assert!(received >= RING_BYTES, "{received}");
    let seen = received + dropped;
    assert!((SIZE..=SIZE + CHUNK_BYTES).contains(&seen), "{received} received, {dropped} dropped");
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_is_given_up_on_while_the_other_output_flows() {
    const SIZE: u64 = 60_000_000;
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-flow", Killable::new()).await;
    let socket = server.path("socket");
    let script =
        format!("read go; while :; do echo on >&2; sleep 0.1; done & head -c {SIZE} /dev/zero; kill $!");
    let mut writer = Process::run(&socket, "streams-flow", &["sh", "-c", &script]).expect("run");
    let _dead = writer.output(&socket, "stdout").expect("its output");
    send(&writer, "go\\n");
    let (told, end) = std::sync::mpsc::channel();
    thread::spawn(move || told.send(writer.exit_status()));
    let status = end.recv_timeout(Duration::from_secs(60)).expect("the process is held up for ever");
    assert_eq!(status.expect("the writer's end"), 0);
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_but_alive_loses_nothing() {
    const SIZE: u64 = RING_BYTES + 3 * MIB;
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-slow", Killable::new()).await;
    let socket = server.path("socket");
    let script = format!("read go; head -c {SIZE} /dev/zero");
    let mut writer = Process::run(&socket, "streams-slow", &["sh", "-c", &script]).expect("run");
    let mut stdout = writer.output(&socket, "stdout").expect("its output");
    send(&writer, "go\\n");
    // At a pace at which the kernel calls the connection writable only every six seconds.
    let mut piece = [0; 4096];
    for _ in 0..80 {
        stdout.read_exact(&mut piece).expect("a piece");
        thread::sleep(Duration::from_millis(150));
    }
    let rest = count(&mut stdout).expect("the rest");
    assert_eq!(80 * 4096 + rest, SIZE);
    assert_eq!(writer.exit_status().expect("its end"), 0);
    assert_eq!(metric(&socket, "garden_dropped_output_bytes_total"), 0);
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_in_one_message_and_out_again_take_little_memory() {
    const SIZE: usize = 50_000_000;
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-big", Killable::new()).await;
    let socket = server.path("socket");
    Echo::start(&socket, "streams-big").end();
    let before = server.peak_memory_kib();

    let mut process = Process::run(&socket, "streams-big", &["cat"]).expect("run");
    let stdout = process.output(&socket, "stdout").expect("its output");
    let received = thread::spawn(move || count(stdout));
    let mut input = process.input();
    input.write_all(b"{\"source\":0,\"data\":\"").expect("send");
    for _ in 0..SIZE / 50_000 {
        input.write_all(&[b'x'; 50_000]).expect("send");
    }
    input.write_all(b"\"}{\"source\":0}").expect("send");
    assert_eq!(received.join().expect("the reader").expect("output"), SIZE as u64);
    assert_eq!(process.exit_status().expect("its end"), 0);
    let grown = server.peak_memory_kib() - before;
    println!("the server's memory grew by {grown} KiB");
    assert!(grown < 16 * 1024, "by {grown} KiB");
    finish(server).await;
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
    let open = |kind| metric(&socket, &format!("garden_open_streams{{kind=\"{kind}\"}}"));
    assert_eq!((open("process"), open("output")), (500, 500));
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
    assert_eq!((open("process"), open("output")), (250, 750));
    drop(silent);
    let begun = Instant::now();
    while (open("process"), open("output")) != (0, 0) {
        assert!(begun.elapsed() < Duration::from_secs(30), "clients that left count as there");
        thread::sleep(Duration::from_millis(20));
    }
    finish(server).await;
}

/// The memory of all rings of a container, in bytes.
fn ring_memory(handle: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for supervisor in supervisors(handle) {
        let pid = supervisor.split(' ').next().expect("a pid").to_owned();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            if target.to_string_lossy().starts_with("/memfd:std") {
                bytes += fs::metadata(entry.path()).map_or(0, |ring| ring.blocks() * 512);
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn all_output_together_takes_no_more_memory_than_allowed_and_a_new_server_keeps_to_that() {
    const TOTAL: u64 = 24 * MIB;
    if !can_make_containers() {
        return;
    }
    let server = Killable::new().with_options(&["--output-buffer-total", "24M"]);
    let mut server = server_with("streams-total", server).await;
    let socket = server.path("socket");
    let mut first = None;
    for round in 0..2 {
        for _ in 0..10 {
            let command = ["sh", "-c", "head -c 5000000 /dev/zero; echo the end"];
            let mut process = Process::run(&socket, "streams-total", &command).expect("run");
            assert_eq!(process.exit_status().expect("its end"), 0);
            // A page for each ring's counters, and one in which its oldest byte lies.
            let memory = ring_memory("streams-total");
            assert!(memory <= TOTAL + 40 * 2 * 4096, "{memory} bytes");
            first.get_or_insert(process);
        }
        assert!(metric(&socket, "garden_output_buffer_bytes") > TOTAL / 4);
        if round == 0 {
            let mut output = Vec::new();
            first
                .as_ref()
                .expect("a process")
                .output(&socket, "stdout")
                .expect("its output")
                .read_to_end(&mut output)
                .expect("what is left of it");
            assert!(output.ends_with(b"the end\n") && output.len() < 5_000_000, "{}", output.len());
            server.kill();
            server.start(None).await;
        }
    }
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_room_is_scarce_output_that_was_read_goes_and_what_was_not_stays() {
    const SIZE: u64 = 500_000;
    if !can_make_containers() {
        return;
    }
    let server = Killable::new().with_options(&["--output-buffer-total", "16M"]);
    let server = server_with("streams-scarce", server).await;
    let socket = server.path("socket");
    let run = || {
        let command = ["head", "-c", &SIZE.to_string(), "/dev/zero"];
        let mut process = Process::run(&socket, "streams-scarce", &command).expect("run");
        assert_eq!(process.exit_status().expect("its end"), 0);
        process
    };
    let read = |process: &Process| count(process.output(&socket, "stdout").expect("stdout")).expect("output");
    let (once, never) = (run(), run());
    assert_eq!(read(&once), SIZE);
    assert_eq!(read(&once), SIZE, "there is room: it can be read again");

    // These have shares, and hold nothing.
    let crowd: Vec<_> = (0..5).map(|_| Echo::start(&socket, "streams-scarce")).collect();
    assert_eq!(read(&once), SIZE, "what idles takes no room");
    // Together more than half of it.
    let more: Vec<_> = (0..16).map(|_| run()).collect();
    let begun = Instant::now();
    while metric(&socket, "garden_output_buffer_bytes") != 17 * SIZE {
        assert!(begun.elapsed() < Duration::from_secs(30), "what was read is still there");
        thread::sleep(Duration::from_millis(50));
    }
    for process in more.iter().chain([&never]) {
        assert_eq!(read(process), SIZE);
    }
    crowd.into_iter().for_each(Echo::end);
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
    while !server.log().contains(complaint) {
        thread::sleep(Duration::from_millis(10));
    }
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
    let pid = server.pid().to_string();
    let set_limit = |limit: usize| {
        let status =
            Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:20000")]).status();
        assert!(status.expect("prlimit").success());
    };
    let (mut ran, mut refused) = (0, 0);
    for spare in 0..12 {
        // Accepted before there is a limit.
        let connection = UnixStream::connect(&socket).expect("connect");
        let answered = ask_on(connection.try_clone().expect("a descriptor"), "GET", "/ping", "");
        answered.expect("ping").read_exact(&mut [0; 3]).expect("its body");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
        set_limit(open + spare);
        let process = Process::run_on(connection, "streams-few", &["echo", "whole"]);
        set_limit(1000);
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

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_opened_after_the_exit_is_whole() {
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-soak", Killable::new()).await;
    let socket = server.path("socket");
    let bytes = soak(&socket, "streams-soak", 100, Duration::from_secs(2)).expect("the soak");
    assert_eq!(bytes, 100 * 400_000);
    finish(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_a_container_with_many_processes_is_nothing_to_warn_of() {
    if !can_make_containers() {
        return;
    }
    let server = server_with("streams-many", Killable::new()).await;
    let socket = server.path("socket");
    let run = || Process::run(&socket, "streams-many", &["sleep", "1000"]).expect("run");
    // What the host lacks is said at the start.
    let begun = server.log().len();
    let mut processes: Vec<_> = (0..130).map(|_| run()).collect();
    ask(&socket, "DELETE", "/containers/streams-many", "").expect("destroy");
    for process in &mut processes {
        process.exit_status().expect("its end");
    }
    let log = server.log();
    assert!(!log[begun..].contains("WARN"), "{log}");
    finish(server).await;
}
