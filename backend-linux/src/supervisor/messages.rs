//! The messages, version 1.

use std::path::PathBuf;

use protocol::ResourceLimits;
use serde::{Deserialize, Serialize};

pub use crate::{
    cgroup::{CgroupEntry, CgroupView},
    config::{Hardening, TcpSettings},
    defence::{Defence, Defences},
    ids::{IdMaps, IdRange, id_map_lines, ids_inside},
};

/// How much room a supervisor's argument has for its container's name.
pub const NAME_BYTES: usize = protocol::HANDLE_MAX_BYTES;

/// What the server asks of a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make a copy of the supervisor, for a connection that comes with this. Answered on that one, by `Copied`, with a
    /// pidfd of the copy. Only of the first one, which the server executes: it has no container, and does nothing else.
    Copy,
    /// Make what a container needs that depends on no more than this, so that it can be made before anybody asks for
    /// the container. Answered by `Namespaces`, with two descriptors: its network namespace, and a route netlink socket
    /// opened in it.
    Prepare(PrepareRequest),
    /// Make the container of what was prepared. With it comes a listening socket, at which the supervisor is found from
    /// then on, unless it came with `Prepare`. Answered by `Started`.
    Start(Box<StartRequest>),
    /// Hand over the network namespace, where `Prepare` has said whose it is. Answered by `Network`, with a descriptor.
    Network,
    /// Start a process. Answered by `Running` with the descriptors of [`OutputFds`], later by `Exited`.
    Run(Box<RunRequest>),
    /// Start a process that has something of its own which others share with the container. Answered as `Run` is. A
    /// request by itself, as a supervisor from before refuses it: of a `Run` it would leave out what it does not know.
    RunApart(Box<ApartRequest>),
    /// Join a process. Answered as `Run` is; without descriptors if its output was discarded.
    Attach {
        /// Its id.
        id: String,
    },
    /// Send a signal to a process. Answered by `Done`, also if it has ended.
    Signal {
        /// Its id.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// Set the size of a process's terminal. Answered by `Done`.
    Resize {
        /// Its id.
        id: String,
        /// The size.
        terminal: Terminal,
    },
    /// Close the supervisor's own end of a process's standard input. Answered by `Done`.
    CloseStdin {
        /// Its id.
        id: String,
    },
    /// Let go of the output of a process that has ended. Answered by `Done`.
    DiscardOutput {
        /// Its id.
        id: String,
    },
    /// Forget a process that has ended, its status and its output. Its id is free then.
    Forget {
        /// Its id.
        id: String,
    },
    /// Send a signal to every process in the container but its init. Answered by `Done` when none is left, and by
    /// `Failed` if some still are after the wait.
    SignalAll {
        /// The signal's number.
        signal: i32,
        /// How long to wait, in milliseconds.
        wait_ms: u64,
    },
    /// List the processes. Answered by `Processes`.
    List,
    /// Unpack a tar, read from the descriptor that comes with this. Answered by `Done` or `Failed`.
    StreamIn {
        /// Whose files these become.
        user: String,
        /// Where to.
        path: String,
    },
    /// Write a tar to the descriptor that comes with this. Answered by `Done` or `Failed`.
    StreamOut {
        /// Whose view it is.
        user: String,
        /// What of.
        path: String,
    },
    /// Send the container's network namespace, and a route netlink socket opened in it, in one packet to the socket that
    /// comes with this. Answered by `Done` or `Failed`.
    OpenNetwork,
    /// End everything. Answered by `Done` when every process of the container is gone and reaped; the supervisor
    /// then exits.
    Shutdown,
}

/// What a supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The connection has a supervisor.
    Copied,
    /// Namespaces exist: the network can be made.
    Namespaces,
    /// The network namespace.
    Network,
    /// The container exists.
    Started,
    /// The process exists.
    Running,
    /// The process has ended and its output is complete.
    Exited {
        /// As a shell gives it.
        status: i32,
    },
    /// It is done.
    Done,
    /// All processes that were started and not forgotten.
    Processes {
        /// In no particular order.
        processes: Vec<ProcessState>,
    },
    /// It could not be done.
    Failed(Failure),
}

/// Why something could not be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
}

/// The failures that a server tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// There is no such program in the container.
    ExecutableNotFound,
    /// There is no such process.
    ProcessNotFound,
    /// The container's pid 1 is gone, and everything in it.
    NotRunning,
    /// Anything else, and what later versions tell apart.
    #[serde(other)]
    Other,
}

impl Failure {
    /// A failure of no particular kind.
    pub fn other(message: impl Into<String>) -> Failure {
        Failure { kind: FailureKind::Other, message: message.into() }
    }
}

/// One process of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Its id.
    pub id: String,
    /// Its exit status, if it has ended.
    pub exit_status: Option<i32>,
}

/// What to prepare for a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct PrepareRequest {
    /// How ids inside map to ids outside; none: privileged, no user namespace.
    pub id_map: Option<Vec<IdRange>>,
    /// The same of groups, where it differs from that of users.
    #[serde(default)]
    pub gid_map: Option<Vec<IdRange>>,
    /// Files that the supervisor writes `0` to, and so enters cgroups with all that it will start.
    #[serde(default)]
    pub cgroup_tasks: Vec<PathBuf>,
    /// Of its network namespace.
    #[serde(default)]
    pub tcp: TcpSettings,
    /// The name of the container that this is for, if there is one already: then a listening socket comes with this, at
    /// which the supervisor is found from then on, and it keeps the network namespace for whoever asks for it.
    #[serde(default)]
    pub handle: Option<String>,
}

