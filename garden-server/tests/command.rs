//! The `garden-server` command: starts, says where it listens, stops when told to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(feature = "cli")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// The binary that cargo built for this test. By its place, since the workspace's compiler wrapper is a shell script,
/// and a shell may drop `CARGO_BIN_EXE_garden-server`, whose name is none to it.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.ancestors().nth(2).unwrap().join("garden-server");
    assert!(binary.is_file(), "{}", binary.display());
    binary
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["--backend", "fake", "--bind-socket"]).arg(folder.join("s"));
    command
}

/// A server; killed when the test ends without having stopped it.
struct Running {
    child: Child,
    /// The lines of its log so far.
    lines: Vec<String>,
}

impl Running {
    /// Starts a server and waits for the line of its last listener. Nobody reads its log after that.
    fn start(folder: &Path, arguments: &[&str], last: &str) -> Self {
        let child = command(folder).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Running { child, lines: Vec::new() };
        let mut log = BufReader::new(running.child.stderr.take().unwrap());
        while !running.lines.last().is_some_and(|line: &String| line.contains(last)) {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the server ended: {:?}", running.lines);
            running.lines.push(line);
        }
        running
    }

    /// Its exit code after this signal.
    fn ended_by(mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(mut stream: impl Read + Write, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn failure(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The address in a line of the log.
fn address(line: &str) -> String {
    line.split("address=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn it_serves_on_every_listener_until_it_is_told_to_stop() {
    for name in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let arguments =
            ["--bind-ip=127.0.0.1", "--bind-port=0", "--debug-bind-ip=127.0.0.1", "--debug-bind-port=0"];
        let server = Running::start(folder.path(), &arguments, "/debug/vars");
        let lines = &server.lines;
        assert!(lines.iter().any(|line| line.contains("backend=\"fake\"")), "{lines:?}");
        let addresses: Vec<String> =
            lines.iter().filter(|line| line.contains("address=")).map(|line| address(line)).collect();
        let [tcp, debug] = addresses.as_slice() else { panic!("{lines:?}") };
        assert!(get(UnixStream::connect(folder.path().join("s")).unwrap(), "/ping").ends_with("{}\n"));
        assert!(get(TcpStream::connect(tcp).unwrap(), "/ping").ends_with("{}\n"));
        assert!(get(TcpStream::connect(debug).unwrap(), "/metrics").contains("garden_build_info"));
        assert!(get(TcpStream::connect(debug).unwrap(), "/ping").starts_with("HTTP/1.1 404"));
        let vars = get(TcpStream::connect(debug).unwrap(), "/debug/vars");
        let vars: serde_json::Value = serde_json::from_str(vars.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert!(vars["memstats"]["Alloc"].as_u64().unwrap() > 0);
        assert_eq!(server.ended_by(name), Some(0), "{name}");
        assert!(!folder.path().join("s").exists());
    }
}

#[test]
fn a_second_server_on_the_socket_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[], "listening");
    let said = failure(&command(folder.path()).output().unwrap());
    assert!(said.contains("another server is listening"), "{said}");
    assert!(get(UnixStream::connect(folder.path().join("s")).unwrap(), "/ping").ends_with("{}\n"));
    // Killed, it leaves its socket behind; the next server takes the place.
    assert_eq!(server.ended_by("KILL"), None);
    assert!(folder.path().join("s").exists());
    let server = Running::start(folder.path(), &[], "listening");
    assert_eq!(server.ended_by("TERM"), Some(0));
}

#[test]
fn what_it_must_not_do_it_says() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, wanted) in [
        (&["--bind-ip=0.0.0.0"][..], "--insecure-tcp"),
        (&["--network-plugin", "/x"], "--network-plugin is refused"),
        (&["--preloaded", "a=b"], "--preloaded is refused"),
        (&["--nosuch"], "--nosuch"),
        (&["--socket-group", "no such group"], "no such group"),
        (&["--config", "/nosuch.toml"], "/nosuch.toml"),
    ] {
        let said = failure(&command(folder.path()).args(arguments).output().unwrap());
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

#[test]
fn config_prints_what_is_in_force_and_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("garden.toml");
    std::fs::write(&file, "tag = \"ab\"\n").unwrap();
    let output = command(folder.path())
        .args(["config", "--max-containers=7", "--dadoo-bin=/x", "--config"])
        .arg(&file)
        .env("GARDEN_MTU", "1400")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in [
        "tag = \"ab\"  # file",
        "max-containers = 7  # command line",
        "mtu = 1400  # environment",
        "bind-port = 7777  # default",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("--dadoo-bin is ignored"));
}
