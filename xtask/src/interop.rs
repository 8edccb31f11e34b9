//! The test client in Go against our server.

use std::{path::Path, process::Command};

use crate::{
    Outcome,
    build::{self, Profile},
    server::Server,
    shell,
};

/// Builds the client, lets it show that it can fail, and runs it against both backends over both kinds of socket; at
/// last it has a server of its own, to stop and kill.
pub fn go_client() -> Outcome {
    let program = shell::target()?.join("garden-go");
    let folder = shell::root().join("tests/go");
    shell::run(go().current_dir(&folder).args(["vet", "./..."]))?;
    shell::run(go().current_dir(&folder).args(["test", "./..."]))?;
    shell::run(go().current_dir(&folder).args(["build", "-o"]).arg(&program).arg("."))?;

    let garden_server = build::binary(Profile::Debug, "garden-server")?;
    let fake = Server::start(&garden_server, "fake", "gf")?;
    both_sockets(&program, "fake", &fake)?;
    fake.stop()?;
    let linux = Server::start(&garden_server, "linux", "go")?;
    both_sockets(&program, "linux", &linux)?;
    linux.stop_and_lend(|command| {
        println!("-- garden-go restart");
        shell::run(shell::command(&program).arg("restart").args(command))
    })
}

fn both_sockets(program: &Path, backend: &str, server: &Server) -> Outcome {
    let socket = server.socket().display().to_string();
    for (network, address) in [("unix", socket.as_str()), ("tcp", server.tcp())] {
        println!("-- garden-go {network}, backend {backend}");
        if let Err(why) = shell::run(shell::command(program).args([network, address])) {
            return Err(format!("{why}; the server's last words:\n{}", server.log()));
        }
    }
    Ok(())
}

fn go() -> Command {
    let mut command = shell::command("go");
    // What is installed is used: no toolchain is fetched.
    command.env("GOTOOLCHAIN", "local");
    command
}
