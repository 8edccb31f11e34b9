//! The garden command, as a user runs it, against the real server over the fake backend.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, process::Stdio};

use garden_client::protocol::NetOutProtocol;
use serde_json::Value;
use support::{LIMIT, RUN_HEAD, RealServer, Scripted, answer};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

struct Done {
    status: i32,
    stdout: String,
    stderr: String,
}

fn command(address: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_garden"));
    command.args(args).env("GARDEN_TARGET", address).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn done(child: Child) -> Done {
    let output = timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    Done {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn garden(address: &str, args: &[&str]) -> Done {
    done(command(address, args).spawn().unwrap()).await
}

/// What it prints, if it succeeds.
async fn ok(server: &RealServer, args: &[&str]) -> String {
    let done = garden(&server.address(), args).await;
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "garden {}", args.join(" "));
    done.stdout
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_life() {
    let server = RealServer::start().await;
    assert_eq!(ok(&server, &["ping"]).await, format!("{} answers\n", server.address()));
    assert!(ok(&server, &["capacity"]).await.contains("memory              1.0 GiB\n"));
    let create = [
        "create",
        "c1",
        "--memory-limit",
        "64M",
        "--pids",
        "9",
        "-p",
        "a.b:c=x y",
        "--net-in",
        "0:8080",
        "-e",
        "A=b",
    ];
    assert_eq!(ok(&server, &create).await, "c1\n");
    assert_eq!(ok(&server, &["list"]).await, "c1\n");
    assert_eq!(ok(&server, &["list", "-p", "a.b:c=x y"]).await, "c1\n");
    assert_eq!(ok(&server, &["list", "-p", "a.b:c=z"]).await, "");
    let info = ok(&server, &["info", "c1"]).await;
    assert!(info.contains("state              active\n") && info.contains("61001 -> 8080\n"), "{info}");
    assert!(info.contains("property           a.b:c=x y\n"), "{info}");
    assert_eq!(ok(&server, &["net-in", "c1", "0:9090"]).await, "61002 -> 9090\n");
    ok(&server, &["properties", "set", "c1", "k", "v"]).await;
    assert_eq!(ok(&server, &["properties", "get", "c1", "k"]).await, "v\n");
    assert_eq!(ok(&server, &["properties", "get", "c1"]).await, "a.b:c=x y\nk=v\n");
    ok(&server, &["properties", "remove", "c1", "k"]).await;
    assert!(ok(&server, &["metrics", "c1"]).await.contains("pids"));
    ok(&server, &["stop", "c1", "--kill"]).await;
    assert_eq!(ok(&server, &["create"]).await.lines().count(), 1);
    let left: Vec<String> = ok(&server, &["list"]).await.lines().map(str::to_owned).collect();
    let destroy: Vec<&str> = ["destroy"].into_iter().chain(left.iter().map(String::as_str)).collect();
    ok(&server, &destroy).await;
    assert_eq!(ok(&server, &["list"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn outbound_rules_are_added_and_replaced() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1", "--net-out", "tcp,to=192.0.2.0/24,ports=443"]).await;
    ok(&server, &["net-out", "c1", "icmp,type=8", "udp,ports=53,log"]).await;
    let rules = server.fake.net_out_rules("c1").unwrap();
    let protocols = [NetOutProtocol::Tcp, NetOutProtocol::Icmp, NetOutProtocol::Udp];
    assert_eq!(rules.iter().map(|rule| rule.protocol).collect::<Vec<_>>(), protocols);
    ok(&server, &["net-out", "c1", "--replace", "udp,ports=53,log"]).await;
    assert_eq!(server.fake.net_out_rules("c1").unwrap(), rules[2..]);
    ok(&server, &["net-out", "c1", "--replace"]).await;
    assert_eq!(server.fake.net_out_rules("c1").unwrap(), []);
    for wrong in [&["net-out", "c1"][..], &["net-out", "c1", "tcp,ports=2-1"]] {
        let refused = garden(&server.address(), wrong).await;
        assert!(refused.status != 0 && refused.stderr.contains("RULE"), "{}", refused.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_document() {
    let server = RealServer::start().await;
    let json = |args: &'static [&'static str]| {
        let server = &server;
        async move { serde_json::from_str::<Value>(&ok(server, args).await).unwrap() }
    };
    assert_eq!(json(&["--json", "create", "c1"]).await["Handle"], "c1");
    assert_eq!(json(&["list", "--json"]).await["Handles"], serde_json::json!(["c1"]));
    assert_eq!(json(&["info", "c1", "--json"]).await["State"], "active");
    assert_eq!(json(&["capacity", "--json"]).await["max_containers"], 250);
    assert_eq!(json(&["metrics", "c1", "--json"]).await["PidStat"]["Max"], 0);
    assert_eq!(json(&["net-in", "c1", "0:1", "--json"]).await["container_port"], 1);
    let done = garden(&server.address(), &["--json", "run", "c1", "both", "out", "err", "3"]).await;
    assert_eq!(done.status, 3);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&document["stdout"], &document["stderr"]), (&"out".into(), &"err".into()));
    assert_eq!(document["exit_status"], 3);
    assert!(json(&["run", "c1", "--json", "-d", "hold"]).await["process_id"].is_string());
    assert_eq!(json(&["destroy", "c1", "--json"]).await["destroyed"], serde_json::json!(["c1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_passes_streams_and_status_on() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    let done = garden(&server.address(), &["run", "c1", "both", "out\n", "err\n", "7"]).await;
    assert_eq!((done.status, done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
    let run =
        ["run", "c1", "--user", "alice", "--dir", "/tmp", "-e", "A=b", "sh", "-c", "pwd; echo $A $USER"];
    assert_eq!(ok(&server, &run).await, "/tmp\nb alice\n");
    // Without -i the input is empty.
    assert_eq!(ok(&server, &["run", "c1", "cat"]).await, "");

    let mut child =
        command(&server.address(), &["run", "-i", "c1", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for line in ["live ä\n", "and again\n"] {
        stdin.write_all(line.as_bytes()).await.unwrap();
        let mut echoed = String::new();
        timeout(LIMIT, stdout.read_line(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, line);
    }
    drop(stdin);
    assert_eq!(done_status(child).await, 0);
}

async fn done_status(child: Child) -> i32 {
    done(child).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn run_ends_with_the_process_while_input_is_open() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    let mut child =
        command(&server.address(), &["run", "-i", "c1", "exit", "4"]).stdin(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    assert_eq!(done_status(child).await, 4);
    drop(stdin);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_arrives_whole() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    let mut child =
        command(&server.address(), &["run", "-i", "c1", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let text = "0123456789abcdé\n".repeat(400_000);
    let (mut stdin, sent) = (child.stdin.take().unwrap(), text.clone());
    tokio::spawn(async move { stdin.write_all(sent.as_bytes()).await });
    let done = done(child).await;
    assert_eq!((done.status, done.stdout == text), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_output_are_exact_to_the_byte() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    for sent in [(0..=255).collect(), support::noise(1 << 20)] {
        let mut child =
            command(&server.address(), &["run", "-i", "c1", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (written, output) =
            tokio::join!(async { drop((stdin.write_all(&sent).await, stdin)) }, child.wait_with_output());
        let (output, ()) = (output.unwrap(), written);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout == sent, "what came back is not what was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_terminates_then_kills() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    let child =
        command(&server.address(), &["run", "c1", "sh", "-c", "echo up; sleep 1000"]).spawn().unwrap();
    let (child, _) = after_line(child).await;
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(done_status(child).await, 143);

    let script = "trap '' TERM; echo up; sleep 1000";
    let child = command(&server.address(), &["run", "c1", "sh", "-c", script]).spawn().unwrap();
    let (mut child, _) = after_line(child).await;
    signal(&child, rustix::process::Signal::INT);
    // Two that arrive together are one to the kernel: repeats until it is gone.
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.unwrap().code(),
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {
                signal(&child, rustix::process::Signal::INT);
            }
        }
    };
    assert_eq!(status, Some(137));
}

/// The child once it has printed a line, and that line.
async fn after_line(mut child: Child) -> (Child, String) {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    timeout(LIMIT, stdout.read_line(&mut line)).await.unwrap().unwrap();
    // Read on, so that what comes later finds a reader.
    tokio::spawn(async move { stdout.read_to_end(&mut Vec::new()).await });
    (child, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_and_attach() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    let id = ok(&server, &["run", "-d", "--id", "p1", "c1", "sleep", "1000"]).await;
    assert_eq!(id, "p1\n");
    let child = command(&server.address(), &["attach", "c1", "p1"]).spawn().unwrap();
    ok(&server, &["stop", "c1", "--kill"]).await;
    assert_eq!(done_status(child).await, 137);
    // Its status is kept.
    assert_eq!(garden(&server.address(), &["attach", "c1", "p1"]).await.status, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(path("app/sub")).unwrap();
    fs::write(path("app/sub/file"), "content").unwrap();
    ok(&server, &["stream-in", &path("app"), "c1:/tmp/app", "--user", "alice"]).await;
    assert_eq!(ok(&server, &["run", "c1", "cat", "/tmp/app/sub/file"]).await, "content");
    ok(&server, &["stream-out", "c1:/tmp/app/", &path("out")]).await;
    assert_eq!(fs::read_to_string(path("out/sub/file")).unwrap(), "content");
    ok(&server, &["stream-in", &path("app/sub/file"), "c1:/one"]).await;
    assert_eq!(ok(&server, &["run", "c1", "cat", "/one/file"]).await, "content");

    // One command's standard output is the other's standard input.
    fs::write(path("a.tar"), "").unwrap();
    let tar = fs::File::create(path("a.tar")).unwrap();
    let out = command(&server.address(), &["stream-out", "c1:/tmp/app/", "-"]).stdout(tar).spawn().unwrap();
    assert_eq!(done_status(out).await, 0);
    let tar = fs::File::open(path("a.tar")).unwrap();
    let into = command(&server.address(), &["stream-in", "-", "c1:/copy"]).stdin(tar).spawn().unwrap();
    assert_eq!(done_status(into).await, 0);
    assert_eq!(ok(&server, &["run", "c1", "cat", "/copy/sub/file"]).await, "content");

    server.fake.faults().break_next_stream_out("disk on fire");
    let done = garden(&server.address(), &["stream-out", "c1:/tmp/app/", &path("broken")]).await;
    assert_eq!(done.status, 125);
    // The server may break off before it has sent the answer's head.
    let visible =
        ["was cut short", "was lost during stream_out"].iter().any(|text| done.stderr.contains(text));
    assert!(visible, "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_do_next() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    for (args, stderr) in [
        (
            &["info", "nope"][..],
            "garden: info nope: unknown handle: nope\n  `garden list` prints the handles that exist\n",
        ),
        (
            &["create", "c1"],
            "garden: create c1: Handle 'c1' already in use\n  choose another handle, or destroy that container first\n",
        ),
        (
            &["run", "c1", "nope"],
            "garden: run c1: exec: \"nope\": executable file not found in $PATH\n  \
             give a program that the container's image has, or its full path\n",
        ),
        (
            &["attach", "c1", "nope"],
            "garden: attach c1 nope: unknown process: nope\n  \
             `garden info HANDLE` prints the processes that are running\n",
        ),
    ] {
        let done = garden(&server.address(), args).await;
        assert_eq!((done.status, done.stderr.as_str()), (125, stderr));
    }
    let done = garden(&server.address(), &["destroy", "nope", "c1"]).await;
    assert_eq!(done.status, 125);
    assert_eq!(ok(&server, &["list"]).await, "");

    let done = garden("unix:/nowhere/garden.sock", &["ping"]).await;
    assert_eq!(done.status, 125);
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert!(lines[0].starts_with("garden: ping: cannot connect to unix:/nowhere/garden.sock: No such file"));
    assert!(lines[1].contains("is garden-server running") && lines[1].contains("--target"), "{}", lines[1]);

    assert_eq!(garden("nonsense", &["ping"]).await.status, 125);
    assert_eq!(garden("unix:/x", &["create", "--memory-limit", "lots"]).await.status, 125);
    assert_eq!(garden("unix:/x", &["--help"]).await.status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_server_says_how_to_go_on() {
    let server = Scripted::start(|number, mut peer| async move {
        peer.request().await;
        if number == 0 {
            // Which streams there are: classic ones.
            peer.send(answer("200 OK", "{}")).await;
        } else if number == 1 {
            peer.send(format!("{RUN_HEAD}{{\"process_id\":\"p\",\"stream_id\":\"1\"}}\n")).await;
        }
    });
    let done = garden(&server.address(), &["run", "c1", "x"]).await;
    assert_eq!(done.status, 125);
    // Either the process's stream or one of its outputs is found out first.
    let found_out =
        done.stderr.contains("decode failed: EOF\n") || done.stderr.contains("was lost during std");
    assert!(
        found_out && done.stderr.contains("\n  it may still run: `garden attach c1 p`"),
        "{}",
        done.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_it_quietly() {
    let server = RealServer::start().await;
    ok(&server, &["create", "c1"]).await;
    let mut child =
        command(&server.address(), &["run", "-i", "c1", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"to nobody\n").await.unwrap();
    let done = done(child).await;
    assert_eq!((done.status, done.stderr.as_str()), (141, ""));

    let mut child = command(&server.address(), &["list"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().await.unwrap().code(), Some(141));
}
