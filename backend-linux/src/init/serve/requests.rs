//! What the server asks for.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use backend_linux::supervisor::{
    ApartRequest, Failure, FailureKind, PrepareRequest, ProcessState, Reply, Request, StartRequest, recv,
};
use backend_linux::sys::give_back_freed_memory;
use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::Pid,
};

use super::{BACKLOG, Job, Supervisor};
use crate::{
    files,
    namespaces::Namespaces,
    network,
    process::Process,
    start::{Container, fail},
};

impl Supervisor {
    pub(super) fn receive(&mut self, key: u64) {
        let Some(socket) = self.connections.get(&key) else { return };
        match recv::<Request>(socket) {
            Ok(Some((request, fds))) => self.handle(key, request, fds),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.fail(key, Failure::other(error.to_string()));
                self.hang_up(key);
            }
            Ok(None) | Err(_) => self.hang_up(key),
        }
    }

    fn handle(&mut self, connection: u64, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Copy => self.fail(connection, Failure::other("only the first supervisor is copied")),
            Request::Prepare(_) if self.listener.is_some() || self.prepared.is_some() => {
                self.fail(connection, Failure::other("namespaces were prepared already"));
            }
            Request::Prepare(request) => match self.prepare(request, fds) {
                Ok((namespaces, netlink)) => {
                    self.reply(connection, &Reply::Namespaces, &[namespaces.network(), netlink.as_fd()]);
                    self.prepared = Some(namespaces);
                }
                Err(failure) => self.fail(connection, failure),
            },
            Request::Network => match &self.network {
                Some(network) => match network.try_clone() {
                    Ok(network) => self.reply(connection, &Reply::Network, &[network.as_fd()]),
                    Err(error) => self.fail(connection, fail("hand over the network namespace", error)),
                },
                None => self.fail(connection, Failure::other("no network namespace was kept")),
            },
            Request::Start(request) => {
                match self.start(&request, fds) {
                    Ok(()) => self.reply(connection, &Reply::Started, &[]),
                    Err(failure) => self.fail(connection, failure),
                }
                drop(request);
                // Most containers are idle most of the time.
                give_back_freed_memory();
            }
            Request::Run(request) => self.run(connection, &(*request).into()),
            Request::RunApart(request) => self.run(connection, &request),
            Request::Attach { id } => self.attach(connection, &id),
            Request::Signal { id, signal } => {
                self.with_process(connection, &id, |process| process.signal(signal));
            }
            Request::Resize { id, terminal } => {
                self.with_process(connection, &id, |process| process.resize(terminal));
            }
            Request::CloseStdin { id } => {
                self.with_process(connection, &id, |process| {
                    process.close_stdin();
                    Ok(())
                });
            }
            Request::DiscardOutput { id } => {
                self.with_process(connection, &id, |process| {
                    process.discard_output();
                    Ok(())
                });
            }
            Request::Forget { id } => self.forget(connection, &id),
            Request::SignalAll { signal, wait_ms } => {
                let patience = Duration::from_millis(wait_ms);
                self.job(connection, |container| files::signal_all(container, signal, patience));
            }
            Request::List => {
                let state = |process: &Process| ProcessState {
                    id: process.id().to_owned(),
                    exit_status: process.exit_status(),
                };
                let processes =
                    self.processes.values().filter(|process| process.is_started()).map(state).collect();
                self.reply(connection, &Reply::Processes { processes }, &[]);
            }
            Request::StreamIn { user, path } => {
                self.job(connection, |container| files::stream_in(container, &user, &path, fds));
            }
            Request::StreamOut { user, path } => {
                self.job(connection, |container| files::stream_out(container, &user, &path, fds));
            }
            Request::OpenNetwork => {
                self.job(connection, |container| network::open_network(container, fds));
            }
            Request::Shutdown => {
                self.shutdown = Some(connection);
                if let Some(container) = &self.container {
                    container.kill();
                }
            }
        }
    }

    /// Makes namespaces. Who makes them for a container that there is already is reachable whatever comes of it.
    fn prepare(
        &mut self,
        request: PrepareRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(Namespaces, OwnedFd), Failure> {
        let handle = request.handle.clone();
        if let Some(handle) = &handle {
            self.be_found(handle, fds)?;
        }
        let (namespaces, netlink) = Namespaces::make(request)?;
        if handle.is_some() {
            let kept = namespaces.network().try_clone_to_owned();
            self.network = Some(kept.map_err(|error| fail("keep the network namespace", error))?);
        }
        Ok((namespaces, netlink))
    }

    /// Becomes a container's supervisor, to be found at the socket that came with the request.
    fn be_found(&mut self, handle: &str, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let listener = fds.into_iter().next().filter(|_| self.listener.is_none());
        let listener = listener.ok_or_else(|| Failure::other("no listening socket came, or one more"))?;
        // Once more, though the server has done it: who connects can then tell by the socket whom to.
        rustix::net::listen(&listener, BACKLOG).map_err(|error| fail("listen", error))?;
        fcntl_setfl(&listener, OFlags::NONBLOCK).map_err(|error| fail("listen", error))?;
        self.listener = Some(listener);
        self.name.write(handle).map_err(|error| fail("name the supervisor", error))
    }

    /// Makes the container, reachable at the socket that came with the request, or before it, whatever comes of it.
    fn start(&mut self, request: &StartRequest, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        if self.network.is_none() || !fds.is_empty() {
            self.be_found(&request.handle, fds)?;
        }
        let namespaces = self.prepared.take();
        let namespaces = namespaces.ok_or_else(|| Failure::other("no namespaces were prepared"))?;
        self.container = Some(Container::start(namespaces, request)?);
        Ok(())
    }

    fn run(&mut self, connection: u64, request: &ApartRequest) {
        let id = &request.process.id;
        if self.processes.values().any(|process| process.id() == id) {
            return self.fail(connection, Failure::other(format!("process {id} already exists")));
        }
        let Some(container) = self.alive() else { return self.fail(connection, not_alive()) };
        match Process::start(container, request, connection) {
            Ok(process) => {
                let key = self.key();
                self.processes.insert(key, process);
            }
            Err(error) => {
                self.fail(connection, Failure::other(format!("cannot start process {id}: {error}")));
            }
        }
    }

    /// The container, while its pid 1 lives.
    fn alive(&self) -> Option<&Container> {
        self.container.as_ref().filter(|container| container.is_alive() && self.shutdown.is_none())
    }

    fn job(&mut self, connection: u64, start: impl FnOnce(&Container) -> io::Result<(Pid, OwnedFd)>) {
        let Some(container) = self.alive() else { return self.fail(connection, not_alive()) };
        match start(container) {
            Ok((pid, status)) => {
                let key = self.key();
                self.jobs.insert(key, Job { pid, connection, status });
            }
            Err(error) => {
                self.fail(connection, Failure::other(format!("cannot enter the container: {error}")))
            }
        }
    }

    fn process(&mut self, id: &str) -> Option<&mut Process> {
        self.processes.values_mut().find(|process| process.id() == id && process.is_started())
    }

    fn with_process(&mut self, connection: u64, id: &str, act: impl FnOnce(&mut Process) -> io::Result<()>) {
        let Some(process) = self.process(id) else { return self.fail(connection, no_process(id)) };
        match act(process) {
            Ok(()) => self.reply(connection, &Reply::Done, &[]),
            Err(error) => self.fail(connection, Failure::other(format!("process {id}: {error}"))),
        }
    }

    fn forget(&mut self, connection: u64, id: &str) {
        let ended = |process: &Process| process.id() == id && process.exit_status().is_some();
        let Some(key) = self.processes.iter().find(|(_, process)| ended(process)).map(|(key, _)| *key) else {
            return self.fail(connection, no_process(id));
        };
        self.processes.remove(&key);
        self.reply(connection, &Reply::Done, &[]);
    }

    fn attach(&mut self, connection: u64, id: &str) {
        let Some(process) = self.process(id) else { return self.fail(connection, no_process(id)) };
        let fds = match process.output_fds() {
            Ok(fds) => fds,
            Err(error) => return self.fail(connection, Failure::other(format!("process {id}: {error}"))),
        };
        // Of an end that nobody was told of yet, all who watch are told together.
        let status = process.told_status();
        process.add_watcher(connection);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.reply(connection, &Reply::Running, &fds);
        if let Some(status) = status {
            self.reply(connection, &Reply::Exited { status }, &[]);
        }
    }
}

fn not_alive() -> Failure {
    let message = "the container is not running: its init has not been started, or has died".to_owned();
    Failure { kind: FailureKind::NotRunning, message }
}

fn no_process(id: &str) -> Failure {
    Failure { kind: FailureKind::ProcessNotFound, message: format!("unknown process: {id}") }
}
