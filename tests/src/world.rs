//! What a behaviour is given: a backend, and the ways to use it that tests have in common.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::future::{BoxFuture, try_join3};
use protocol::{Backend, ContainerSpec, Error, FilesQuery, Process, ProcessSpec, Properties, Result};
use tempfile::NamedTempFile;

use crate::{
    files::{self, Unpacked},
    neighbour::Neighbour,
};

/// A user of the containers besides root.
#[derive(Debug, Clone)]
pub struct User {
    /// Its name in `/etc/passwd`.
    pub name: String,
    /// Its number; its group has the same.
    pub id: u32,
}

/// What the backend under test is like, as far as a behaviour must know.
#[derive(Debug, Clone)]
pub struct Traits {
    /// Processes are the kernel's: they use memory and CPU time, and listen on ports.
    pub real: bool,
    /// Between the behaviour and the backend are this project's client and a server, which speak Garden's HTTP.
    pub over_http: bool,
    /// Processes are carried by Garden's classic streams, whose input is text.
    pub classic_streams: bool,
    /// Nobody else uses the backend, and it allows only a few containers.
    pub exclusive: bool,
    /// The root filesystem that containers are made from, as a spec names it; empty: the backend's default.
    pub rootfs: String,
    /// An ordinary user of that root filesystem.
    pub user: User,
}

/// What runs once a world is no longer needed: stops servers, looks for leaks. An error fails the test.
pub type Closing = BoxFuture<'static, Result<(), String>>;

/// The surroundings of one behaviour.
pub struct World {
    backend: Arc<dyn Backend>,
    traits: Traits,
    /// The host behind that of the backend, and the name servers of that one.
    neighbour: Option<(Neighbour, NamedTempFile)>,
    prefix: String,
    handles: AtomicU64,
    /// In a lock because a future is not `Sync`.
    closing: Mutex<Closing>,
}

/// How a process ended, and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// As a shell gives it.
    pub status: i32,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: Vec<u8>,
}

