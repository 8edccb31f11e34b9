//! Processes: what to run, and the messages on the stream that carries one.

use serde::{Deserialize, Serialize};

use crate::{BindMount, CpuLimits, ImageRef, MemoryLimits, container::is_default};

/// The process that `POST /containers/:handle/processes` starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessSpec {
    /// Its id; empty: generated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The program; looked up in PATH inside the container unless it contains a slash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Arguments, without the program's name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `NAME=value`; wins over the container's and the image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Working directory; empty: the user's home.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dir: String,
    /// Name, `uid`, `uid:gid` or `user:group`; empty: root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Limits as in `getrlimit(2)`.
    pub rlimits: ResourceLimits,
    /// None: counts against the container's limits; else its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ProcessLimits>,
    /// A terminal, if it is to have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySpec>,
    /// A root filesystem of its own.
    pub image: ImageRef,
    /// Mounts of its own; only together with `image`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind_mounts: Vec<BindMount>,
}

impl ProcessSpec {
    /// A process as root, without a terminal, that runs `path` with `args`.
    pub fn new<A: Into<String>>(path: impl Into<String>, args: impl IntoIterator<Item = A>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        ProcessSpec { path: path.into(), args, ..ProcessSpec::default() }
    }
}

/// Limits of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessLimits {
    /// CPU time.
    #[serde(rename = "cpu_limits")]
    pub cpu: CpuLimits,
    /// Memory.
    #[serde(rename = "memory_limits")]
    pub memory: MemoryLimits,
}

/// Limits as in `getrlimit(2)`, soft and hard alike; `None` is left alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ResourceLimits {
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub address_space: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsize: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memlock: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msgqueue: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nproc: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtprio: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigpending: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<u64>,
}

/// A process's terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TtySpec {
    /// Its size; none: 80 columns, 24 rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_size: Option<WindowSize>,
}

/// The size of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WindowSize {
    /// Width.
    #[serde(skip_serializing_if = "is_default")]
    pub columns: u16,
    /// Height.
    #[serde(skip_serializing_if = "is_default")]
    pub rows: u16,
}

impl TtySpec {
    /// The size in force: the one given, 80x24 for what is missing.
    pub fn size(&self) -> WindowSize {
        let given = self.window_size.unwrap_or_default();
        let or = |value, default| if value == 0 { default } else { value };
        WindowSize { columns: or(given.columns, 80), rows: or(given.rows, 24) }
    }
}

/// The signals that the protocol knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum Signal {
    /// SIGTERM.
    Terminate = 0,
    /// SIGKILL.
    Kill = 1,
}

impl Signal {
    /// The signal of that number on the wire.
    pub fn from_wire(number: i64) -> Option<Signal> {
        match number {
            0 => Some(Signal::Terminate),
            1 => Some(Signal::Kill),
            _ => None,
        }
    }
}

/// One message on a hijacked process stream, in either direction.
///
/// From the server: first `process_id` with `stream_id`, last `process_id` with `exit_status` or `error`. From the
/// client: `source` (whatever its value) with `data` is standard input, without `data` its end; `signal`; `tty`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProcessPayload {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub process_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
}

/// Whose files, and where, for streaming in and out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesQuery {
    /// As for [`ProcessSpec::user`].
    pub user: String,
    /// Relative to the user's home.
    pub path: String,
}
