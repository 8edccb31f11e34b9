//! One process, as clients see it.

use std::{
    future::Future,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Error as WireError, Output, OutputReader, Process, ProcessControl, Signal, TtySpec};
use tokio::{io::unix::AsyncFd, sync::watch, task::JoinHandle};

use super::{
    output::Channel,
    stdin::Stdin,
    supervisor::{Error, Supervisor},
    table::{Processes, Retention, STALL_LOOK_INTERVAL},
};
use crate::supervisor::{FailureKind, Request, Terminal};

/// What a process writes.
#[derive(Clone)]
pub(super) struct Outputs {
    pub stdout: Arc<Channel>,
    pub stderr: Arc<Channel>,
}

impl Outputs {
    pub fn each(&self, act: impl Fn(&Channel)) {
        act(&self.stdout);
        act(&self.stderr);
    }

    pub fn has_readers(&self) -> bool {
        self.stdout.has_readers() || self.stderr.has_readers()
    }

    /// Whether a client has all of it, and nobody is there to read it again.
    pub fn is_unwanted(&self) -> bool {
        self.stdout.is_unwanted() && self.stderr.is_unwanted()
    }

    fn of(&self, which: Which) -> &Arc<Channel> {
        match which {
            Which::Stdout => &self.stdout,
            Which::Stderr => &self.stderr,
        }
    }

    fn is_full(&self) -> bool {
        self.stdout.is_full() || self.stderr.is_full()
    }
}

/// Which output.
#[derive(Clone, Copy)]
enum Which {
    Stdout,
    Stderr,
}

/// One process.
pub struct Entry {
    pub(super) id: String,
    pub(super) supervisor: Supervisor,
    pub(super) outputs: Mutex<Option<Outputs>>,
    pub(super) stdin: Option<Stdin>,
    pub(super) exit: watch::Receiver<Option<i32>>,
    pub(super) table: Weak<Processes>,
    /// What is still done for it after its end, and must be before its id is free.
    pub(super) aftermath: Mutex<Option<JoinHandle<()>>>,
}

impl Entry {
    /// Has its id kept until that is done.
    pub fn is_followed_by(&self, aftermath: JoinHandle<()>) {
        self.aftermath.lock().unwrap_or_else(PoisonError::into_inner).replace(aftermath);
    }

    /// Somebody knows its exit status.
    fn told(self: &Arc<Self>) {
        if let Some(table) = self.table.upgrade().filter(|table| table.retention == Retention::UntilTold) {
            table.forget(self);
        }
    }

    /// Waits for its end. False: the server is going, and the process goes on.
    pub fn ended(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut exit = self.exit.clone();
        async move { exit.wait_for(Option::is_some).await.is_ok() }
    }

    pub(super) fn outputs(&self) -> Option<Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn dropped_bytes(&self) -> u64 {
        self.outputs().map_or(0, |outputs| outputs.stdout.dropped_bytes() + outputs.stderr.dropped_bytes())
    }

    /// Waits for the supervisor to say that there is something new, and tells the readers; or for a reader to be
    /// given up on.
    pub(super) async fn pass_on_news(&self, news: Option<&AsyncFd<OwnedFd>>) {
        let (Some(news), Some(outputs)) = (news, self.outputs()) else { return std::future::pending().await };
        let readable = async {
            let Ok(mut ready) = news.readable().await else { return std::future::pending().await };
            let mut counter = [0; 8];
            let _ = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut counter)?));
        };
        if outputs.is_full() {
            // Whether news came or not: those of one output say nothing of the other's reader.
            let _ = tokio::time::timeout(STALL_LOOK_INTERVAL, readable).await;
            if outputs.stdout.give_up_on_stalled() | outputs.stderr.give_up_on_stalled() {
                tracing::warn!(process = self.id, "a client has stopped reading: output may be dropped");
            }
        } else {
            readable.await;
        }
        outputs.each(Channel::tell_news);
    }

    /// The process, for a client that has just started it: its output from the first byte on.
    pub fn from_start(self: &Arc<Self>) -> Process {
        self.process(|_| 0)
    }

    /// The process, for a client that joins it: its output from where the last client stopped, or from now on.
    pub fn from_here(self: &Arc<Self>) -> Process {
        self.process(|channel| channel.attach_position())
    }

    fn process(self: &Arc<Self>, position: impl Fn(&Channel) -> u64) -> Process {
        let entry = Arc::clone(self);
        Process {
            id: self.id.clone(),
            stdout: self.output(Which::Stdout, &position),
            stderr: self.output(Which::Stderr, &position),
            control: Arc::clone(self) as Arc<dyn ProcessControl>,
            exit: Box::pin(async move {
                let status = wait(entry.exit.clone()).await?;
                entry.told();
                Ok(status)
            }),
        }
    }

    fn output(self: &Arc<Self>, which: Which, position: impl Fn(&Channel) -> u64) -> Output {
        let entry = Arc::clone(self);
        let outputs = self.outputs();
        let channel = outputs.as_ref().map(|outputs| outputs.of(which));
        let position = channel.map_or(0, |channel| position(channel));
        let awaited = Mutex::new(channel.map(|channel| channel.awaited()));
        Output::with_progress(move || {
            let Some(outputs) = entry.outputs() else {
                // Let go of a minute after the end.
                return OutputReader::new(Box::pin(futures_util::stream::empty()), |_| {});
            };
            let reader = outputs.of(which).reader(position);
            // From now on the reader itself is counted.
            awaited.lock().unwrap_or_else(PoisonError::into_inner).take();
            reader
        })
    }

    async fn command(&self, request: Request) -> protocol::Result<()> {
        if self.exit.borrow().is_some() {
            return Ok(());
        }
        match self.supervisor.command(&request).await {
            // It ended with its supervisor: nobody to tell.
            Err(Error::Gone(_)) | Ok(()) => Ok(()),
            // It was started, so it has ended meanwhile, and is forgotten already.
            Err(error) if error.refusal() == Some(FailureKind::ProcessNotFound) => Ok(()),
            Err(error) => Err(WireError::failed(&error)),
        }
    }
}

async fn wait(mut exit: watch::Receiver<Option<i32>>) -> protocol::Result<i32> {
    let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
    // The sender sends before it goes; without it the server itself is going.
    status.ok_or_else(|| WireError::ServiceUnavailable { message: "the server is stopping".into() })
}

#[async_trait]
impl ProcessControl for Entry {
    async fn write_stdin(&self, data: Bytes) -> protocol::Result<()> {
        if let Some(stdin) = &self.stdin {
            stdin.write(data).await;
        }
        Ok(())
    }

    async fn close_stdin(&self) -> protocol::Result<()> {
        if let Some(stdin) = &self.stdin {
            stdin.close().await;
        }
        self.command(Request::CloseStdin { id: self.id.clone() }).await
    }

    async fn signal(&self, signal: Signal) -> protocol::Result<()> {
        let signal = match signal {
            Signal::Terminate => nix::libc::SIGTERM,
            Signal::Kill => nix::libc::SIGKILL,
        };
        self.command(Request::Signal { id: self.id.clone(), signal }).await
    }

    async fn set_tty(&self, tty: TtySpec) -> protocol::Result<()> {
        let size = tty.size();
        let terminal = Terminal { columns: size.columns, rows: size.rows };
        self.command(Request::Resize { id: self.id.clone(), terminal }).await
    }
}
