//! The processes of one container, as the server knows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::Interest,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    budget::OutputBudget,
    entry::{Entry, Outputs},
    output::Channel,
    stdin::Stdin,
    supervisor::{Connection, Error, Supervisor, nonsense},
};
use crate::{
    supervisor::{ApartRequest, OutputFds, Reply, Request},
    sys::async_fd,
};

/// How long the output of an ended process is kept for readers that come late.
const OUTPUT_KEPT: Duration = Duration::from_secs(60);

/// How often it is looked whether output is still wanted while room for it is scarce.
const SCARCITY_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often readers are looked at while a process waits for them.
pub(super) const STALL_LOOK_INTERVAL: Duration = Duration::from_millis(500);

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
    pub(super) retention: Retention,
    /// Ids of processes that were told of and are being forgotten.
    leaving: watch::Sender<BTreeSet<String>>,
}

/// How long an ended process is known, and its id taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// As long as its container.
    UntilDestroy,
    /// Until somebody has been told its exit status.
    UntilTold,
}

impl Processes {
    pub fn new(
        supervisor: Supervisor,
        on_exit: OnExit,
        budget: Arc<OutputBudget>,
        retention: Retention,
    ) -> Arc<Processes> {
        Arc::new(Processes {
            supervisor,
            on_exit,
            budget,
            entries: Mutex::default(),
            dropped_bytes: AtomicU64::new(0),
            gone: watch::Sender::new(false),
            retention,
            leaving: watch::Sender::default(),
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
        // None is counted twice, as none leaves meanwhile.
        let entries = self.entries();
        let live: u64 = entries.values().map(|entry| entry.dropped_bytes()).sum();
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
            table: Arc::downgrade(self),
            aftermath: Mutex::default(),
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
        let status = {
            let exit = wait_for_exit(&connection);
            tokio::pin!(exit);
            loop {
                tokio::select! {
                    status = &mut exit => break status,
                    () = entry.pass_on_news(news.as_ref()) => {}
                }
            }
        };
        if status.is_some() {
            self.supervisor.keep(connection);
        }
        let status = status.unwrap_or(KILLED);
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
        if self.let_go_of_output(&entry) {
            // If the supervisor is gone, so is the output.
            let _ = self.supervisor.command(&Request::DiscardOutput { id: entry.id.clone() }).await;
        }
    }

    /// False: the process is forgotten, and its id may be another's.
    fn let_go_of_output(&self, entry: &Arc<Entry>) -> bool {
        let entries = self.entries();
        let known = entries.get(&entry.id).is_some_and(|known| Arc::ptr_eq(known, entry));
        if known {
            self.dropped_bytes.fetch_add(entry.dropped_bytes(), Ordering::Relaxed);
        }
        entry.outputs.lock().unwrap_or_else(PoisonError::into_inner).take();
        known
    }

    /// Forgets an ended process: at once for whoever asks for it; its id is free when nothing of it is left.
    pub(super) fn forget(self: &Arc<Self>, entry: &Arc<Entry>) {
        {
            let mut entries = self.entries();
            if !entries.get(&entry.id).is_some_and(|known| Arc::ptr_eq(known, entry)) {
                return;
            }
            entries.remove(&entry.id);
            self.dropped_bytes.fetch_add(entry.dropped_bytes(), Ordering::Relaxed);
            self.leaving.send_modify(|leaving| {
                leaving.insert(entry.id.clone());
            });
        }
        let (table, entry) = (Arc::clone(self), Arc::clone(entry));
        tokio::spawn(async move {
            let aftermath = entry.aftermath.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(aftermath) = aftermath {
                // It ends with the server, if not before.
                let _ = aftermath.await;
            }
            // A supervisor that is gone knows of no process; one from before this request refuses the id.
            let _ = table.supervisor.command(&Request::Forget { id: entry.id.clone() }).await;
            table.leaving.send_modify(|leaving| {
                leaving.remove(&entry.id);
            });
        });
    }

    /// Waits until nothing is left of a process of that id that is being forgotten.
    pub async fn forgotten(&self, id: &str) {
        // The sender is ours, and lives.
        let _ = self.leaving.subscribe().wait_for(|leaving| !leaving.contains(id)).await;
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

/// None: the supervisor is gone.
async fn wait_for_exit(connection: &Connection) -> Option<i32> {
    loop {
        match connection.reply().await {
            Ok((Reply::Exited { status }, _)) => return Some(status),
            // Whatever else it says on this connection, it is not the end.
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}
