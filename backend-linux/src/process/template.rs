//! Starting supervisors: each is a copy of one that has been executed already, and does nothing but copy itself.
//!
//! To execute a static program and end it takes six times as long as to fork one, where a hypervisor answers the C
//! library's questions about the processor: ARCHITECTURE.md has the figures.

use std::{
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::{process::Command, time::timeout};

use super::supervisor::{Connection, Error, nonsense};
use crate::{
    defence::{Defence, Defences},
    supervisor::{NAME_BYTES, Reply, Request},
};

/// How long a copy may take: thousands of times what it does take.
const COPY_LIMIT: Duration = Duration::from_secs(10);

/// The supervisor's program, and one that runs it.
pub struct Template {
    program: Arc<OwnedFd>,
    running: Mutex<Option<Arc<Connection>>>,
}

impl Template {
    /// Reads the program from `path`. It is copied into sealed memory: what is executed for a container is never a file
    /// that somebody could write to through `/proc/…/exe`.
    pub fn load(path: &Path, defences: &Defences) -> Result<Template, Error> {
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
        let binary = |source| Error::Binary { path: PathBuf::from(path), source };
        Ok(Template { program: Arc::new(load().map_err(binary)?), running: Mutex::default() })
    }

    /// Starts a supervisor that lives for as long as this connection to it, or, once it has a container, until that is
    /// destroyed.
    pub async fn start(&self) -> Result<Connection, Error> {
        let running = self.running().clone();
        if let Some(running) = running {
            match copy(&running).await {
                // It has died.
                Err(Error::Gone(_)) => {}
                // It hangs.
                Err(Error::Silent(_)) => running.kill(),
                started => return started,
            }
        }
        let program = Arc::clone(&self.program);
        let executed = tokio::task::spawn_blocking(move || execute(&program)).await;
        let executed = Arc::new(executed.map_err(io::Error::other).flatten().map_err(Error::Start)?);
        *self.running() = Some(Arc::clone(&executed));
        copy(&executed).await
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Executes the program. Blocks for as long as a vfork and exec take.
fn execute(program: &OwnedFd) -> io::Result<Connection> {
    let (ours, theirs) = pair()?;
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("garden-init")
        .arg(" ".repeat(NAME_BYTES))
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Not reaped before it is waited for, so that the number is its own.
    let process = child.id().and_then(|id| Pid::from_raw(id as i32));
    let process = process.ok_or_else(|| io::Error::other("a new process has no number"))?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    tokio::spawn(async move { child.wait().await });
    Ok(Connection::new(ours)?.to(process))
}

/// Has a copy made. It is answered on the copy's own connection, so that several can be asked for at once.
async fn copy(template: &Connection) -> Result<Connection, Error> {
    let (ours, theirs) = pair().map_err(Error::Start)?;
    let connection = Connection::new(ours).map_err(Error::Start)?;
    let copied = async {
        template.send(&Request::Copy, &[theirs.as_fd()]).await?;
        drop(theirs);
        connection.reply().await
    };
    match timeout(COPY_LIMIT, copied).await.map_err(|_| Error::Silent(COPY_LIMIT))?? {
        (Reply::Copied, mut fds) => {
            let process = fds.pop().ok_or_else(|| nonsense(&Reply::Copied))?;
            Ok(connection.to(process))
        }
        (other, _) => Err(nonsense(&other)),
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn who_has_the_program_that_is_executed_cannot_write_to_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, b"program").unwrap();
        let Template { program, .. } = Template::load(file.path(), &Defences::default()).unwrap();
        let copy = std::fs::File::from(program.try_clone().unwrap());
        let error = copy.write_all_at(b"another", 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        copy.set_len(0).unwrap_err();
        assert_eq!(std::fs::read(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap(), b"program");
    }
}
