//! The two servers, as processes of their own.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use crate::{Outcome, bare, load};

const PATIENCE: Duration = Duration::from_secs(10);

/// A server that is killed with its owner.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// `garden-server` with containers in memory.
    pub fn garden(program: &Path, scratch: &Path) -> Outcome<Self> {
        let socket = scratch.join("garden.sock");
        let mut command = Command::new(program);
        command.args(["--backend", "fake", "--log-level", "warn", "--bind-socket"]).arg(&socket);
        Server::start(command, socket)
    }

    /// A bare one that gives these answers by path.
    pub fn bare(answers: &[(String, Vec<u8>)], scratch: &Path) -> Outcome<Self> {
        let socket = scratch.join("bare.sock");
        let mut index = String::new();
        for (n, (path, answer)) in answers.iter().enumerate() {
            index.push_str(&format!("{path}\n"));
            fs::write(scratch.join(n.to_string()), load::body(answer))?;
        }
        fs::write(scratch.join("index"), index)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(bare::MODE).arg(&socket).arg(scratch);
        Server::start(command, socket)
    }

    fn start(mut command: Command, socket: PathBuf) -> Outcome<Self> {
        let child = command.stdin(Stdio::null()).spawn()?;
        let mut server = Server { child, socket };
        let begun = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{command:?} ended at once: {status}").into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{command:?} does not listen after {PATIENCE:?}").into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All the CPU time that its process has used.
    pub fn cpu_time(&self) -> Outcome<Duration> {
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(self.child.id())?))?;
        Ok(clock_gettime(clock)?.into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
