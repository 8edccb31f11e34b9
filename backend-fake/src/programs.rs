//! The programs that containers of the fake can run, and what a program can do.
//!
//! Those named as in busybox behave as busybox's do, for as much of them as is here; what is not here is refused with
//! a message, never guessed. The others (`exit`, `hold`, `both`, `waiterr`) are those of the reference's scripted
//! backend, from which the captured conversations come.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use protocol::{Error, Result, WindowSize};

use crate::{
    busybox,
    container::Container,
    files::{self, Files},
    process::{FakeProcess, KILLED, OnTerminate},
    shell,
    sync::lock,
    users::User,
};

/// What a program does when it is started; resolves to its exit status, or to an error of waiting for it.
pub(crate) type Program = Arc<dyn Fn(Context) -> ProgramFuture + Send + Sync>;

/// A program at work.
pub(crate) type ProgramFuture = Pin<Box<dyn Future<Output = Result<i32>> + Send>>;

/// Where containers have their programs, all in each of them.
const DIRECTORIES: &[&str] = &["/bin", "/sbin", "/usr/bin", "/usr/sbin"];

/// Programs by name.
#[derive(Clone)]
pub struct Programs(BTreeMap<String, Program>);

impl Default for Programs {
    /// The programs of the captures and those of busybox that the fake knows.
    fn default() -> Self {
        let mut programs = Programs(BTreeMap::new());
        programs.insert("exit", exit);
        programs.insert("hold", hold);
        programs.insert("both", both);
        programs.insert("waiterr", wait_error);
        programs.insert("sh", shell::sh);
        busybox::add(&mut programs);
        programs
    }
}

impl Programs {
    /// Adds a program, in the place of one of the same name. A name without a slash is found by itself and in the
    /// usual directories (`/bin`, `/usr/bin`, …); a path such as `/opt/resource/check` is found as it is.
    ///
    /// A program is an async closure: what it does with its [`Context`] is what clients see, and what it resolves to
    /// is its exit status, or the error that waiting for it gives. It runs until it ends or a signal ends it; a panic
    /// in it is such an error too. When `run` resolves, everything that the program does before it first waits has
    /// been done: it has chosen what SIGTERM does, say.
    pub fn insert<F, W>(&mut self, name: impl Into<String>, program: F)
    where
        F: Fn(Context) -> W + Send + Sync + 'static,
        W: Future<Output = Result<i32>> + Send + 'static,
    {
        self.0.insert(name.into(), Arc::new(move |context| Box::pin(program(context))));
    }

    /// The program that `path` names: as it was inserted, by its name in one of the usual directories, or, without a
    /// slash, where `search`, the value of PATH, has one of them.
    pub(crate) fn find(&self, path: &str, search: &str) -> Result<Program> {
        let found = match path.rsplit_once('/') {
            None if !search.split(':').any(|directory| DIRECTORIES.contains(&directory)) => None,
            Some((directory, name)) if DIRECTORIES.contains(&directory) => {
                self.0.get(path).or_else(|| self.0.get(name))
            }
            _ => self.0.get(path),
        };
        found.cloned().ok_or_else(|| {
            let message = match path.contains('/') {
                true => format!("exec: {path:?}: no such file or directory"),
                false => format!("exec: {path:?}: executable file not found in $PATH"),
            };
            Error::ExecutableNotFound { message }
        })
    }
}

/// Where a program's output goes.
#[derive(Clone)]
pub(crate) enum Sink {
    Stdout,
    Stderr,
    /// An absolute path in the container.
    File(String),
}

/// Everything that a program has.
#[derive(Clone)]
pub struct Context {
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    pub dir: String,
    /// Who it runs as.
    pub user: User,
    pub(crate) process: Arc<FakeProcess>,
    pub(crate) container: Arc<Container>,
    /// Those of its root: the container's, or its own.
    pub(crate) files: Arc<Files>,
    pub(crate) programs: Arc<Programs>,
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    pub(crate) terminations_seen: u64,
    pub(crate) window_changes_seen: u64,
}

