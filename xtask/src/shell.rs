//! Starting programs, and where things are.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::Outcome;

/// The project's top folder.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo puts what it builds: this program is in its `debug` folder.
pub fn target() -> Result<PathBuf, String> {
    let me = env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    me.ancestors()
        .nth(2)
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} is not in a target folder", me.display()))
}

/// Whether this is root, who may make containers.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Whether a missing tool is a failure rather than a skip.
pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1")
}

/// The file that a program's name stands for. `sbin` is searched too: it is missing from many users' PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(directory).join(program))
        .find(|file| file.is_file())
}

/// A program, to be run in the project's top folder.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end; anything but success is an error that names the command.
pub fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", show(command))),
        Err(error) => Err(format!("cannot start {}: {error}", show(command))),
    }
}

/// Runs to the end and takes what it prints; its errors go to the terminal.
pub fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot start {}: {e}", show(command)))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", show(command), output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{} printed what is not UTF-8", show(command)))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A folder of our own under the temporary folder, removed with its content when dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one; only its owner may look inside.
    pub fn new(name: &str) -> Result<Self, String> {
        TempDir::below(&env::temp_dir(), name)
    }

    /// Makes one in memory, where the host has a place for that, as `/run` is on hosts that boot by themselves.
    pub fn in_memory(name: &str) -> Result<Self, String> {
        let shared_memory = PathBuf::from("/dev/shm");
        TempDir::below(&if shared_memory.is_dir() { shared_memory } else { env::temp_dir() }, name)
    }

    fn below(directory: &Path, name: &str) -> Result<Self, String> {
        use std::os::unix::fs::DirBuilderExt;
        let path = directory.join(format!("garden-{name}-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o711)
            .create(&path)
            .map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(TempDir(path))
    }

    /// The folder, or something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.0.clone() } else { self.0.join(name) }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: left behind: {}: {error}", self.0.display());
        }
    }
}
