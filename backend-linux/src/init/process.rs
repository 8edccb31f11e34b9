//! A process of the container, from the fork to the exit status.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use backend_linux::supervisor::{Failure, OutputFds, RunRequest, Terminal};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{OFlags, fcntl_setfl},
    io::{Errno, write},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, pidfd_send_signal},
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    exec,
    output::{Drained, Output},
    start::Container,
};

/// How long output may go on after the process has ended, because children of it still write.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Where a process is in its life.
enum State {
    /// Forked, not yet executed: the pipe says when, or why not.
    Starting { connection: u64, status: OwnedFd },
    /// Cannot be started.
    Failed { connection: u64, failure: Failure },
    /// Executed; the connection that asked has not been told yet.
    Started { connection: u64, ended: Option<i32> },
    /// Running, and told so.
    Running,
    /// Ended, with output perhaps still in the pipes.
    Draining { status: i32, deadline: Instant },
    /// Ended, complete; the watchers have not been told yet.
    Complete { status: i32 },
    /// Ended, and told so.
    Ended { status: i32 },
}

/// A process and what belongs to it.
pub struct Process {
    id: String,
    state: State,
    pid: Pid,
    pidfd: OwnedFd,
    watchers: Vec<u64>,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    outputs: Option<[Output; 2]>,
    news: OwnedFd,
    room: OwnedFd,
}

