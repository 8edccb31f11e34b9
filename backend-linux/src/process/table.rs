//! The processes of one container, as the server knows them.

use std::{
    collections::BTreeMap,
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use protocol::{Error as WireError, Output, OutputReader, Process, ProcessControl, Signal, TtySpec};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    budget::OutputBudget,
    output::Channel,
    stdin::Stdin,
    supervisor::{Connection, Error, Supervisor, nonsense},
};
use crate::{
    supervisor::{ApartRequest, OutputFds, Reply, Request, Terminal},
    sys::async_fd,
};

/// How long the output of an ended process is kept for readers that come late.
const OUTPUT_KEPT: Duration = Duration::from_secs(60);

/// How often it is looked whether output is still wanted while room for it is scarce.
const SCARCITY_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often readers are looked at while a process waits for them.
const STALL_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The status of a process whose supervisor died, and so the process with it.
const KILLED: i32 = 137;

/// Called with the process's id at each exit, before anybody is told of it.
pub type OnExit = Arc<dyn Fn(&str) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// All processes of a container that were started and not forgotten.
pub struct Processes {
    supervisor: Supervisor,
    on_exit: OnExit,
    budget: Arc<OutputBudget>,
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
    /// Output bytes lost, of processes whose output is let go of already.
    dropped_bytes: AtomicU64,
    /// Whether the container is gone, and output with it.
    gone: watch::Sender<bool>,
}

impl Processes {
    pub fn new(supervisor: Supervisor, on_exit: OnExit, budget: Arc<OutputBudget>) -> Arc<Processes> {
        Arc::new(Processes {
            supervisor,
            on_exit,
            budget,
            entries: Mutex::default(),
            dropped_bytes: AtomicU64::new(0),
            gone: watch::Sender::new(false),
        })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        // The map is whole whatever happened to a thread that had it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of those that run.
    pub fn running(&self) -> Vec<String> {
        self.entries()
            .values()
            .filter(|entry| entry.exit.borrow().is_none())
            .map(|entry| entry.id.clone())
            .collect()
    }

    /// Output bytes lost so far, because nobody read them in time.
    pub fn dropped_bytes(&self) -> u64 {
        let live: u64 = self.entries().values().map(|entry| entry.dropped_bytes()).sum();
        self.dropped_bytes.load(Ordering::Relaxed) + live
    }

    /// Lets go of all output that nobody is reading: the container is gone.
    pub fn let_go(&self) {
        self.gone.send_replace(true);
    }

    /// The process of that id.
    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.entries().get(id).cloned()
    }

    /// Starts a process. Whoever drops this leaves a process that was started to itself.
    pub async fn run(self: &Arc<Self>, request: ApartRequest) -> Result<Arc<Entry>, Error> {
        let id = request.process.id.clone();
        let request = match request {
            // In the words that a supervisor from before knows, too.
            ApartRequest { process, cgroup: None, root: None } => Request::Run(Box::new(process)),
            request => Request::RunApart(Box::new(request)),
        };
        let followed = self.follow(id.clone(), &request).await;
        if matches!(followed, Err(Error::Gone(_))) {
            // If it was started nevertheless, nobody could reach it. Without a supervisor there is no such process.
            let kill = Request::Signal { id, signal: nix::libc::SIGKILL };
            let _ = self.supervisor.command(&kill).await;
        }
        followed
    }

    /// Takes over a process that an earlier server started.
    pub async fn adopt(self: &Arc<Self>, id: String) -> Result<Arc<Entry>, Error> {
        self.follow(id.clone(), &Request::Attach { id }).await
    }

    async fn follow(self: &Arc<Self>, id: String, request: &Request) -> Result<Arc<Entry>, Error> {
        let connection = self.supervisor.open().await?;
        connection.send(request, &[]).await?;
        let fds = match connection.reply().await? {
            (Reply::Running, fds) => fds,
            (other, _) => return Err(nonsense(&other)),
        };
        let (exited, exit) = watch::channel(None);
        let (outputs, news) = match OutputFds::from_vec(fds) {
            Some(fds) => {
                let room = Arc::new(fds.room);
                let channel = |ring| {
                    let channel = Channel::new(ring, Arc::clone(&room), &self.budget);
                    channel.map(Arc::new).map_err(Error::Gone)
                };
                let outputs = Outputs { stdout: channel(fds.stdout)?, stderr: channel(fds.stderr)? };
                (Some((outputs, Stdin::new(fds.stdin).map_err(Error::Gone)?)), Some(fds.news))
            }
            None => (None, None),
        };
        let (outputs, stdin) = outputs.unzip();
        let entry = Arc::new(Entry {
            id: id.clone(),
            supervisor: self.supervisor.clone(),
            outputs: Mutex::new(outputs),
            stdin,
            exit,
        });
        self.entries().insert(id, Arc::clone(&entry));
        tokio::spawn(Arc::clone(self).watch(Arc::clone(&entry), connection, news, exited));
        Ok(entry)
    }

