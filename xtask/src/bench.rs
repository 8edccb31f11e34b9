//! `cargo xtask bench`: how fast, beside what.

use crate::{
    Outcome,
    build::{self, Profile},
    server::Server,
    setup, shell,
};

/// What `bench` can be asked for, by its first argument; without one it is a container's life.
pub fn bench(arguments: &[String]) -> Outcome {
    match arguments.split_first() {
        Some((which, rest)) if which == "http" => http(rest),
        Some((which, rest)) if which == "stream" => against_a_server("bench-stream", &[], rest),
        Some((which, rest)) if which == "metrics" => against_a_server("bench-metrics", &[], rest),
        Some((which, rest)) if which == "network" => network(rest),
        _ => against_a_server("bench-lifecycle", &["bench-floor"], arguments),
    }
}

/// What the front end costs for each request. Arguments go to `bench-http`.
fn http(arguments: &[String]) -> Outcome {
    beside_a_server("bench-http", &[], &[], |server| {
        let mut all = vec![server.socket().display().to_string(), server.id().to_string()];
        all.extend_from_slice(arguments);
        all
    })
}

/// What ports and rules cost, beside more containers than the default pool bears. Arguments go to `bench-network`.
fn network(arguments: &[String]) -> Outcome {
    let options = [("--network-pool", "10.131.0.0/20")];
    beside_a_server("bench-network", &[], &options, |server| with_address(server, arguments))
}

fn with_address(server: &Server, arguments: &[String]) -> Vec<String> {
    let mut all = vec![format!("unix:{}", server.socket().display())];
    all.extend_from_slice(arguments);
    all
}

/// Runs `name` with the server's address and these arguments.
pub fn against_a_server(name: &str, started: &[&str], arguments: &[String]) -> Outcome {
    beside_a_server(name, started, &[], |server| with_address(server, arguments))
}

/// Builds a benchmark and what it starts with optimisation, starts a server with these options, and runs it with these
/// arguments.
fn beside_a_server(
    name: &str,
    started: &[&str],
    options: &[(&str, &str)],
    arguments: impl Fn(&Server) -> Vec<String>,
) -> Outcome {
    if !shell::is_root() {
        return Err("only root can make containers: sudo cargo xtask ...".to_owned());
    }
    setup::setup(&setup::BENCH)?;
    build::release(&[&[name], started].concat())?;
    let server = build::binary(Profile::Release, "garden-server")?;
    let server = Server::start_with(&server, "linux", "be", options)?;
    let bench = build::binary(Profile::Release, name)?;
    if let Err(why) = shell::run(shell::command(bench).args(arguments(&server))) {
        return Err(format!("{why}; the server's last words:\n{}", server.log()));
    }
    server.stop()
}
