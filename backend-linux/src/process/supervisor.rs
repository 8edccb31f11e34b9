//! Talking to a supervisor.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt::socket_peercred,
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    supervisor::{Failure, FailureKind, Reply, Request, connect, listen, recv, send},
    sys::async_fd,
};

/// The name of a supervisor's socket in its container's directory.
const SOCKET: &str = "init.sock";

/// How long a killed supervisor may take to die.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What can go wrong between the server and a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary cannot be used.
    #[error("cannot use the supervisor {path:?} (garden-init belongs beside garden-server)")]
    Binary {
        /// The binary.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be started.
    #[error("cannot start the container's supervisor")]
    Start(#[source] io::Error),
    /// It is gone, or does not answer.
    #[error("the container's supervisor is gone")]
    Gone(#[source] io::Error),
    /// It cannot be killed.
    #[error("cannot kill the container's supervisor")]
    Kill(#[source] io::Error),
    /// It does not answer in time.
    #[error("the container's supervisor did not answer within {0:?}")]
    Silent(Duration),
    /// It says something that makes no sense.
    #[error("the container's supervisor answered {0}, which makes no sense here")]
    Nonsense(String),
    /// It could not do what was asked.
    #[error("{}", .0.message)]
    Refused(Failure),
}

impl Error {
    /// Whether there is no supervisor at all.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Gone(_))
    }

    /// What kind of refusal it is, if it is one.
    pub fn refusal(&self) -> Option<FailureKind> {
        match self {
            Error::Refused(failure) => Some(failure.kind),
            _ => None,
        }
    }
}

/// One container's supervisor, by its place on disk. It may be running or not.
#[derive(Clone)]
pub struct Supervisor {
    directory: PathBuf,
    /// A connection on which everything that was asked for was answered, for the next request. Most containers are asked
    /// for one thing at a time.
    idle: Arc<Mutex<Option<Connection>>>,
}

impl Supervisor {
    /// The supervisor whose socket is, or will be, in `directory`.
    pub fn at(directory: &Path) -> Supervisor {
        Supervisor { directory: directory.to_owned(), idle: Arc::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Option<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection for the next request, if none is kept. Everything that was asked for on it was answered.
    pub fn keep(&self, Connection { socket, .. }: Connection) {
        self.idle().get_or_insert(Connection { socket, process: None });
    }

    /// The socket at which it is to be found, for it to take.
    pub fn listen(&self) -> Result<OwnedFd, Error> {
        listen(&self.directory, SOCKET).map_err(Error::Start)
    }

    /// Kills a supervisor that does not answer, and with it everything in its container. `name` is its container's.
    /// Blocks for as long as it takes to die, within reason. Where none has taken the socket, as one that hangs before
    /// it starts the container, there is nothing to kill: it will find nothing to start.
    pub fn kill(&self, name: &str) -> Result<(), Error> {
        let kill = || -> io::Result<()> {
            let socket = connect(&self.directory, SOCKET)?;
            // Who listens: until a supervisor does, the server that made the socket.
            let pid = socket_peercred(&socket)?.pid;
            let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
                Err(Errno::SRCH) => return Ok(()),
                opened => opened?,
            };
            // Whoever has the number now: only if it is the one that we mean.
            let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
            if !command.starts_with(format!("garden-init\0{name}\0").as_bytes()) {
                return Ok(());
            }
            pidfd_send_signal(&pidfd, Signal::KILL)?;
            let limit = Timespec { tv_sec: KILL_LIMIT.as_secs() as i64, tv_nsec: 0 };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? {
                0 => Err(io::Error::other(format!("it has not died within {KILL_LIMIT:?}"))),
                _ => Ok(()),
            }
        };
        match kill() {
            // It has gone meanwhile.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) =>
            {
                Ok(())
            }
            result => result.map_err(Error::Kill),
        }
    }

    /// A connection.
    pub async fn open(&self) -> Result<Connection, Error> {
        if let Some(connection) = self.idle().take().filter(Connection::is_open) {
            return Ok(connection);
        }
        let mut tries = 0;
        loop {
            match connect(&self.directory, SOCKET) {
                Ok(socket) => return Connection::new(socket).map_err(Error::Gone),
                // Its queue of connections is full: it is busy.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < 1000 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(Error::Gone(error)),
            }
        }
    }

    /// Asks one thing.
    pub async fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let connection = self.open().await?;
        connection.send(request, fds).await?;
        let reply = connection.reply().await?;
        self.keep(connection);
        Ok(reply)
    }

    /// Asks for one thing that is answered by `Done`.
    pub async fn command(&self, request: &Request) -> Result<(), Error> {
        self.command_with(request, &[]).await
    }

    /// The same, with descriptors.
    pub async fn command_with(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        match self.ask(request, fds).await?.0 {
            Reply::Done => Ok(()),
            other => Err(nonsense(&other)),
        }
    }
}

/// One request and what comes of it.
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// The supervisor, where this is what it was started with.
    process: Option<OwnedFd>,
}

impl Connection {
    /// A socket that does not block, as a connection.
    pub fn new(socket: OwnedFd) -> io::Result<Connection> {
        let socket = async_fd(socket, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection { socket, process: None })
    }

    /// The same, with the supervisor at its other end.
    pub fn to(self, process: OwnedFd) -> Connection {
        Connection { process: Some(process), ..self }
    }

    /// Ends a supervisor that was started with this connection and does not do what it should: by its socket nobody
    /// could tell who it is before it has taken it.
    pub fn kill(&self) {
        if let Some(process) = &self.process {
            // It fails only if it is dead already.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Whether somebody is at the other end, who has said nothing unasked for.
    pub fn is_open(&self) -> bool {
        let nothing_to_read =
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&Timespec::default()));
        matches!(nothing_to_read, Ok(0))
    }

    /// Sends the request.
    pub async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        loop {
            let mut ready = self.socket.writable().await.map_err(Error::Gone)?;
            if let Ok(sent) = ready.try_io(|socket| send(socket.as_fd(), request, fds)) {
                return sent.map_err(Error::Gone);
            }
        }
    }

    /// Waits for the next answer; a refusal is an error.
    pub async fn reply(&self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        loop {
            let mut ready = self.socket.readable().await.map_err(Error::Gone)?;
            let Ok(received) = ready.try_io(|socket| recv::<Reply>(socket.as_fd())) else { continue };
            return match received.map_err(Error::Gone)? {
                Some((Reply::Failed(failure), _)) => Err(Error::Refused(failure)),
                Some(reply) => Ok(reply),
                None => Err(Error::Gone(io::ErrorKind::UnexpectedEof.into())),
            };
        }
    }
}

/// An answer that makes no sense here.
pub fn nonsense(reply: &Reply) -> Error {
    Error::Nonsense(format!("{reply:?}"))
}