impl Process {
    /// Forks it.
    pub fn start(container: &Container, request: &RunRequest, connection: u64) -> io::Result<Process> {
        let stdio = Stdio::new(container, request.terminal)?;
        let (status, status_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&status, OFlags::NONBLOCK)?;
        let (pid, pidfd) = exec::start(container, request, stdio.inner, status_writer)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Process {
            id: request.id.clone(),
            state: State::Starting { connection, status },
            pid,
            pidfd,
            watchers: vec![connection],
            stdin: Some(stdio.stdin),
            terminal: stdio.terminal,
            outputs: Some([Output::new(Some(stdio.stdout), "stdout")?, Output::new(stdio.stderr, "stderr")?]),
            news: eventfd(0, flags)?,
            room: eventfd(0, flags)?,
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it was ever executed.
    pub fn is_started(&self) -> bool {
        !matches!(self.state, State::Starting { .. } | State::Failed { .. })
    }

    /// Its exit status, once it has ended and its output is complete.
    pub fn exit_status(&self) -> Option<i32> {
        match self.state {
            State::Complete { status } | State::Ended { status } => Some(status),
            _ => None,
        }
    }

    pub fn add_watcher(&mut self, connection: u64) {
        self.watchers.push(connection);
    }

    pub fn forget_watcher(&mut self, connection: u64) {
        self.watchers.retain(|watcher| *watcher != connection);
        if self.watchers.is_empty() {
            // Nobody can hold a ring any more.
            self.pump(false);
        }
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = Vec::new();
        if let State::Starting { status, .. } = &self.state {
            fds.push(status.as_fd());
        }
        if self.exit_status().is_none()
            && let Some(outputs) = &self.outputs
        {
            fds.extend(outputs.iter().filter_map(Output::source));
            if outputs.iter().any(Output::is_full) {
                fds.push(self.room.as_fd());
            }
        }
        fds
    }

    /// When to look again even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Draining { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    /// Does what can be done: learns whether it started, moves output, ends the draining.
    pub fn pump(&mut self, unheld: bool) {
        if matches!(self.state, State::Starting { .. }) {
            self.look_whether_started(None);
        }
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.room, &mut counter);
        let held = !self.watchers.is_empty() && !unheld;
        let mut drained = [Drained::Ended; 2];
        let mut moved = false;
        for (output, drained) in self.outputs.iter_mut().flatten().zip(&mut drained) {
            let (state, some) = output.drain(held);
            *drained = state;
            moved |= some || state == Drained::Full;
        }
        if moved {
            self.tell_news();
        }
        if let State::Draining { status, deadline } = self.state {
            let dry = drained.iter().all(|state| matches!(state, Drained::Empty | Drained::Ended));
            let full = drained.contains(&Drained::Full);
            if dry || (!full && Instant::now() >= deadline) {
                self.complete(status);
            } else if full {
                // A reader that takes its time is no reason to cut the output short.
                self.state = State::Draining { status, deadline: Instant::now() + DRAIN_LIMIT };
            }
        }
    }

    fn complete(&mut self, status: i32) {
        self.outputs.iter_mut().flatten().for_each(Output::close);
        self.stdin = None;
        self.terminal = None;
        self.state = State::Complete { status };
        self.tell_news();
    }

    fn tell_news(&self) {
        // It can only be full of news already.
        let _ = write(&self.news, &1u64.to_ne_bytes());
    }

    /// Reads from the pipe whether it was executed. `dead` is the status of a process that is known to have ended.
    fn look_whether_started(&mut self, dead: Option<i32>) {
        let State::Starting { connection, status } = &self.state else { return };
        let connection = *connection;
        let mut first = [0];
        let executed = match rustix::io::read(status, &mut first) {
            Ok(0) => true,
            Ok(_) => false,
            Err(Errno::AGAIN | Errno::INTR) if dead.is_none() => return,
            Err(_) => false,
        };
        self.state = if executed {
            State::Started { connection, ended: dead }
        } else {
            let failure = crate::enter::read_failure_after(&first, status, dead.unwrap_or(0));
            State::Failed { connection, failure }
        };
    }

    /// It has ended with this status.
    pub fn ended(&mut self, status: i32, unheld: bool) {
        self.look_whether_started(Some(status));
        match &mut self.state {
            State::Started { ended, .. } => *ended = Some(status),
            State::Failed { .. } => {}
            state => {
                *state = State::Draining { status, deadline: Instant::now() + DRAIN_LIMIT };
                self.pump(unheld);
            }
        }
    }

    /// Whether it started, for the connection that asked: told once.
    pub fn take_start_outcome(&mut self) -> Option<(u64, Result<Vec<OwnedFd>, Failure>)> {
        match &self.state {
            State::Started { connection, ended } => {
                let (connection, ended) = (*connection, *ended);
                let outcome = self.output_fds().map_err(|error| Failure::other(error.to_string()));
                self.state = State::Running;
                if let Some(status) = ended {
                    self.ended(status, false);
                }
                Some((connection, outcome))
            }
            State::Failed { connection, failure } => Some((*connection, Err(failure.clone()))),
            _ => None,
        }
    }

    /// The exit status and whom to tell: told once.
    pub fn take_end(&mut self) -> Option<(i32, Vec<u64>)> {
        let State::Complete { status } = self.state else { return None };
        self.state = State::Ended { status };
        Some((status, self.watchers.clone()))
    }

    /// What the server needs to read and write; nothing once the output was discarded.
    pub fn output_fds(&self) -> io::Result<Vec<OwnedFd>> {
        let Some([stdout, stderr]) = &self.outputs else { return Ok(Vec::new()) };
        let stdin = self.stdin.as_ref().map(OwnedFd::try_clone).transpose()?;
        let fds = OutputFds {
            stdout: stdout.ring_fd()?,
            stderr: stderr.ring_fd()?,
            news: self.news.try_clone()?,
            room: self.room.try_clone()?,
            stdin,
        };
        Ok(fds.into_vec())
    }

    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no signal {signal}")))?;
        match pidfd_send_signal(&self.pidfd, signal) {
            // Ended already: no one to tell.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn resize(&self, terminal: Terminal) -> io::Result<()> {
        let Some(fd) = &self.terminal else { return Ok(()) };
        Ok(tcsetwinsize(fd, winsize(terminal))?)
    }

    /// Lets go of the pipe; a terminal stays open, as it is for output too.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Lets go of the output of a process that has ended.
    pub fn discard_output(&mut self) {
        if matches!(self.state, State::Ended { .. }) {
            self.outputs = None;
        }
    }
}

pub fn winsize(terminal: Terminal) -> Winsize {
    Winsize { ws_row: terminal.rows, ws_col: terminal.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Both sides of a process's standard streams.
struct Stdio {
    inner: [OwnedFd; 3],
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Stdio {
    fn new(container: &Container, terminal: Option<Terminal>) -> io::Result<Stdio> {
        let stdio = match terminal {
            Some(terminal) => {
                let (ours, theirs) = container.open_terminal(terminal)?;
                Stdio {
                    inner: [theirs.try_clone()?, theirs.try_clone()?, theirs],
                    stdin: ours.try_clone()?,
                    stdout: ours.try_clone()?,
                    stderr: None,
                    terminal: Some(ours),
                }
            }
            None => {
                let (stdin_reader, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
                let (stdout, stdout_writer) = pipe_with(PipeFlags::CLOEXEC)?;
                let (stderr, stderr_writer) = pipe_with(PipeFlags::CLOEXEC)?;
                let inner = [stdin_reader, stdout_writer, stderr_writer];
                Stdio { inner, stdin, stdout, stderr: Some(stderr), terminal: None }
            }
        };
        for fd in [Some(&stdio.stdin), Some(&stdio.stdout), stdio.stderr.as_ref()].into_iter().flatten() {
            fcntl_setfl(fd, OFlags::NONBLOCK)?;
        }
        Ok(stdio)
    }
}
