//! One scripted process: its streams, its signals, its end.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use protocol::{
    ByteStream, Error, Output, OutputReader, Process, ProcessControl, ProcessLimits, ProcessSpec, Result,
    Signal, TtySpec, WindowSize,
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    faults::{Faults, Op},
    output::Ring,
    programs::{Context, Program},
    stdin::Stdin,
    sync::lock,
};

/// Exit status of a process that SIGTERM ended.
pub(crate) const TERMINATED: i32 = 128 + 15;
/// Exit status of a process that SIGKILL ended.
pub(crate) const KILLED: i32 = 128 + 9;

pub(crate) struct FakeProcess {
    pub id: String,
    pub stdin: Stdin,
    pub stdout: Arc<Ring>,
    /// The same ring as `stdout` for a process with a terminal.
    pub stderr: Arc<Ring>,
    empty: Option<Arc<Ring>>,
    on_terminate: Mutex<OnTerminate>,
    /// How many SIGTERMs the program was told of.
    pub terminations: watch::Sender<u64>,
    /// The exit status that a signal has decided on.
    doom: watch::Sender<Option<i32>>,
    exit: watch::Sender<Option<Result<i32>>>,
    /// The terminal's size, and how often it was set.
    pub window: watch::Sender<(WindowSize, u64)>,
    /// What it has of its own, if anything.
    pub apart: Option<Apart>,
    faults: Arc<Faults>,
}

/// A process with limits or an image of its own.
pub(crate) struct Apart {
    /// Its limits; none: the container's.
    pub limits: Option<ProcessLimits>,
    pub started_at: Instant,
}

/// What a process's output streams are made of.
pub(crate) struct Rings {
    /// What each holds.
    pub bytes: usize,
    /// What they lost, of all processes.
    pub dropped_bytes: Arc<AtomicU64>,
}

/// What a process does about SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTerminate {
    /// It dies of it.
    Die,
    /// It does not notice.
    Ignore,
    /// It hears of it through [`Context::terminated`].
    Tell,
}

impl FakeProcess {
    pub fn new(id: String, spec: &ProcessSpec, rings: &Rings, faults: Arc<Faults>) -> Arc<Self> {
        let tty = spec.tty;
        let is_apart = spec.limits.is_some() || !spec.image.uri.is_empty();
        let ring = || Ring::new(rings.bytes, rings.dropped_bytes.clone());
        let stdout = ring();
        let (stderr, empty) = match tty {
            Some(_) => (stdout.clone(), Some(ring())),
            None => (ring(), None),
        };
        Arc::new(FakeProcess {
            id,
            stdin: Stdin::new(),
            stdout,
            stderr,
            empty,
            on_terminate: Mutex::new(OnTerminate::Die),
            terminations: watch::Sender::new(0),
            doom: watch::Sender::new(None),
            exit: watch::Sender::new(None),
            window: watch::Sender::new((tty.unwrap_or_default().size(), 0)),
            apart: is_apart.then(|| Apart { limits: spec.limits, started_at: Instant::now() }),
            faults,
        })
    }

    /// Its limits, if it has some of its own.
    pub fn own_limits(&self) -> Option<ProcessLimits> {
        self.apart.as_ref().and_then(|apart| apart.limits)
    }

    /// Runs `program` until it ends or a signal ends it. Resolves when it waits for the first time, so that a test
    /// finds it prepared for signals.
    pub async fn start(self: &Arc<Self>, program: Program, context: Context) {
        let process = self.clone();
        let (begun, has_begun) = oneshot::channel::<()>();
        let mut script = tokio::spawn(async move {
            let mut work = program(context);
            let first = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            drop(begun);
            match first {
                Poll::Ready(ended) => ended,
                Poll::Pending => work.await,
            }
        });
        tokio::spawn(async move {
            let mut doom = process.doom.subscribe();
            let doomed = async { doom.wait_for(Option::is_some).await.ok().and_then(|status| *status) };
            let result = tokio::select! {
                biased;
                Some(status) = doomed => {
                    script.abort();
                    // Waits until nothing can write any more.
                    let _ = (&mut script).await;
                    Ok(status)
                }
                ended = &mut script => ended.unwrap_or_else(|panic| {
                    Err(Error::Failed { message: format!("scripted program of {}: {panic}", process.id) })
                }),
            };
            process.finish(result);
        });
        // Always an error: nothing is sent.
        let _ = has_begun.await;
    }

