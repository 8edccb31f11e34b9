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
        _ => lifecycle(arguments),
    }
}

/// What the front end costs for each request. Needs no root.
fn http(arguments: &[String]) -> Outcome {
    build::release(&["bench-http"])?;
    let bench = build::binary(Profile::Release, "bench-http")?;
    let server = build::binary(Profile::Release, "garden-server")?;
    shell::run(shell::command(bench).arg(server).args(arguments))
}

/// Builds with optimisation, starts a server, and runs `bench-lifecycle` against it. Arguments go to it.
fn lifecycle(arguments: &[String]) -> Outcome {
    if !shell::is_root() {
        return Err("only root can make containers: sudo cargo xtask bench".to_owned());
    }
    setup::setup(&setup::BENCH)?;
    build::release(&["bench-lifecycle", "bench-floor"])?;
    let server = Server::start(&build::binary(Profile::Release, "garden-server")?, "linux", "be")?;
    let address = format!("unix:{}", server.socket().display());
    let bench = build::binary(Profile::Release, "bench-lifecycle")?;
    if let Err(why) = shell::run(shell::command(bench).arg(address).args(arguments)) {
        return Err(format!("{why}; the server's last words:\n{}", server.log()));
    }
    server.stop()
}
