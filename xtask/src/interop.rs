//! The test client in Go against our server.

use std::process::Command;

use crate::{
    Outcome,
    build::{self, Profile},
    server::Server,
    shell,
};

/// Builds the client, lets it show that it can fail, and runs it over both kinds of socket.
pub fn go_client() -> Outcome {
    let program = shell::target()?.join("garden-go");
    let folder = shell::root().join("tests/go");
    shell::run(go().current_dir(&folder).args(["vet", "./..."]))?;
    shell::run(go().current_dir(&folder).args(["test", "./..."]))?;
    shell::run(go().current_dir(&folder).args(["build", "-o"]).arg(&program).arg("."))?;

    let server = Server::start(&build::binary(Profile::Debug, "garden-server")?, "linux", "go")?;
    let socket = server.socket().display().to_string();
    let tcp = server.tcp().to_owned();
    for (network, address) in [("unix", &socket), ("tcp", &tcp)] {
        println!("-- garden-go {network} {address}");
        if let Err(why) = shell::run(shell::command(&program).args([network, address])) {
            return Err(format!("{why}; the server's last words:\n{}", server.log()));
        }
    }
    server.stop()
}

fn go() -> Command {
    let mut command = shell::command("go");
    // What is installed is used: no toolchain is fetched.
    command.env("GOTOOLCHAIN", "local");
    command
}
