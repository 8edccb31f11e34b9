//! Children of the container that are not processes of a user: files in and out, signals to all.

use std::{
    fs::File,
    io::{self, BufWriter},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use backend_linux::{
    rootfs::{
        maybe_gunzip,
        tar_out::{Options as PackOptions, Subject, tar_out},
        untar::{End, Options, Owner, Resolve, untar},
    },
    supervisor::Failure,
};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
};
use rustix::{
    fs::{Mode, OFlags, fcntl_setfl, open},
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};

use crate::{
    enter::{self, Account, Inside},
    start::Container,
};

/// How much of a tar is written at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// How often it is looked whether all processes are gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Starts a child and gives its status pipe.
pub fn child(
    container: &Container,
    account: Account,
    keep: Option<&File>,
    act: impl FnOnce() -> Result<(), Failure>,
) -> io::Result<(Pid, OwnedFd)> {
    let (status, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&status, OFlags::NONBLOCK)?;
    let keep: Vec<_> = keep.iter().map(AsFd::as_fd).collect();
    let (pid, _) = enter::spawn(container, account, writer, &keep, |_| act())?;
    Ok((pid, status))
}

/// The descriptor that came with a request.
pub fn one(fds: Vec<OwnedFd>) -> io::Result<File> {
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Ok(File::from(fd)),
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "exactly one descriptor belongs to this request"))
        }
    }
}

/// A path of a request, relative to the user's home.
fn absolute(inside: &Inside<'_>, path: &str) -> PathBuf {
    Path::new("/").join(&inside.user.home).join(path)
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::other(protocol::Error::failed(error).to_string())
}

/// Starts a child that unpacks a tar.
pub fn stream_in(
    container: &Container,
    user: &str,
    path: &str,
    fds: Vec<OwnedFd>,
) -> io::Result<(Pid, OwnedFd)> {
    let tar = one(fds)?;
    child(container, Account::Of(&container.main_cgroup), Some(&tar), || {
        let inside = enter::enter(container, &container.main_cgroup, user)?;
        inside.become_root()?;
        let target = absolute(&inside, path);
        inside.make_directory(&target)?;
        inside.become_user()?;
        let context = |error: io::Error| Failure::other(format!("{}: {error}", target.display()));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&target, flags, Mode::empty()).map_err(|error| context(error.into()))?;
        // As tar does it: root restores owners, others own what they unpack. Whether the stream was cut off is known
        // at its other end.
        let owner = if inside.user.uid == 0 { Owner::Archive } else { Owner::Caller };
        let options = Options { owner, resolve: Resolve::ThroughLinks, end: End::MayBeUnmarked };
        let tar = maybe_gunzip(&tar).map_err(context)?;
        untar(tar, root.as_fd(), &options).map_err(|error| failed(&error))?;
        Ok(())
    })
}

/// Starts a child that packs a tar.
pub fn stream_out(
    container: &Container,
    user: &str,
    path: &str,
    fds: Vec<OwnedFd>,
) -> io::Result<(Pid, OwnedFd)> {
    let tar = one(fds)?;
    child(container, Account::Of(&container.main_cgroup), Some(&tar), || {
        let inside = enter::enter(container, &container.main_cgroup, user)?;
        inside.become_root()?;
        inside.become_user()?;
        let source = absolute(&inside, path);
        pack(&tar, &source, path).map_err(|error| {
            Failure::other(format!("{}: {}", source.display(), protocol::Error::failed(&*error)))
        })
    })
}

/// Writes the tar of a directory's contents, if what was asked for ends in a slash, else of the thing itself.
fn pack(tar: &File, source: &Path, asked: &str) -> Result<(), Box<dyn std::error::Error>> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(path, flags, Mode::empty()).map_err(io::Error::from)
    };
    let name =
        source.file_name().filter(|_| !asked.is_empty() && !asked.ends_with('/') && !asked.ends_with("/."));
    let directory = open(if name.is_some() { source.parent().unwrap_or(source) } else { source })?;
    let subject = match name {
        Some(name) => Subject::Entry { parent: directory.as_fd(), name },
        None => Subject::Contents(directory.as_fd()),
    };
    tar_out(
        BufWriter::with_capacity(BUFFER_BYTES, tar),
        &subject,
        &PackOptions { hardlinks: true, xattrs: true },
    )?;
    Ok(())
}

/// Starts a child that sends a signal to every process of the container but its init, and waits until they are gone.
pub fn signal_all(container: &Container, signal: i32, patience: Duration) -> io::Result<(Pid, OwnedFd)> {
    let signal = Signal::try_from(signal)?;
    child(container, Account::Supervisor, None, || {
        // In the pid namespace, in which this child was born, -1 is everyone but init and the caller.
        let everyone = |signal: Option<Signal>| kill(nix::unistd::Pid::from_raw(-1), signal);
        let deadline = Instant::now() + patience;
        let mut sent = everyone(Some(signal));
        loop {
            match sent {
                Err(Errno::ESRCH) => return Ok(()),
                Err(error) => return Err(Failure::other(format!("signal all processes: {error}"))),
                Ok(()) if Instant::now() >= deadline => {
                    return Err(Failure::other(format!("processes still run {patience:?} after {signal}")));
                }
                Ok(()) => std::thread::sleep(LOOK_INTERVAL),
            }
            // A process that was just being forked may have been missed by a kill.
            sent = everyone(Some(signal).filter(|signal| *signal == Signal::SIGKILL));
        }
    })
}
