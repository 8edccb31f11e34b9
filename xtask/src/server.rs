//! A garden-server of our own, for as long as a command runs.

use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    shell::{self, TempDir},
};

/// How long a server may take to listen, and to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long another of these commands on this host is waited for.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(600);

/// A running server with a folder, socket and tag of its own.
pub struct Server {
    child: Child,
    program: PathBuf,
    arguments: Vec<String>,
    directory: TempDir,
    /// Where its depot is: what belongs on `/run`.
    _run: TempDir,
    tcp: String,
    /// What makes it the only one of its kind on this host.
    _claim: Option<UnixListener>,
}

impl Server {
    /// Starts one and waits until it listens. `tag` sets what it makes on the host apart from other servers' things.
    pub fn start(program: &Path, backend: &str, tag: &str) -> Result<Self, String> {
        Server::start_with(program, backend, tag, &[])
    }

    /// The same with more options, each with its value.
    pub fn start_with(
        program: &Path,
        backend: &str,
        tag: &str,
        more: &[(&str, &str)],
    ) -> Result<Self, String> {
        let claim = if backend == "linux" { Some(claim_host()?) } else { None };
        let directory = TempDir::new(tag)?;
        let run = TempDir::in_memory(&format!("{tag}-run"))?;
        let port = free_port()?;
        let in_directory = |name: &str| directory.path(name).display().to_string();
        let settings = [
            ("--backend", backend.to_owned()),
            ("--tag", tag.to_owned()),
            ("--depot", run.path("depot").display().to_string()),
            ("--store", in_directory("store")),
            ("--bind-socket", in_directory("garden.sock")),
            ("--bind-ip", "127.0.0.1".to_owned()),
            ("--bind-port", port.to_string()),
        ];
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let arguments: Vec<String> =
            settings.into_iter().chain(more).flat_map(|(name, value)| [name.to_owned(), value]).collect();
        let log = fs::File::create(directory.path("log"))
            .map_err(|e| format!("cannot make the server's log: {e}"))?;
        let again = log.try_clone().map_err(|e| format!("cannot share the server's log: {e}"))?;
        let child = shell::command(program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .map_err(|e| format!("cannot start {}: {e}", program.display()))?;
        let mut server = Server {
            child,
            program: program.to_owned(),
            arguments,
            directory,
            _run: run,
            tcp: format!("127.0.0.1:{port}"),
            _claim: claim,
        };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self) -> Outcome {
        let begun = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the server ended at once with {status}; it said:\n{}", self.log()));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!(
                    "the server does not listen after {PATIENCE:?}; it said:\n{}",
                    self.log()
                ));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path("garden.sock")
    }

    /// Its TCP address.
    pub fn tcp(&self) -> &str {
        &self.tcp
    }

    /// The last lines of what it has logged.
    pub fn log(&self) -> String {
        let text =
            fs::read_to_string(self.directory.path("log")).unwrap_or_else(|e| format!("(no log: {e})"));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Stops it, and has it remove what it keeps on the host between two runs.
    pub fn stop(mut self) -> Outcome {
        self.terminate()?;
        shell::run(self.cleanup().stdout(Stdio::null()))
    }

    /// Stops it, lends its command line to somebody who starts and stops it, and has it remove what is left.
    pub fn stop_and_lend(mut self, to: impl FnOnce(&[String]) -> Outcome) -> Outcome {
        self.terminate()?;
        let program = self.program.display().to_string();
        let command: Vec<String> = std::iter::once(program).chain(self.arguments.iter().cloned()).collect();
        let used = to(&command);
        used.and(shell::run(self.cleanup().stdout(Stdio::null())))
    }

    fn cleanup(&self) -> Command {
        let mut command = shell::command(&self.program);
        // The command comes first, the settings are the same.
        command.arg("cleanup").args(&self.arguments);
        command
    }

    fn terminate(&mut self) -> Outcome {
        // `kill` by command: std has SIGKILL only, and a server is to be asked.
        shell::run(shell::command("kill").arg(self.child.id().to_string()))?;
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the server ended with {status}:\n{}", self.log())),
                Ok(None) if begun.elapsed() < PATIENCE => sleep(Duration::from_millis(5)),
                Ok(None) => {
                    return Err(format!("the server did not stop within {PATIENCE:?}:\n{}", self.log()));
                }
                Err(error) => return Err(format!("cannot wait for the server: {error}")),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only where a command failed half-way; errors have nowhere better to go.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = self.cleanup().stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Waits until no other of these commands has a server that makes containers: they would have the same addresses, and
/// with the same tag destroy each other's containers. An abstract socket is free again however its owner ended.
fn claim_host() -> Result<UnixListener, String> {
    let address = SocketAddr::from_abstract_name("garden-xtask")
        .map_err(|error| format!("cannot name this host's claim: {error}"))?;
    let begun = Instant::now();
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(claim) => return Ok(claim),
            Err(error) if begun.elapsed() > PATIENCE_WITH_OTHERS => {
                return Err(format!("another xtask on this host still has a server of its own: {error}"));
            }
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("cannot find a free port: {e}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|e| format!("cannot find a free port: {e}"))
}