    /// Follows one process to its end, and its output a little longer.
    async fn watch(
        self: Arc<Self>,
        entry: Arc<Entry>,
        connection: Connection,
        news: Option<OwnedFd>,
        exited: watch::Sender<Option<i32>>,
    ) {
        let news = news.and_then(|news| async_fd(news, Interest::READABLE).ok());
        let exit = wait_for_exit(connection);
        tokio::pin!(exit);
        let status = loop {
            tokio::select! {
                status = &mut exit => break status,
                () = entry.pass_on_news(news.as_ref()) => {}
            }
        };
        let outputs = entry.outputs();
        if let Some(outputs) = &outputs {
            outputs.each(|channel| channel.tell_over());
        }
        if let Some(stdin) = &entry.stdin {
            stdin.drop_if_idle();
        }
        (self.on_exit)(&entry.id).await;
        exited.send_replace(Some(status));

        let Some(outputs) = outputs else { return };
        self.keep(&outputs).await;
        self.dropped_bytes.fetch_add(entry.dropped_bytes(), Ordering::Relaxed);
        entry.outputs.lock().unwrap_or_else(PoisonError::into_inner).take();
        // If the supervisor is gone, so is the output.
        let _ = self.supervisor.command(&Request::DiscardOutput { id: entry.id.clone() }).await;
    }

    /// Waits as long as the output of an ended process is to be kept: whoever comes late has a minute, unless room is
    /// scarce and a client has it all, and whoever is there by then has as long as it takes.
    async fn keep(&self, outputs: &Outputs) {
        let mut gone = self.gone.subscribe();
        let mut scarcity = self.budget.scarcity();
        let mut kept_until = Instant::now() + OUTPUT_KEPT;
        loop {
            let unwanted_while_scarce = async {
                // An error is a backend that is going.
                let _ = scarcity.wait_for(|scarce| *scarce).await;
                if !outputs.is_unwanted() {
                    sleep(SCARCITY_LOOK_INTERVAL).await;
                }
            };
            tokio::select! {
                _ = gone.wait_for(|gone| *gone) => return,
                () = sleep_until(kept_until) => match outputs.has_readers() {
                    true => kept_until = Instant::now() + OUTPUT_KEPT,
                    false => return,
                },
                () = unwanted_while_scarce => {}
            }
            if *scarcity.borrow() && outputs.is_unwanted() {
                return;
            }
        }
    }
}

async fn wait_for_exit(connection: Connection) -> i32 {
    loop {
        match connection.reply().await {
            Ok((Reply::Exited { status }, _)) => return status,
            // Whatever else it says on this connection, it is not the end.
            Ok(_) => {}
            Err(_) => return KILLED,
        }
    }
}

#[derive(Clone)]
struct Outputs {
    stdout: Arc<Channel>,
    stderr: Arc<Channel>,
}

impl Outputs {
    fn each(&self, act: impl Fn(&Channel)) {
        act(&self.stdout);
        act(&self.stderr);
    }

    fn has_readers(&self) -> bool {
        self.stdout.has_readers() || self.stderr.has_readers()
    }

    /// Whether a client has all of it, and nobody is there to read it again.
    fn is_unwanted(&self) -> bool {
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
    id: String,
    supervisor: Supervisor,
    outputs: Mutex<Option<Outputs>>,
    stdin: Option<Stdin>,
    exit: watch::Receiver<Option<i32>>,
}

impl Entry {
    /// Waits for its end. False: the server is going, and the process goes on.
    pub async fn ended(&self) -> bool {
        self.exit.clone().wait_for(Option::is_some).await.is_ok()
    }

    fn outputs(&self) -> Option<Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn dropped_bytes(&self) -> u64 {
        self.outputs().map_or(0, |outputs| outputs.stdout.dropped_bytes() + outputs.stderr.dropped_bytes())
    }

    /// Waits for the supervisor to say that there is something new, and tells the readers; or for a reader to be
    /// given up on.
    async fn pass_on_news(&self, news: Option<&AsyncFd<OwnedFd>>) {
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
        let exit = self.exit.clone();
        Process {
            id: self.id.clone(),
            stdout: self.output(Which::Stdout, &position),
            stderr: self.output(Which::Stderr, &position),
            control: Arc::clone(self) as Arc<dyn ProcessControl>,
            exit: Box::pin(wait(exit)),
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
