//! The OpenAPI document against the server that serves it: schemathesis makes requests of it, right and wrong ones,
//! and holds the answers to it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Outcome,
    build::{self, Profile},
    server::Server,
    shell,
};

/// Requests made of each operation at most, besides one for each boundary of each field.
const MAX_EXAMPLES: &str = "15";
/// The same requests in each run.
const SEED: &str = "1";
/// How long the server may take over one of our own requests.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where schemathesis is, in an environment of its own below the target folder, with what it needs in the versions
/// that `tests/openapi/requirements.txt` names.
pub fn prepare() -> Result<PathBuf, String> {
    let folder = shell::target()?.join("schemathesis");
    let python = folder.join("bin/python");
    if !python.exists() {
        shell::run(shell::command("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let requirements = shell::root().join("tests/openapi/requirements.txt");
    let mut install = shell::command(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--requirement",
    ]);
    if let Err(why) = shell::run(install.arg(requirements)) {
        // Half an environment would be in the way of the next attempt.
        return Err(match fs::remove_dir_all(&folder) {
            Ok(()) => why,
            Err(error) => format!("{why}; cannot remove {}: {error}", folder.display()),
        });
    }
    Ok(folder.join("bin/schemathesis"))
}

/// Drives a server over the fake backend, twice: over a container that is there, and over whole lives.
pub fn drive(schemathesis: &Path) -> Outcome {
    let server = Server::start(&build::binary(Profile::Debug, "garden-server")?, "fake", "oa")?;
    // What the document's examples and the configuration speak of.
    for handle in ["box", "brief"] {
        let spec = format!("{{\"handle\":\"{handle}\",\"properties\":{{\"owner\":\"me\"}}}}");
        post(server.tcp(), "/containers", &spec)?;
    }
    post(
        server.tcp(),
        "/v1/containers/box/processes?wait=true",
        "{\"id\":\"job\",\"path\":\"echo\",\"args\":[\"done\"]}",
    )?;
    run(schemathesis, &server, "existing.toml", "examples,coverage,fuzzing")?;
    server.stop()?;

    let server = Server::start(&build::binary(Profile::Debug, "garden-server")?, "fake", "oa")?;
    run(schemathesis, &server, "lives.toml", "stateful")?;
    server.stop()
}

fn run(schemathesis: &Path, server: &Server, config: &str, phases: &str) -> Outcome {
    println!("-- schemathesis: {phases}");
    // It leaves notes where it runs.
    let folder = schemathesis.parent().unwrap_or(schemathesis);
    let mut command = shell::command(schemathesis);
    command.current_dir(folder);
    command.arg("--config-file").arg(shell::root().join("tests/openapi").join(config));
    command.arg("run").arg(format!("http://{}/openapi.json", server.tcp()));
    command.args(["--phases", phases, "--max-examples", MAX_EXAMPLES, "--seed", SEED]);
    command.args(["--continue-on-failure", "--no-color", "--warnings", "off"]);
    shell::run(&mut command).map_err(|why| format!("{why}; the server's last words:\n{}", server.log()))
}

/// Sends a document that must be taken.
fn post(address: &str, path: &str, document: &str) -> Outcome {
    let failed = |error: std::io::Error| format!("cannot POST {path} at {address}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", document.len());
    stream.write_all(format!("{head}Connection: close\r\n\r\n{document}").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("POST {path}: {answer}")) }
}
