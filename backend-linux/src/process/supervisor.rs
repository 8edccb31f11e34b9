//! Starting a supervisor, and talking to one.

use std::{
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt::socket_peercred},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Command,
};

use crate::{
    defence::{Defence, Defences},
    supervisor::{Failure, FailureKind, NAME_BYTES, Reply, Request, connect, listen, recv, send},
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

/// The supervisor's program, copied into sealed memory: what is executed for a container is never a file that
/// somebody could write to through `/proc/…/exe`.
pub struct InitBinary(OwnedFd);

impl InitBinary {
    /// Reads it from `path`.
    pub fn load(path: &Path, defences: &Defences) -> Result<InitBinary, Error> {
        let load = || -> io::Result<OwnedFd> {
            if !defences.have(Defence::SealedInit) {
                return Ok(std::fs::File::open(path)?.into());
            }
            let bytes = std::fs::read(path)?;
            let memfd = memfd_create("garden-init", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            std::fs::File::from(memfd.try_clone()?).write_all(&bytes)?;
            fcntl_add_seals(
                &memfd,
                SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
            )?;
            Ok(memfd)
        };
        load().map(InitBinary).map_err(|source| Error::Binary { path: path.to_owned(), source })
    }

    /// Starts a supervisor that lives for as long as this connection to it, or, once it has a container, until that is
    /// destroyed. Blocks for as long as a vfork and exec take.
    pub fn start(&self) -> Result<Connection, Error> {
        let start = || -> io::Result<Connection> {
            let flags = SocketFlags::CLOEXEC;
            let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            fcntl_setfl(&ours, OFlags::NONBLOCK)?;
            let mut child = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
                .arg0("garden-init")
                .arg(" ".repeat(NAME_BYTES))
                .env_clear()
                .stdin(Stdio::from(theirs))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
            // Not reaped yet, and so the number is still its own.
            let process = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose()?;
            // It outlives this server, but while both live it must be reaped.
            tokio::spawn(async move { child.wait().await });
            Ok(Connection { socket: async_fd(ours, Interest::READABLE | Interest::WRITABLE)?, process })
        };
        start().map_err(Error::Start)
    }
}

/// One container's supervisor, by its place on disk. It may be running or not.
#[derive(Debug, Clone)]
pub struct Supervisor {
    directory: PathBuf,
}

impl Supervisor {
    /// The supervisor whose socket is, or will be, in `directory`.
    pub fn at(directory: &Path) -> Supervisor {
        Supervisor { directory: directory.to_owned() }
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

    /// Opens a connection.
    pub async fn open(&self) -> Result<Connection, Error> {
        let mut tries = 0;
        loop {
            match connect(&self.directory, SOCKET) {
                Ok(socket) => {
                    return Ok(Connection {
                        socket: async_fd(socket, Interest::READABLE | Interest::WRITABLE)
                            .map_err(Error::Gone)?,
                        process: None,
                    });
                }
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
        connection.reply().await
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn who_has_the_program_that_is_executed_cannot_write_to_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, b"program").unwrap();
        let InitBinary(memfd) = InitBinary::load(file.path(), &Defences::default()).unwrap();
        let copy = std::fs::File::from(memfd);
        let error = copy.write_all_at(b"another", 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        copy.set_len(0).unwrap_err();
        assert_eq!(std::fs::read(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap(), b"program");
    }
}