    fn finish(&self, result: Result<i32>) {
        self.stdin.abandon();
        self.stdout.end();
        self.stderr.end();
        if let Some(empty) = &self.empty {
            empty.end();
        }
        // Last: whoever sees the exit status finds the output complete.
        self.exit.send_replace(Some(result));
    }

    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Result<i32> {
        wait(self.exit.subscribe()).await
    }

    pub fn send(&self, signal: Signal) {
        match (signal, *lock(&self.on_terminate)) {
            (Signal::Kill, _) => self.die(KILLED),
            (Signal::Terminate, OnTerminate::Die) => self.die(TERMINATED),
            (Signal::Terminate, OnTerminate::Ignore) => {}
            (Signal::Terminate, OnTerminate::Tell) => self.terminations.send_modify(|count| *count += 1),
        }
    }

    /// Ends the process with this status; the first one counts.
    pub fn die(&self, status: i32) {
        self.doom.send_if_modified(|doom| {
            let first = doom.is_none();
            doom.get_or_insert(status);
            first
        });
    }

    pub fn on_terminate(&self, what: OnTerminate) {
        *lock(&self.on_terminate) = what;
    }

    /// The process as the client that started it sees it.
    pub fn started(self: &Arc<Self>) -> Process {
        self.seen_by_client(Ring::from_start)
    }

    /// The process as a client that attaches now sees it.
    pub fn attached(self: &Arc<Self>) -> Process {
        self.seen_by_client(Ring::from_now)
    }

    fn seen_by_client(self: &Arc<Self>, output: impl Fn(&Arc<Ring>) -> Output) -> Process {
        let (exit, faults) = (self.exit.subscribe(), self.faults.clone());
        Process {
            id: self.id.clone(),
            stdout: self.faulty(Op::Stdout, output(&self.stdout)),
            stderr: self.faulty(Op::Stderr, output(self.empty.as_ref().unwrap_or(&self.stderr))),
            control: Arc::new(Control(self.clone())),
            exit: Box::pin(async move {
                let ended = wait(exit).await;
                faults.enter(Op::Exit).await?;
                ended
            }),
        }
    }

    /// The same output, whose readers meet the faults of `op` first.
    fn faulty(&self, op: Op, output: Output) -> Output {
        let faults = self.faults.clone();
        Output::with_progress(move || {
            let reader = Arc::new(Mutex::new(output.reader()));
            let (faults, chunks) = (faults.clone(), reader.clone());
            let chunks: ByteStream = Box::pin(stream::poll_fn(move |cx| lock(&chunks).poll_next_unpin(cx)));
            let entered = async move {
                match faults.enter(op).await {
                    Ok(()) => chunks,
                    Err(error) => Box::pin(stream::iter([Err(io::Error::other(error))])) as ByteStream,
                }
            };
            let chunks = Box::pin(stream::once(entered).flatten());
            OutputReader::new(chunks, move |bytes| lock(&reader).passed_on(bytes))
        })
    }
}

async fn wait(mut exit: watch::Receiver<Option<Result<i32>>>) -> Result<i32> {
    let ended = exit.wait_for(Option::is_some).await.ok().and_then(|status| status.clone());
    // None: the runtime is being shut down, and with it everything that would have ended the process.
    ended.unwrap_or_else(|| Err(Error::Unrecoverable { message: "the backend has been shut down".into() }))
}

struct Control(Arc<FakeProcess>);

#[async_trait]
impl ProcessControl for Control {
    async fn write_stdin(&self, data: Bytes) -> Result<()> {
        self.0.faults.enter(Op::WriteStdin).await?;
        self.0.stdin.write(data).await;
        Ok(())
    }

    async fn close_stdin(&self) -> Result<()> {
        self.0.faults.enter(Op::CloseStdin).await?;
        self.0.stdin.close();
        Ok(())
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.0.faults.enter(Op::Signal).await?;
        self.0.send(signal);
        Ok(())
    }

    async fn set_tty(&self, tty: TtySpec) -> Result<()> {
        self.0.faults.enter(Op::SetTty).await?;
        self.0.window.send_modify(|(size, changes)| (*size, *changes) = (tty.size(), *changes + 1));
        Ok(())
    }
}

/// Numbers for names that the backend makes up.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// The next number, from 1.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}