impl Context {
    /// The argument at `index`, or nothing.
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// Writes to standard output, waiting as a pipe makes one wait.
    pub async fn print(&self, data: impl AsRef<[u8]>) {
        self.write(&self.stdout, data.as_ref()).await;
    }

    /// Writes to standard error.
    pub async fn print_error(&self, data: impl AsRef<[u8]>) {
        self.write(&self.stderr, data.as_ref()).await;
    }

    async fn write(&self, sink: &Sink, data: &[u8]) {
        match sink {
            Sink::Stdout => self.process.stdout.write(data).await,
            Sink::Stderr => self.process.stderr.write(data).await,
            // The file was opened before the program began: only its removal can make this fail, and a program
            // does not notice that either.
            Sink::File(path) => {
                let _ = lock(&self.files).write("/", path, &User::root(), data, false);
            }
        }
    }

    /// The next piece of standard input; none at its end.
    pub async fn read_stdin(&self) -> Option<Bytes> {
        self.process.stdin.read().await
    }

    /// Content of a file of the container; the error is the kernel's text.
    pub fn read_file(&self, path: &str) -> std::result::Result<Bytes, String> {
        files::read(&self.files, &self.dir, path, &self.user)
    }

    /// Writes a file of the container, in the place of its former content; the error is the kernel's text.
    pub fn write_file(&self, path: &str, data: &[u8]) -> std::result::Result<(), String> {
        lock(&self.files).write(&self.dir, path, &self.user, data, true)
    }

    /// Chooses what SIGTERM does from now on.
    pub fn on_terminate(&self, what: OnTerminate) {
        self.process.on_terminate(what);
    }

    /// Waits for the next SIGTERM, after [`on_terminate`](Context::on_terminate)`(Tell)`. None is missed.
    pub async fn terminated(&mut self) {
        let mut count = self.process.terminations.subscribe();
        // Cannot fail: the sender lives as long as `self`.
        let _ = count.wait_for(|count| *count > self.terminations_seen).await;
        self.terminations_seen += 1;
    }

    /// Waits until the terminal's window changes, also since before the program began, and answers with its size.
    pub async fn window_changed(&mut self) -> WindowSize {
        let mut window = self.process.window.subscribe();
        // Cannot fail: the sender lives as long as `self`.
        let _ = window.wait_for(|(_, changes)| *changes > self.window_changes_seen).await;
        let (size, changes) = *window.borrow();
        self.window_changes_seen = changes;
        size
    }

    /// Dies as a process does that the kernel kills for want of memory. Never resolves.
    pub async fn run_out_of_memory(&self) -> Result<i32> {
        self.container.note_out_of_memory();
        self.process.die(KILLED);
        std::future::pending().await
    }

    /// How much memory it may have; 0: as much as it likes.
    pub(crate) fn memory_limit_bytes(&self) -> u64 {
        let own = self.process.own_limits().map(|limits| limits.memory);
        own.unwrap_or(self.container.limits.memory).limit_in_bytes
    }

    /// Complains on standard error and answers with `status`.
    pub(crate) async fn complain(&self, status: i32, message: impl std::fmt::Display) -> Result<i32> {
        self.print_error(format!("{message}\n")).await;
        Ok(status)
    }
}

/// `exit N`
async fn exit(context: Context) -> Result<i32> {
    Ok(context.arg(0).parse().unwrap_or(0))
}

/// Runs until a signal ends it; says each new size of its window.
async fn hold(mut context: Context) -> Result<i32> {
    loop {
        let WindowSize { columns, rows } = context.window_changed().await;
        context.print(format!("tty {columns}x{rows}\n")).await;
    }
}

/// `both OUT ERR CODE`
async fn both(context: Context) -> Result<i32> {
    context.print(context.arg(0)).await;
    context.print_error(context.arg(1)).await;
    Ok(context.arg(2).parse().unwrap_or(0))
}

/// Cannot be waited for.
async fn wait_error(_: Context) -> Result<i32> {
    Err(Error::Failed { message: "boom".into() })
}
