//! The classic streams at their limits: a server process of its own, real containers, the wire by hand.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use tests::{
    echo::{Echo, metric, send, server_with},
    killable::{Killable, can_make_containers, supervisors},
    patience::patience,
    raw::{Process, ask, count},
    soak::soak,
};

const MIB: u64 = 1024 * 1024;
const RING_BYTES: u64 = 16 * MIB;
/// What a reader may hold of what the ring has let go of.
const CHUNK_BYTES: u64 = 256 * 1024;

async fn finish(server: Killable) {
    assert_eq!(server.clean_up().await, Vec::<String>::new());
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
    let status = end.recv_timeout(patience(60)).expect("the process is held up for ever");
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
        assert!(begun.elapsed() < patience(30), "what was read is still there");
        thread::sleep(Duration::from_millis(50));
    }
    for process in more.iter().chain([&never]) {
        assert_eq!(read(process), SIZE);
    }
    crowd.into_iter().for_each(Echo::end);
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
