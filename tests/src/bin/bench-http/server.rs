//! The two servers, as processes whose time is looked at.

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

use crate::{Outcome, load};

const PATIENCE: Duration = Duration::from_secs(10);

/// A server.
pub struct Server {
    pid: Pid,
    socket: PathBuf,
    /// Killed with this, where it was started here.
    child: Option<Child>,
}

impl Server {
    /// One that somebody else has started.
    pub fn running(socket: &str, pid: &str) -> Outcome<Self> {
        Ok(Server { pid: Pid::from_raw(pid.parse()?), socket: socket.into(), child: None })
    }

    /// A bare one that gives these answers by path.
    pub fn bare(mode: &str, answers: &[(String, Vec<u8>)], scratch: &Path) -> Outcome<Self> {
        let socket = scratch.join(format!("{mode}.sock"));
        let mut index = String::new();
        for (n, (path, answer)) in answers.iter().enumerate() {
            index.push_str(&format!("{path}\n"));
            fs::write(scratch.join(n.to_string()), load::body(answer))?;
        }
        fs::write(scratch.join("index"), index)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(mode).arg(&socket).arg(scratch);
        let child = command.stdin(Stdio::null()).spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let server = Server { pid, socket, child: Some(child) };
        let begun = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the bare server does not listen after {PATIENCE:?}").into());
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
        let clock = clock_getcpuclockid(self.pid)?;
        Ok(clock_gettime(clock)?.into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
