//! The foreign programs: run with a bound on their time, and their failures by name.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use iptables::IPTables;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// More than any host has of rules.
const OUTPUT_MAX_BYTES: u64 = 256 << 20;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error(
        "{tool} is not in the PATH: install it (Debian's package iptables), or start with --firewall nftables"
    )]
    Missing {
        /// The program.
        tool: &'static str,
    },
    /// It is there but cannot be executed, or its input and output cannot be had.
    #[error("run {tool}")]
    Run {
        /// The program.
        tool: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else holds the lock that all programs of this kind take.
    #[error(
        "{tool}: another program has held the xtables lock for {wait_seconds} s: find it with `fuser \
         /run/xtables.lock`, and end it if it hangs"
    )]
    Locked {
        /// The program that waited.
        tool: &'static str,
        /// For how long.
        wait_seconds: u64,
    },
    /// It did not end, and was killed.
    #[error("{tool} did not end within {} s", .limit.as_secs_f32())]
    Hung {
        /// The program.
        tool: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// It said no.
    #[error("{tool} failed with {status}: {message}")]
    Failed {
        /// The program.
        tool: &'static str,
        /// What it ended with.
        status: String,
        /// What it said, and the line of its input that it said that of.
        message: String,
    },
}

/// The programs of one address family, looked for in the PATH.
#[derive(Debug, Clone, Copy)]
pub struct Programs {
    pub iptables: &'static str,
    pub restore: &'static str,
    pub save: &'static str,
}

/// How the programs are run.
#[derive(Debug, Clone, Copy)]
pub struct Tools {
    pub ipv4: Programs,
    pub ipv6: Programs,
    /// How long they wait for their lock.
    pub lock_wait_seconds: u64,
    /// How long each may take, that wait included.
    pub limit: Duration,
}

impl Default for Tools {
    fn default() -> Tools {
        Tools {
            ipv4: Programs { iptables: "iptables", restore: "iptables-restore", save: "iptables-save" },
            ipv6: Programs { iptables: "ip6tables", restore: "ip6tables-restore", save: "ip6tables-save" },
            lock_wait_seconds: 10,
            limit: Duration::from_secs(30),
        }
    }
}

impl Tools {
    /// All tables of a family as text.
    pub fn save(&self, programs: &Programs) -> Result<String, ToolError> {
        self.run(programs.save, &[], "")
    }

    /// Makes the changes of `text`: each table's at once or not at all.
    pub fn restore(&self, programs: &Programs, text: &str) -> Result<(), ToolError> {
        let wait = self.lock_wait_seconds.to_string();
        self.run(programs.restore, &["--noflush", "--wait", &wait], text).map(drop)
    }

    /// One command of the program that takes them one by one, as in `-I FORWARD 1 -j DROP`.
    pub fn command(&self, programs: &Programs, table: &'static str, command: &str) -> Result<(), ToolError> {
        let tool = programs.iptables;
        // Its own option waits for the lock without bound.
        let caller = IPTables { cmd: tool, has_check: true, has_wait: false, is_numeric: true };
        let command = format!("{command} --wait {}", self.lock_wait_seconds);
        let (answer, answered) = mpsc::sync_channel(1);
        // The crate waits for the program's end, so that is left to a thread that can be left behind.
        thread::spawn(move || {
            let result =
                caller.execute(table, &command).map_err(|error| match error.downcast::<io::Error>() {
                    Ok(error) => *error,
                    Err(error) => io::Error::other(error.to_string()),
                });
            // Whoever asked may have stopped waiting.
            let _ = answer.send(result);
        });
        let output =
            answered.recv_timeout(self.limit).map_err(|_| ToolError::Hung { tool, limit: self.limit })?;
        let output = output.map_err(|source| not_run(tool, source))?;
        self.judge(tool, output.status, &output.stderr, "")
    }

    /// What the program prints. Its input and output are files in memory, so that it never waits for us.
    fn run(&self, tool: &'static str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
        let error = |source| ToolError::Run { tool, source };
        let (mut stdin, stdout, stderr) = (memory()?, memory()?, memory()?);
        stdin.write_all(input.as_bytes()).and_then(|()| stdin.rewind()).map_err(error)?;
        let copy = |file: &File| file.try_clone().map(Stdio::from).map_err(error);
        let mut child = Command::new(tool)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(stdin)
            .stdout(copy(&stdout)?)
            .stderr(copy(&stderr)?)
            .spawn()
            .map_err(|source| not_run(tool, source))?;
        let status = self.wait(tool, &mut child)?;
        self.judge(tool, status, &contents(stderr).map_err(error)?, input)?;
        contents(stdout).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(error)
    }

    fn wait(&self, tool: &'static str, child: &mut Child) -> Result<ExitStatus, ToolError> {
        let ended = ends_within(child, self.limit);
        if !matches!(ended, Ok(true)) {
            // By its own handle: nothing else has its number before it is waited for.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|source| ToolError::Run { tool, source })?;
        match ended.map_err(|source| ToolError::Run { tool, source })? {
            true => Ok(status),
            false => Err(ToolError::Hung { tool, limit: self.limit }),
        }
    }

    fn judge(
        &self,
        tool: &'static str,
        status: ExitStatus,
        stderr: &[u8],
        input: &str,
    ) -> Result<(), ToolError> {
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(stderr);
        if said.contains("xtables lock") {
            return Err(ToolError::Locked { tool, wait_seconds: self.lock_wait_seconds });
        }
        let mut message = said.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(line) = line_of(&message).and_then(|number| input.lines().nth(number.checked_sub(1)?)) {
            message.push_str(&format!(" [{line}]"));
        }
        Err(ToolError::Failed { tool, status: status.to_string(), message })
    }
}

/// The number in "line 7 failed" or "error occurred at line: 7".
fn line_of(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once("line")?;
    rest.trim_start_matches([':', ' ']).split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn not_run(tool: &'static str, source: io::Error) -> ToolError {
    match source.kind() {
        io::ErrorKind::NotFound => ToolError::Missing { tool },
        _ => ToolError::Run { tool, source },
    }
}

fn memory() -> Result<File, ToolError> {
    let made = memfd_create(c"iptables", MemfdFlags::CLOEXEC);
    let error = |source: rustix::io::Errno| ToolError::Run { tool: "iptables", source: source.into() };
    made.map(OwnedFd::into).map_err(error)
}

fn contents(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(OUTPUT_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)) {
            Ok(ready) => return Ok(ready == 1),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
