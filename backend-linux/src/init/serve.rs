//! The event loop: requests in, children reaped, output drained.

mod requests;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use backend_linux::supervisor::{Failure, Reply, send};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    net::{SocketFlags, accept_with},
    process::{Pid, WaitOptions, WaitStatus, wait},
};

use crate::{name::NameRoom, namespaces::Namespaces, process::Process, start::Container};

/// How many connections may wait.
const BACKLOG: i32 = 128;

/// The supervisor and all it knows.
pub struct Supervisor {
    name: NameRoom,
    /// From the container's start on, or from the preparation for a container that there is already.
    listener: Option<OwnedFd>,
    /// From that preparation on.
    network: Option<OwnedFd>,
    children: SignalFd,
    connections: BTreeMap<u64, OwnedFd>,
    processes: BTreeMap<u64, Process>,
    jobs: BTreeMap<u64, Job>,
    /// Until the container's start.
    prepared: Option<Namespaces>,
    container: Option<Container>,
    next_key: u64,
    /// The connection that asked for the end.
    shutdown: Option<u64>,
}

/// A child that does one thing for a connection and ends.
struct Job {
    pid: Pid,
    connection: u64,
    /// Where it says why it failed.
    status: OwnedFd,
}

/// What a descriptor is about.
#[derive(Clone, Copy)]
enum Source {
    Children,
    Listener,
    Connection(u64),
    Process(u64),
}

impl Supervisor {
    /// Begins with one connection.
    pub fn new(server: OwnedFd, name: NameRoom) -> io::Result<Supervisor> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block()?;
        let children = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        fcntl_setfl(&server, OFlags::NONBLOCK)?;
        Ok(Supervisor {
            name,
            listener: None,
            network: None,
            children,
            connections: BTreeMap::from([(0, server)]),
            processes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            prepared: None,
            container: None,
            next_key: 0,
            shutdown: None,
        })
    }

    /// Serves until somebody asks for the end, or until nobody can ask for anything any more.
    pub fn serve(mut self) -> io::Result<()> {
        while self.listener.is_some() || !self.connections.is_empty() {
            for source in self.wait()? {
                match source {
                    Source::Children => while matches!(self.children.read_signal(), Ok(Some(_))) {},
                    Source::Listener => self.accept(),
                    Source::Connection(key) => self.receive(key),
                    Source::Process(key) => {
                        if let Some(process) = self.processes.get_mut(&key) {
                            process.pump(self.shutdown.is_some());
                        }
                    }
                }
            }
            let childless = self.reap();
            self.settle();
            let ended = self.processes.values().all(|process| process.exit_status().is_some());
            if let (Some(connection), true, true) = (self.shutdown, childless, ended) {
                self.reply(connection, &Reply::Done, &[]);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until something can be done, and says what.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Children];
        let mut fds = vec![PollFd::new(&self.children, PollFlags::IN)];
        if let Some(listener) = &self.listener {
            sources.push(Source::Listener);
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        for (key, connection) in &self.connections {
            sources.push(Source::Connection(*key));
            fds.push(PollFd::new(connection, PollFlags::IN));
        }
        let mut deadline: Option<Instant> = None;
        for (key, process) in &self.processes {
            for fd in process.poll_fds() {
                sources.push(Source::Process(*key));
                fds.push(fd);
            }
            deadline = [deadline, process.deadline()].into_iter().flatten().min();
        }
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            result => result?,
        };
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        let now = Instant::now();
        let due =
            self.processes.iter().filter(|(_, process)| process.deadline().is_some_and(|due| due <= now));
        Ok(ready.map(|(source, _)| *source).chain(due.map(|(key, _)| Source::Process(*key))).collect())
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let mut accepted = Vec::new();
        while let Ok(connection) = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            accepted.push(connection);
        }
        for connection in accepted {
            let key = self.key();
            self.connections.insert(key, connection);
        }
    }

    fn hang_up(&mut self, key: u64) {
        self.connections.remove(&key);
        for process in self.processes.values_mut() {
            process.forget_watcher(key);
        }
    }

    fn reply(&mut self, connection: u64, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = self.connections.get(&connection) else { return };
        // A server that does not read its answers gets no more of them.
        if send(socket, reply, fds).is_err() {
            self.hang_up(connection);
        }
    }

    fn fail(&mut self, connection: u64, failure: Failure) {
        self.reply(connection, &Reply::Failed(failure), &[]);
    }

    /// Collects every child that has ended. True if there are none left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.ended(pid, status),
                Ok(None) | Err(rustix::io::Errno::INTR) => return false,
                Err(_) => return true,
            }
        }
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        let status = status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0));
        if let Some(container) = self.container.as_mut().filter(|container| container.init() == pid) {
            container.died();
        } else if let Some(process) = self.processes.values_mut().find(|process| process.is_child(pid)) {
            process.ended(status, self.shutdown.is_some());
        } else if let Some(key) = self.jobs.iter().find(|(_, job)| job.pid == pid).map(|(key, _)| *key)
            && let Some(job) = self.jobs.remove(&key)
        {
            match status {
                0 => self.reply(job.connection, &Reply::Done, &[]),
                status => self.fail(job.connection, crate::enter::read_failure(job.status, status)),
            }
        }
    }

    /// Tells of what has changed with processes: started, could not start, ended.
    fn settle(&mut self) {
        let keys: Vec<u64> = self.processes.keys().copied().collect();
        for key in keys {
            let Some(process) = self.processes.get_mut(&key) else { continue };
            if let Some((connection, outcome)) = process.take_start_outcome() {
                match outcome {
                    Ok(fds) => {
                        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                        self.reply(connection, &Reply::Running, &fds);
                    }
                    Err(failure) => {
                        self.processes.remove(&key);
                        self.fail(connection, failure);
                    }
                }
            }
            let Some(process) = self.processes.get_mut(&key) else { continue };
            if let Some((status, watchers)) = process.take_end() {
                for connection in watchers {
                    self.reply(connection, &Reply::Exited { status }, &[]);
                }
            }
        }
    }
}
