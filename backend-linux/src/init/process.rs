//! A process of the container, from the fork to the exit status.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use backend_linux::supervisor::{ApartRequest, Failure, OutputFds, Terminal};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd},
    fs::{OFlags, fcntl_setfl},
    io::{Errno, write},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, pidfd_send_signal},
    termios::{Winsize, tcsetwinsize},
};

use crate::{
    enter::{STARTING, failure_of},
    exec,
    output::{Drained, Output, Source},
    start::Container,
};

/// How long output may go on after the process has ended, because children of it still write.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Where a process is in its life.
enum State {
    /// Forked, not yet executed: the pipe says when, or why not.
    Starting { connection: u64, status: OwnedFd, said: Vec<u8> },
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
    /// Until it is reaped: after that its number may be another's.
    living: Option<(Pid, OwnedFd)>,
    watchers: Vec<u64>,
    /// Until its output is discarded.
    streams: Option<Streams>,
}

/// This side of a process's standard streams.
struct Streams {
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    /// The process's own side of its terminal, held while it lives: without it the kernel ends the output whenever no
    /// process has the terminal open.
    terminal_kept: Option<OwnedFd>,
    outputs: [Output; 2],
    news: OwnedFd,
    room: OwnedFd,
}

impl Process {
    /// Forks it. Everything that could fail comes before the fork, so that no process is left to itself.
    pub fn start(container: &Container, request: &ApartRequest, connection: u64) -> io::Result<Process> {
        let (streams, theirs) = Streams::new(container, request.process.terminal)?;
        let (status, status_writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&status, OFlags::NONBLOCK)?;
        let living = exec::start(container, request, theirs, status_writer)?;
        Ok(Process {
            id: request.process.id.clone(),
            state: State::Starting { connection, status, said: Vec::new() },
            living: Some(living),
            watchers: vec![connection],
            streams: Some(streams),
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is the child of that number, which has not been reaped yet.
    pub fn is_child(&self, pid: Pid) -> bool {
        self.living.as_ref().is_some_and(|(own, _)| *own == pid)
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

    /// The same, once all who watched it then were told.
    pub fn told_status(&self) -> Option<i32> {
        match self.state {
            State::Ended { status } => Some(status),
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
            self.pump(true);
        }
    }

    /// What to wait for.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        if let State::Starting { status, .. } = &self.state {
            // Only for its end: what it says before is of interest then.
            fds.push(PollFd::new(status, PollFlags::empty()));
        }
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        if let Some(streams) = &self.streams {
            // Also once it has ended: the limit of what its rings may hold can change.
            fds.push(readable(streams.room.as_fd()));
            if self.exit_status().is_none() {
                fds.extend(streams.outputs.iter().filter_map(Output::source).map(readable));
            }
        }
        fds
    }

    /// When to look again even if nothing happens. While an output is full, its reader is waited for.
    pub fn deadline(&self) -> Option<Instant> {
        let full = self.streams.as_ref().is_some_and(|streams| streams.outputs.iter().any(Output::is_full));
        match self.state {
            State::Draining { deadline, .. } if !full => Some(deadline),
            _ => None,
        }
    }

    /// Does what can be done: learns whether it started, moves output, ends the draining.
    pub fn pump(&mut self, unheld: bool) {
        if matches!(self.state, State::Starting { .. }) {
            self.look_whether_started(None);
        }
        let held = !self.watchers.is_empty() && !unheld;
        let drained = self.streams.as_mut().map_or([Drained::Ended; 2], |streams| streams.drain(held));
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
        if let Some(streams) = &mut self.streams {
            streams.close();
        }
        self.state = State::Complete { status };
    }

    /// Reads from the pipe whether it was executed. `dead` is the status of a process that is known to have ended.
    fn look_whether_started(&mut self, dead: Option<i32>) {
        let State::Starting { connection, status, said } = &mut self.state else { return };
        let connection = *connection;
        let mut block = [0; 4096];
        loop {
            match rustix::io::read(&*status, &mut block) {
                Ok(n) if n > 0 && said.len() < block.len() => said.extend_from_slice(&block[..n]),
                Err(Errno::INTR) => {}
                // What it says once the program cannot be executed comes in one piece.
                Err(Errno::AGAIN) if dead.is_none() && matches!(said[..], [] | [STARTING]) => return,
                _ => break,
            }
        }
        if said.is_empty() && dead.is_none() {
            // It died without a word, and is about to be reaped: then it is known of what.
            return;
        }
        self.state = match said[..] {
            // The pipe was closed by the exec, or by an end after it.
            [STARTING] => State::Started { connection, ended: dead },
            _ => State::Failed { connection, failure: failure_of(said, dead.unwrap_or(0)) },
        };
    }

    /// It has been reaped, with this status.
    pub fn ended(&mut self, status: i32, unheld: bool) {
        self.living = None;
        if let Some(streams) = &mut self.streams {
            streams.terminal_kept = None;
        }
        self.look_whether_started(Some(status));
        match &mut self.state {
            State::Started { ended, .. } => *ended = Some(status),
            State::Running => self.drain_rest(status, unheld),
            // A process that could not be started has no more to say, and none ends twice.
            State::Starting { .. }
            | State::Failed { .. }
            | State::Draining { .. }
            | State::Complete { .. }
            | State::Ended { .. } => {}
        }
    }

    fn drain_rest(&mut self, status: i32, unheld: bool) {
        self.state = State::Draining { status, deadline: Instant::now() + DRAIN_LIMIT };
        self.pump(unheld);
    }

    /// Whether it started, for the connection that asked: told once.
    pub fn take_start_outcome(&mut self) -> Option<(u64, Result<Vec<OwnedFd>, Failure>)> {
        match &self.state {
            State::Started { connection, ended } => {
                let (connection, ended) = (*connection, *ended);
                let outcome = self.output_fds().map_err(|error| Failure::other(error.to_string()));
                self.state = State::Running;
                if let Some(status) = ended {
                    self.drain_rest(status, false);
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
        self.streams.as_ref().map_or(Ok(Vec::new()), Streams::fds)
    }

    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no signal {signal}")))?;
        // Nobody is told once it has ended.
        let Some((_, pidfd)) = &self.living else { return Ok(()) };
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn resize(&self, terminal: Terminal) -> io::Result<()> {
        let Some(fd) = self.streams.as_ref().and_then(|streams| streams.terminal.as_ref()) else {
            return Ok(());
        };
        Ok(tcsetwinsize(fd, winsize(terminal))?)
    }

    /// Lets go of the pipe; a terminal stays open, as it is for output too.
    pub fn close_stdin(&mut self) {
        if let Some(streams) = &mut self.streams {
            streams.stdin = None;
        }
    }

    /// Lets go of the output of a process that has ended.
    pub fn discard_output(&mut self) {
        if matches!(self.state, State::Ended { .. }) {
            self.streams = None;
        }
    }
}

pub fn winsize(terminal: Terminal) -> Winsize {
    Winsize { ws_row: terminal.rows, ws_col: terminal.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Streams {
    /// Both sides: ours, and what becomes the process's standard input, output and error.
    fn new(container: &Container, terminal: Option<Terminal>) -> io::Result<(Streams, [OwnedFd; 3])> {
        let (stdin, stdout, stderr, terminals, theirs) = match terminal {
            Some(terminal) => {
                let (ours, theirs) = container.open_terminal(terminal)?;
                let inner = [theirs.try_clone()?, theirs.try_clone()?, theirs.try_clone()?];
                let stdout = Source::Terminal(ours.try_clone()?);
                (ours.try_clone()?, stdout, None, (Some(ours), Some(theirs)), inner)
            }
            None => {
                let (stdin_reader, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
                let (stdout, stdout_writer) = pipe_with(PipeFlags::CLOEXEC)?;
                let (stderr, stderr_writer) = pipe_with(PipeFlags::CLOEXEC)?;
                let (stdout, stderr) = (Source::pipe(stdout), Some(Source::pipe(stderr)));
                (stdin, stdout, stderr, (None, None), [stdin_reader, stdout_writer, stderr_writer])
            }
        };
        let sources = [Some(&stdout), stderr.as_ref()].into_iter().flatten().map(AsFd::as_fd);
        for fd in sources.chain([stdin.as_fd()]) {
            fcntl_setfl(fd, OFlags::NONBLOCK)?;
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let streams = Streams {
            stdin: Some(stdin),
            terminal: terminals.0,
            terminal_kept: terminals.1,
            outputs: [Output::new(Some(stdout), "stdout")?, Output::new(stderr, "stderr")?],
            news: eventfd(0, flags)?,
            room: eventfd(0, flags)?,
        };
        Ok((streams, theirs))
    }

    /// Moves what is there into the rings, and tells the server if that is news.
    fn drain(&mut self, held: bool) -> [Drained; 2] {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.room, &mut counter);
        let [stdout, stderr] = &mut self.outputs;
        let (stdout, stderr) = (stdout.drain(held), stderr.drain(held));
        if stdout.1 || stderr.1 || stdout.0 == Drained::Full || stderr.0 == Drained::Full {
            self.tell_news();
        }
        [stdout.0, stderr.0]
    }

    /// Ends both outputs, whatever may still be in the pipes, and lets go of the other end of everything.
    fn close(&mut self) {
        self.outputs.iter_mut().for_each(Output::close);
        self.stdin = None;
        self.terminal = None;
        self.terminal_kept = None;
        self.tell_news();
    }

    fn tell_news(&self) {
        // It can only be full of news already.
        let _ = write(&self.news, &1u64.to_ne_bytes());
    }

    fn fds(&self) -> io::Result<Vec<OwnedFd>> {
        let [stdout, stderr] = &self.outputs;
        let fds = OutputFds {
            stdout: stdout.ring_fd()?,
            stderr: stderr.ring_fd()?,
            news: self.news.try_clone()?,
            room: self.room.try_clone()?,
            stdin: self.stdin.as_ref().map(OwnedFd::try_clone).transpose()?,
        };
        Ok(fds.into_vec())
    }
}
