//! Plug-ins as children of the server: found in the operator's directories, with bounded time and output.

use std::{
    ffi::OsString,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command as Program},
    sync::Semaphore,
};

use super::{request::Command, result::Failure};

/// How long a plug-in may take for one command: one of DHCP has to ask around.
const LIMIT: Duration = Duration::from_secs(60);
/// How long one may take to die that was killed.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How many run at once, each a program of some size; more wait.
const AT_ONCE: usize = 16;
/// How much a plug-in may say, on standard output and standard error each.
const OUTPUT_MAX_BYTES: u64 = 1 << 20;
/// How much of that is in an error.
const SHOWN_MAX_CHARS: usize = 1000;

/// Why a plug-in did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It is nowhere.
    #[error("CNI plug-in {plugin:?} is in none of {directories:?} (--cni-plugin-dir)")]
    Missing {
        /// Its program's name.
        plugin: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// It cannot be run.
    #[error("CNI plug-in {plugin:?}: cannot run {program:?}")]
    Run {
        /// Its program's name.
        plugin: String,
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says why it could not do it.
    #[error("CNI plug-in {plugin:?}, {command}: {reason}")]
    Failed {
        /// Its program's name.
        plugin: String,
        /// What it was to do.
        command: &'static str,
        /// In its own words, with what it said on standard error.
        reason: String,
    },
    /// It took too long, and was killed.
    #[error("CNI plug-in {plugin:?}, {command}: did not end within {limit:?} and was killed{said}")]
    Hung {
        /// Its program's name.
        plugin: String,
        /// What it was to do.
        command: &'static str,
        /// How long it had.
        limit: Duration,
        /// What it said on standard error, if anything.
        said: String,
    },
    /// It has succeeded, as it says, but what else it says makes no sense.
    #[error("CNI plug-in {plugin:?}, {command}: answered {answer:?}, which is no result: {reason}")]
    Nonsense {
        /// Its program's name.
        plugin: String,
        /// What it was to do.
        command: &'static str,
        /// The beginning of what it said.
        answer: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where plug-ins are, and how long they may take.
#[derive(Debug, Clone)]
pub struct Runner {
    directories: Vec<PathBuf>,
    limit: Duration,
    turns: Arc<Semaphore>,
}

/// What a program has said and how it ended.
struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Runner {
    pub fn new(directories: Vec<PathBuf>) -> Runner {
        Runner { directories, limit: LIMIT, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    #[cfg(test)]
    pub fn with_limit(directories: Vec<PathBuf>, limit: Duration) -> Runner {
        Runner { limit, ..Runner::new(directories) }
    }

    /// The directories, as plug-ins are told of them.
    pub fn plugin_path(&self) -> OsString {
        let separator = || OsString::from(":");
        let mut path = OsString::new();
        for (index, directory) in self.directories.iter().enumerate() {
            if index > 0 {
                path.push(separator());
            }
            path.push(directory);
        }
        path
    }

    /// The plug-in's program: the first executable file of that name. Blocks for a few looks at directories.
    pub fn find(&self, plugin: &str) -> Result<PathBuf, PluginError> {
        let executable = |path: &PathBuf| {
            path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        let mut candidates = self.directories.iter().map(|directory| directory.join(plugin));
        let missing =
            || PluginError::Missing { plugin: plugin.to_owned(), directories: self.directories.clone() };
        candidates.find(executable).ok_or_else(missing)
    }

    /// Runs a plug-in and returns what it says. Dropped, it kills the plug-in.
    pub async fn run(
        &self,
        plugin: &str,
        command: Command,
        environment: Vec<(&'static str, OsString)>,
        input: Vec<u8>,
    ) -> Result<Vec<u8>, PluginError> {
        // Nobody closes it, so it gives turns to all.
        let _turn = self.turns.acquire().await;
        let program = self.find(plugin)?;
        let child = Program::new(&program)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let cannot = |source| PluginError::Run { plugin: plugin.to_owned(), program, source };
        let mut running = match child.and_then(Running::new) {
            Ok(running) => running,
            Err(error) => return Err(cannot(error)),
        };
        let mut errors = Vec::new();
        let ended = tokio::time::timeout(self.limit, running.talk(&input, &mut errors)).await;
        let ended = match ended {
            Ok(ended) => ended.map_err(cannot)?,
            Err(_) => {
                running.kill().await;
                let said = said(&errors);
                let (plugin, command) = (plugin.to_owned(), command.name());
                return Err(PluginError::Hung { plugin, command, limit: self.limit, said });
            }
        };
        judge(plugin, command, ended)
    }
}

fn judge(plugin: &str, command: Command, ended: Ended) -> Result<Vec<u8>, PluginError> {
    if ended.status.success() {
        return Ok(ended.output);
    }
    let reason = match Failure::parse(&ended.output) {
        Some(Failure { code, msg, details }) if details.is_empty() => format!("{msg} (code {code})"),
        Some(Failure { code, msg, details }) => format!("{msg}: {details} (code {code})"),
        None if ended.output.is_empty() => ended.status.to_string(),
        None => format!("{}, with {:?}", ended.status, shown(&ended.output)),
    };
    let reason = format!("{reason}{}", said(&ended.errors));
    Err(PluginError::Failed { plugin: plugin.to_owned(), command: command.name(), reason })
}

/// An answer that makes no sense.
pub fn nonsense(plugin: &str, command: Command, answer: &[u8], reason: String) -> PluginError {
    PluginError::Nonsense {
        plugin: plugin.to_owned(),
        command: command.name(),
        answer: shown(answer),
        reason,
    }
}

/// The end of an error: what was said on standard error.
fn said(errors: &[u8]) -> String {
    match shown(errors).trim() {
        "" => String::new(),
        errors => format!("; it said {errors:?}"),
    }
}

fn shown(output: &[u8]) -> String {
    String::from_utf8_lossy(output).chars().take(SHOWN_MAX_CHARS).collect()
}

/// A program that runs, and those that it has started, in a process group of their own.
struct Running {
    child: Child,
    /// None once it was waited for: then the number may be another's.
    group: Option<Pid>,
}

impl Running {
    fn new(child: Child) -> io::Result<Running> {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = Some(id.ok_or_else(|| io::Error::other("it has no process id"))?);
        Ok(Running { child, group })
    }

    /// Says all of the input, hears all of the output, and waits for the end.
    async fn talk(&mut self, input: &[u8], errors: &mut Vec<u8>) -> io::Result<Ended> {
        let stdin = self.child.stdin.take();
        let (mut stdout, mut stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let mut output = Vec::new();
        let say = async {
            if let Some(mut stdin) = stdin {
                // Who does not listen may still answer.
                let _ = stdin.write_all(input).await;
            }
            io::Result::Ok(())
        };
        tokio::try_join!(say, hear(stdout.as_mut(), &mut output), hear(stderr.as_mut(), errors))?;
        let status = self.child.wait().await?;
        self.group = None;
        Ok(Ended { status, output, errors: std::mem::take(errors) })
    }

    /// Kills it with all that it has started, and waits for it.
    async fn kill(&mut self) {
        self.kill_group();
        // Who cannot die is left to die when it can.
        if tokio::time::timeout(KILL_LIMIT, self.child.wait()).await.is_ok() {
            self.group = None;
        }
    }

    fn kill_group(&self) {
        if let Some(group) = self.group {
            // Nobody has waited for it: the number is still its own, be it dead.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

async fn hear(from: Option<&mut (impl AsyncRead + Unpin)>, heard: &mut Vec<u8>) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    from.take(OUTPUT_MAX_BYTES + 1).read_to_end(heard).await?;
    match heard.len() as u64 > OUTPUT_MAX_BYTES {
        true => Err(io::Error::other(format!("it says more than {OUTPUT_MAX_BYTES} bytes"))),
        false => Ok(()),
    }
}

/// Directories are told to plug-ins in one variable, by colons.
pub fn check_directories(directories: &[PathBuf]) -> Result<(), String> {
    let bad = |directory: &&PathBuf| {
        !directory.is_absolute() || directory.as_os_str().as_encoded_bytes().contains(&b':')
    };
    match directories.iter().find(bad) {
        Some(directory) => Err(format!("{directory:?} is not an absolute path without a colon")),
        None if directories.is_empty() => Err("names no directory".to_owned()),
        None => Ok(()),
    }
}

/// How a server's descriptor is called by others.
pub fn path_of(descriptor: std::os::fd::BorrowedFd<'_>) -> PathBuf {
    let own = rustix::process::getpid().as_raw_nonzero();
    let number = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
    Path::new("/proc").join(own.to_string()).join("fd").join(number.to_string())
}
