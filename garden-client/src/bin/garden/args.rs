//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use garden_client::protocol::{BindMount, NetIn, NetOutRule};

use crate::{
    rules::rule,
    values::{Place, bind_mount, bytes, duration, key_value, ports},
};

/// Talks to a Garden server: makes containers, puts files in them, runs processes in them.
///
/// Exit status: 0 on success; of `run` and `attach`, the process's own; 125 if garden itself failed, 130 if it was
/// interrupted, 141 if whoever read its output left.
#[derive(Debug, Parser)]
#[command(name = "garden", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// The server: unix:/path/of/the.sock or tcp:host:port. Default: /run/garden/garden.sock, else garden.sock in
    /// the user's runtime directory.
    #[arg(long, global = true, env = "GARDEN_TARGET", value_name = "ADDRESS", hide_env_values = true)]
    pub target: Option<String>,
    /// Print one JSON document instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask whether the server can serve.
    Ping,
    /// What the server's host has to offer.
    Capacity,
    /// Make a container and print its handle.
    Create(Box<Create>),
    /// Print the containers' handles.
    List {
        /// Only containers with this property; may be repeated.
        #[arg(short, long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
        properties: Vec<(String, String)>,
    },
    /// State, addresses, processes, ports and properties of a container.
    Info { handle: String },
    /// Resource usage of a container.
    Metrics { handle: String },
    /// Run a process. Ctrl-C sends it TERM, a second one KILL.
    Run(Run),
    /// Go on with a process that was started before. Ctrl-C leaves it running.
    Attach {
        handle: String,
        process_id: String,
        #[command(flatten)]
        streams: Streams,
    },
    /// End all processes of a container: TERM, and KILL after ten seconds.
    Stop {
        handle: String,
        /// KILL at once.
        #[arg(long)]
        kill: bool,
    },
    /// Copy a local directory's contents, or a file, into a container.
    StreamIn {
        /// A directory, a file, or - for a tar on standard input.
        #[arg(value_name = "LOCAL")]
        source: PathBuf,
        /// HANDLE:/path of the directory to put it in; a relative path begins at the user's home.
        destination: Place,
        /// Whose files they become [default: root].
        #[arg(long, default_value = "", hide_default_value = true)]
        user: String,
    },
    /// Copy files out of a container.
    StreamOut {
        /// HANDLE:/path of a file or a directory; with a slash at its end, of the directory's contents.
        source: Place,
        /// The directory to put it in, made if it is missing; or - for a tar on standard output.
        #[arg(value_name = "LOCAL")]
        destination: PathBuf,
        /// Who reads them [default: root].
        #[arg(long, default_value = "", hide_default_value = true)]
        user: String,
    },
    /// Map a port of the host to one of a container.
    NetIn {
        handle: String,
        /// HOST:CONTAINER; host 0: one from the server's pool; container 0: the same as the host's.
        #[arg(value_name = "HOST:CONTAINER", default_value = "0:0", value_parser = ports)]
        ports: NetIn,
    },
    /// Open ways out of a container, where a denied network is in the way; later rules win.
    NetOut {
        handle: String,
        /// PROTOCOL[,to=NETWORK][,ports=PORTS][,type=TYPE[/CODE]][,log], as in tcp,to=10.0.0.0/24,ports=443; the
        /// protocols are all, tcp, udp, icmp and icmpv6.
        #[arg(value_name = "RULE", value_parser = rule, required_unless_present = "replace")]
        rules: Vec<NetOutRule>,
        /// Instead of all rules that it has, at one moment; with no rule: of none.
        #[arg(long)]
        replace: bool,
    },
    /// Read or change a container's properties.
    #[command(subcommand)]
    Properties(Properties),
    /// Remove containers.
    Destroy {
        #[arg(required = true, value_name = "HANDLE")]
        handles: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// The container's name [default: the server chooses one].
    #[arg(default_value = "", hide_default_value = true)]
    pub handle: String,
    /// Root filesystem: a directory, raw:///dir or a tar [default: the server's].
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "image")]
    pub rootfs: String,
    /// Image that the root filesystem comes from, such as docker:///busybox or oci:///path.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub image: String,
    /// A property; may be repeated.
    #[arg(short, long = "property", value_name = "KEY=VALUE", value_parser = key_value)]
    pub properties: Vec<(String, String)>,
    /// A variable for all its processes; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Memory at most: bytes, or with a unit, as in 512M.
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "0", hide_default_value = true)]
    pub memory_limit: u64,
    /// Processes and threads at most.
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    pub pids: u64,
    /// A subnet or an address [default: the next free one].
    #[arg(long, default_value = "", hide_default_value = true)]
    pub network: String,
    /// A port to map; host 0: one from the server's pool. May be repeated.
    #[arg(long, value_name = "HOST:CONTAINER", value_parser = ports)]
    pub net_in: Vec<NetIn>,
    /// A way out to open, as `net-out` does; may be repeated.
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub net_out: Vec<NetOutRule>,
    /// Root in the container is root on the host.
    #[arg(long)]
    pub privileged: bool,
    /// How long it may live while nobody refers to it, as in 90s or 5m [default: the server's].
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0", hide_default_value = true)]
    pub grace_time: Duration,
    /// A directory of the host to show in it, read-only unless it ends in :rw; may be repeated.
    #[arg(long, value_name = "SOURCE:DESTINATION[:rw]", value_parser = bind_mount)]
    pub bind: Vec<BindMount>,
}

#[derive(Debug, Args)]
pub struct Streams {
    /// Forward standard input: any bytes, or text only to a server that has none but Garden's own streams.
    #[arg(short, long)]
    pub interactive: bool,
    /// The process has a terminal.
    #[arg(short, long)]
    pub tty: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    pub handle: String,
    #[command(flatten)]
    pub streams: Streams,
    /// Print the process's id and leave it running.
    #[arg(short, long, conflicts_with_all = ["interactive"])]
    pub detach: bool,
    /// The process's id [default: the server chooses one].
    #[arg(long, default_value = "", hide_default_value = true)]
    pub id: String,
    /// Name, uid, uid:gid or user:group [default: root].
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub user: String,
    /// Working directory [default: the user's home].
    #[arg(long, default_value = "", hide_default_value = true)]
    pub dir: String,
    /// A variable; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Properties {
    /// Print one property, or all of them.
    Get { handle: String, key: Option<String> },
    /// Set a property.
    Set { handle: String, key: String, value: String },
    /// Remove a property.
    Remove { handle: String, key: String },
}