impl PrepareRequest {
    /// With these ids, in these cgroups.
    pub fn new(ids: Option<&IdMaps>, cgroup_tasks: Vec<PathBuf>, tcp: TcpSettings) -> PrepareRequest {
        let (id_map, gid_map) = ids.map(|ids| (ids.users.clone(), ids.groups.clone())).unzip();
        PrepareRequest { id_map, gid_map, cgroup_tasks, tcp, handle: None }
    }

    /// The ids; none: privileged.
    pub fn id_maps(&self) -> Option<IdMaps> {
        let users = self.id_map.clone()?;
        let groups = self.gid_map.clone().unwrap_or_else(|| users.clone());
        Some(IdMaps { users, groups })
    }
}

/// How to make the container.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartRequest {
    /// The container's name, for whoever looks at the list of processes.
    pub handle: String,
    /// Its host name.
    pub hostname: String,
    /// An empty directory, where the root is mounted for a moment while it is made, in a mount namespace of its own.
    pub mount_point: PathBuf,
    /// Its root filesystem.
    pub rootfs: Rootfs,
    /// Whether files of the host are shown with the container's ids: root inside is what root of the host is there.
    #[serde(default)]
    pub idmapped_binds: bool,
    /// What the server makes for it.
    #[serde(default)]
    pub own_files: Vec<OwnFile>,
    /// What of the host to show inside, also over those files.
    pub binds: Vec<Bind>,
    /// Where the container's init belongs.
    pub init_cgroup: CgroupEntry,
    /// Where its processes belong.
    pub main_cgroup: CgroupEntry,
    /// What it sees of cgroup v1.
    #[serde(default)]
    pub cgroup_views: Vec<CgroupView>,
    /// How many descriptors a process may have open unless its own limits say otherwise: what the server was started
    /// with. None: what the supervisor was started with.
    #[serde(default)]
    pub open_files: Option<u64>,
    /// What its processes are kept from besides, unless it is privileged.
    #[serde(default)]
    pub hardening: Hardening,
    /// What keeps its processes from the host.
    #[serde(default)]
    pub defences: Defences,
}

/// Where a root filesystem comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Rootfs {
    /// A read-only image below a write layer.
    Overlay {
        /// The image.
        lower: PathBuf,
        /// The write layer.
        upper: PathBuf,
        /// Overlay's scratch space, on the same file system.
        work: PathBuf,
    },
}

/// A directory or file to show in the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// What.
    pub source: PathBuf,
    /// Where; made if missing.
    pub target: PathBuf,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// Whether `source` is a path in the container.
    pub from_container: bool,
}

/// A file that the server makes for the container, owned by its root. It is shown from a small file system of the
/// container's own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnFile {
    /// Where; made if missing.
    pub target: PathBuf,
    /// What is in it.
    pub text: String,
}

/// The process to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunRequest {
    /// Its id.
    pub id: String,
    /// The program.
    pub path: String,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Its environment, but for what depends on the user.
    pub env: Vec<String>,
    /// Its working directory; empty: the user's home.
    pub dir: String,
    /// Name, `uid`, `uid:gid`, `user:group`; empty: root.
    pub user: String,
    /// Its limits.
    pub rlimits: ResourceLimits,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
}

/// The process to start, with what it has of its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ApartRequest {
    /// The process.
    pub process: RunRequest,
    /// Where it belongs; none: with the container's processes.
    pub cgroup: Option<CgroupEntry>,
    /// Its root filesystem; none: the container's.
    pub root: Option<OwnRoot>,
}

/// A root filesystem for one process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnRoot {
    /// An empty directory, where it is mounted for a moment while it is made.
    pub mount_point: PathBuf,
    /// Where it comes from.
    pub rootfs: Rootfs,
    /// What of the host, or of the container, to show in it.
    pub binds: Vec<Bind>,
}

impl From<RunRequest> for ApartRequest {
    fn from(process: RunRequest) -> Self {
        ApartRequest { process, cgroup: None, root: None }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Terminal {
    pub columns: u16,
    pub rows: u16,
}

/// The descriptors that come with `Running`, in this order.
#[derive(Debug)]
pub struct OutputFds<Fd> {
    /// The ring of standard output.
    pub stdout: Fd,
    /// The ring of standard error.
    pub stderr: Fd,
    /// An eventfd that becomes readable when there is something new in a ring, or no room.
    pub news: Fd,
    /// An eventfd for the server to write to when there is room again, or less of it.
    pub room: Fd,
    /// Standard input, while it is open.
    pub stdin: Option<Fd>,
}

impl<Fd> OutputFds<Fd> {
    /// In the order in which they are sent.
    pub fn into_vec(self) -> Vec<Fd> {
        [self.stdout, self.stderr, self.news, self.room].into_iter().chain(self.stdin).collect()
    }

    /// From the order in which they are sent; none if there are not enough.
    pub fn from_vec(fds: Vec<Fd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next();
        let (stdout, stderr, news, room) = (next()?, next()?, next()?, next()?);
        Some(OutputFds { stdout, stderr, news, room, stdin: next() })
    }
}