impl Ended {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl World {
    /// A world around `backend`.
    pub fn new(backend: Arc<dyn Backend>, traits: Traits, closing: Closing) -> Self {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        // Ends in a hyphen: no world's prefix is the beginning of another's.
        let prefix = format!("conf-{}-{}-", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        World {
            backend,
            traits,
            neighbour: None,
            prefix,
            handles: AtomicU64::new(0),
            closing: Mutex::new(closing),
        }
    }

    /// The same with another host behind that of the backend, and the backend's `resolv.conf`.
    pub fn with_neighbour(self, neighbour: Neighbour, resolv_conf: NamedTempFile) -> World {
        World { neighbour: Some((neighbour, resolv_conf)), ..self }
    }

    /// The other host, where there is one: the backend's is the one that the calling thread is on.
    pub fn neighbour(&self) -> Option<&Neighbour> {
        self.neighbour.as_ref().map(|(neighbour, _)| neighbour)
    }

    /// The backend under test.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// The backend under test, to be shared with tasks.
    pub fn shared(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    /// What it is like.
    pub fn traits(&self) -> &Traits {
        &self.traits
    }

    /// Says why a behaviour does not apply here.
    pub fn skip(&self, reason: &str) {
        println!("skipped: {reason}");
    }

    /// A handle that nobody has used.
    pub fn handle(&self) -> String {
        format!("{}{}", self.prefix, self.handles.fetch_add(1, Ordering::Relaxed))
    }

    /// A spec with a fresh handle and the usual root filesystem.
    pub fn spec(&self) -> ContainerSpec {
        let mut spec = ContainerSpec { handle: self.handle(), ..Default::default() };
        spec.image.uri.clone_from(&self.traits.rootfs);
        spec
    }

    /// A new container's handle.
    pub async fn create(&self) -> String {
        self.create_with(|_| ()).await
    }

    /// A new container's handle, from a spec changed by `change`.
    pub async fn create_with(&self, change: impl FnOnce(&mut ContainerSpec)) -> String {
        let mut spec = self.spec();
        change(&mut spec);
        self.backend.create(spec).await.expect("create a container")
    }

    /// Starts a program, named by itself and its arguments.
    pub async fn run(&self, handle: &str, command: &[&str]) -> Process {
        self.backend.run(handle, command_spec(command)).await.expect("run a process")
    }

    /// Starts a program and waits for its end and all that it writes.
    pub async fn run_to_end(&self, handle: &str, command: &[&str]) -> Ended {
        self.run_spec_to_end(handle, command_spec(command)).await
    }

    /// Starts a process and waits for its end and all that it writes.
    pub async fn run_spec_to_end(&self, handle: &str, spec: ProcessSpec) -> Ended {
        end(self.backend.run(handle, spec).await.expect("run a process")).await
    }

    /// Streams these files into a directory.
    pub async fn stream_in(&self, handle: &str, user: &str, path: &str, files: &[(&str, &[u8])]) {
        let query = FilesQuery { user: user.into(), path: path.into() };
        let tar = files::body(files::tar_of(files));
        self.backend.stream_in(handle, query, tar).await.expect("stream files in");
    }

    /// Streams a path out.
    pub async fn stream_out(&self, handle: &str, path: &str) -> Unpacked {
        let query = FilesQuery { user: String::new(), path: path.into() };
        let tar = self.backend.stream_out(handle, query).await.expect("stream files out");
        files::untar(&files::collect(tar).await.expect("a whole tar"))
    }

    /// All handles of this world that the backend lists, half-made ones too.
    pub async fn all_handles(&self) -> Vec<String> {
        self.ours(&properties(&[("garden.state", "all")])).await
    }

    /// All handles of this world that an unfiltered list shows.
    pub async fn all_created(&self) -> Vec<String> {
        self.ours(&Properties::new()).await
    }

    async fn ours(&self, filter: &Properties) -> Vec<String> {
        let handles = self.backend.list(filter).await.expect("list");
        let ours = |handle: &str| self.traits.exclusive || handle.starts_with(&self.prefix);
        handles.iter().filter(|handle| ours(handle)).cloned().collect()
    }

    /// Destroys what the behaviour left, and closes the world.
    pub async fn close(self) -> Result<(), String> {
        let mut complaints = Vec::new();
        for handle in self.all_handles().await {
            match self.backend.destroy(&handle).await {
                Ok(()) | Err(Error::ContainerNotFound { .. }) => {}
                Err(error) => complaints.push(format!("destroy {handle}: {error}")),
            }
        }
        // What closes a backend may wait for its last user.
        drop(self.backend);
        let closing = self.closing.into_inner().expect("nobody panics with this lock");
        complaints.extend(closing.await.err());
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
    }
}

/// The spec of a program, named by itself and its arguments.
pub fn command_spec(command: &[&str]) -> ProcessSpec {
    let (path, args) = command.split_first().expect("a program");
    ProcessSpec {
        path: (*path).into(),
        args: args.iter().map(|arg| (*arg).into()).collect(),
        ..Default::default()
    }
}

/// Waits for a process's end and all that it writes.
pub async fn end(process: Process) -> Ended {
    let outputs = |output: &protocol::Output| {
        let stream = output.open();
        async { files::collect(stream).await.map_err(|error| Error::Failed { message: error.to_string() }) }
    };
    let (stdout, stderr) = (outputs(&process.stdout), outputs(&process.stderr));
    let (stdout, stderr, status) = try_join3(stdout, stderr, process.exit).await.expect("a process's end");
    Ended { status, stdout, stderr }
}

/// Properties from pairs.
pub fn properties(pairs: &[(&str, &str)]) -> Properties {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// Fails unless `result` is an unknown handle, this one.
#[track_caller]
pub fn assert_container_not_found<T: std::fmt::Debug>(result: Result<T>, handle: &str) {
    assert_eq!(result.expect_err("an unknown handle"), Error::container_not_found(handle));
}

/// Fails unless `result` is an error whose text contains `part`.
#[track_caller]
pub fn assert_fails_with<T: std::fmt::Debug>(result: Result<T>, part: &str) {
    let error = result.expect_err(part).to_string();
    assert!(error.contains(part), "{error:?} does not contain {part:?}");
}

/// Runs futures side by side on the runtime and answers with all their results.
pub async fn at_once<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("a task"));
    }
    results
}
