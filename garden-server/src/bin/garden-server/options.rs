//! The options, by the names that gdn gives them.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{cni::Cni, dns::Dns, duration, limits::Limits, size, tcp::Tcp};

/// A container server: containers over HTTP, on a unix socket and, if asked, on TCP.
///
/// Every option is also a key of the configuration file and an environment variable; the command line wins over the
/// environment, which wins over the file.
#[derive(Debug, Parser)]
#[command(name = "garden-server", version, args_override_self = true, max_term_width = 100)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,

    /// A TOML file with options by their long names.
    #[arg(long, value_name = "FILE", env = "GARDEN_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// What makes the containers; auto: linux where the host allows it, else fake (in memory, runs nothing).
    #[arg(long, value_enum, default_value = "auto", env = "GARDEN_BACKEND", global = true)]
    pub(crate) backend: BackendName,

    /// The unix socket [default: /run/garden/garden.sock, else garden.sock in the user's runtime directory].
    #[arg(long, value_name = "PATH", env = "GARDEN_BIND_SOCKET", global = true, help_heading = "Server")]
    pub(crate) bind_socket: Option<PathBuf>,
    /// The unix socket's mode, octal: who may write to it is root on this host.
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = octal_mode, env = "GARDEN_SOCKET_MODE",
          global = true, help_heading = "Server")]
    pub(crate) socket_mode: u32,
    /// The unix socket's group: a number, or a name from /etc/group.
    #[arg(long, value_name = "GROUP", env = "GARDEN_SOCKET_GROUP", global = true, help_heading = "Server")]
    pub(crate) socket_group: Option<String>,
    /// Listen on TCP at this address too.
    #[arg(long, value_name = "IP", env = "GARDEN_BIND_IP", global = true, help_heading = "Server")]
    pub(crate) bind_ip: Option<IpAddr>,
    /// The TCP port of --bind-ip; 0: any free one.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 7777,
        env = "GARDEN_BIND_PORT",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) bind_port: u16,
    /// Listen on a TCP address that is not loopback, without TLS: everybody who reaches it is root on this host.
    #[arg(long, env = "GARDEN_INSECURE_TCP", global = true, help_heading = "Server")]
    pub(crate) insecure_tcp: bool,
    /// A name by which clients may call this server over TCP, besides addresses and localhost (repeatable).
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "GARDEN_ALLOWED_HOST",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) allowed_host: Vec<String>,
    /// Serve /metrics and /debug/vars at this address [default: off].
    #[arg(long, value_name = "IP", env = "GARDEN_DEBUG_BIND_IP", global = true, help_heading = "Server")]
    pub(crate) debug_bind_ip: Option<IpAddr>,
    /// The port of --debug-bind-ip.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 17013,
        env = "GARDEN_DEBUG_BIND_PORT",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) debug_bind_port: u16,
    /// How long a connection may be idle, or take to send a request's head.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration::parse,
          env = "GARDEN_READ_HEADER_TIMEOUT", global = true, help_heading = "Server")]
    pub(crate) read_header_timeout: Duration,
    /// Two letters or digits that set this server apart from others on the host.
    #[arg(long, value_name = "TAG", default_value = "", value_parser = tag, env = "GARDEN_TAG", global = true,
          help_heading = "Server", hide_default_value = true)]
    pub(crate) tag: String,
    /// How much to log.
    #[arg(
        long,
        value_enum,
        default_value = "info",
        env = "GARDEN_LOG_LEVEL",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) log_level: LogLevel,
    /// How to log.
    #[arg(
        long,
        value_enum,
        default_value = "text",
        env = "GARDEN_LOG_FORMAT",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) log_format: LogFormat,

    /// Records and sockets of the containers, on a file system that a reboot clears.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/garden/depot",
        env = "GARDEN_DEPOT",
        global = true,
        help_heading = "Lifecycle"
    )]
    pub(crate) depot: PathBuf,
    /// Root filesystem of containers that name none, as a URI [default: one packed from the host's busybox].
    #[arg(
        long,
        value_name = "URI",
        default_value = "",
        env = "GARDEN_DEFAULT_ROOTFS",
        global = true,
        help_heading = "Lifecycle",
        hide_default_value = true
    )]
    pub(crate) default_rootfs: String,
    /// How long a container may live that nobody refers to, where its spec does not say; 0: for ever.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration::parse,
          env = "GARDEN_DEFAULT_GRACE_TIME", global = true, help_heading = "Lifecycle")]
    pub(crate) default_grace_time: Duration,
    /// Destroy what an earlier server left instead of going on with it.
    #[arg(long, env = "GARDEN_DESTROY_CONTAINERS_ON_STARTUP", global = true, help_heading = "Lifecycle")]
    pub(crate) destroy_containers_on_startup: bool,
    /// Refuse privileged containers.
    #[arg(long, env = "GARDEN_DISABLE_PRIVILEGED_CONTAINERS", global = true, help_heading = "Lifecycle")]
    pub(crate) disable_privileged_containers: bool,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Devices that unprivileged containers may use besides those that all may, as in "c 10:229 rwm" (repeatable).
    #[arg(
        long,
        value_name = "RULE",
        value_delimiter = ',',
        env = "GARDEN_DEVICE_CGROUP_RULE",
        global = true,
        help_heading = "Lifecycle"
    )]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// AppArmor profile of unprivileged containers' processes, which must be loaded; none where the kernel has no AppArmor.
    #[arg(long, value_name = "PROFILE", env = "GARDEN_APPARMOR", global = true, help_heading = "Lifecycle")]
    pub(crate) apparmor: Option<String>,
    /// Setuid programs raise nobody in unprivileged containers.
    #[arg(long, env = "GARDEN_NO_NEW_PRIVILEGES", global = true, help_heading = "Lifecycle")]
    pub(crate) no_new_privileges: bool,
    /// No inheritable capabilities in unprivileged containers, so that no program of an image raises a user by its
    /// file capabilities (CVE-2022-24769); clients of Garden may look for them.
    #[arg(long, env = "GARDEN_CLEAR_INHERITABLE_CAPABILITIES", global = true, help_heading = "Lifecycle")]
    pub(crate) clear_inheritable_capabilities: bool,
    /// Forget an ended process, whose id is free then, once its exit status was told; else it is known until destroy.
    #[arg(long, env = "GARDEN_CLEANUP_PROCESS_DIRS_ON_WAIT", global = true, help_heading = "Lifecycle")]
    pub(crate) cleanup_process_dirs_on_wait: bool,
    /// Containers at most; 0: as many as the address pool bears.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "GARDEN_MAX_CONTAINERS",
        global = true,
        help_heading = "Lifecycle"
    )]
    pub(crate) max_containers: u64,

    /// Supervisors that wait with namespaces and a network for a container to come. Each takes a subnet of the pool and
    /// about a quarter of a megabyte; none are needed, but a create then takes a third longer.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = few,
          env = "GARDEN_PREPARED_CONTAINERS", global = true, help_heading = "Lifecycle")]
    pub(crate) prepared_containers: usize,
    /// How many ids each unprivileged container has to itself, 65536 being usual; 0: all share one mapping.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "GARDEN_IDS_PER_CONTAINER",
        global = true,
        help_heading = "Lifecycle"
    )]
    pub(crate) ids_per_container: u32,
    /// The first user id of the host that containers may have [default: 1; with --ids-per-container 1879048192].
    #[arg(long, value_name = "ID", env = "GARDEN_UID_MAP_START", global = true, help_heading = "Lifecycle")]
    pub(crate) uid_map_start: Option<u32>,
    /// How many user ids of the host containers may have; 0: all, with --ids-per-container 268304384.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "GARDEN_UID_MAP_LENGTH",
        global = true,
        help_heading = "Lifecycle"
    )]
    pub(crate) uid_map_length: u32,
    /// The first group id of the host that containers may have [default: 1; with --ids-per-container 1879048192].
    #[arg(long, value_name = "ID", env = "GARDEN_GID_MAP_START", global = true, help_heading = "Lifecycle")]
    pub(crate) gid_map_start: Option<u32>,
    /// How many group ids of the host containers may have; 0: all, with --ids-per-container 268304384.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        env = "GARDEN_GID_MAP_LENGTH",
        global = true,
        help_heading = "Lifecycle"
    )]
    pub(crate) gid_map_length: u32,

    /// How much output of processes is kept in memory, all together, for readers to come [bytes, or with K, M or G].
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::parse,
          env = "GARDEN_OUTPUT_BUFFER_TOTAL", global = true, help_heading = "Lifecycle")]
    pub(crate) output_buffer_total: u64,

    /// Layers, write layers, volumes and their records.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/var/lib/garden",
        env = "GARDEN_STORE",
        global = true,
        help_heading = "Image"
    )]
    pub(crate) store: PathBuf,

    /// Where the containers' /30 subnets come from.
    #[arg(
        long,
        value_name = "CIDR",
        default_value = "10.254.0.0/22",
        env = "GARDEN_NETWORK_POOL",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) network_pool: String,
    /// Where the containers' IPv6 subnets, each a /126, come from [default: containers have no IPv6].
    #[arg(
        long,
        value_name = "CIDR",
        env = "GARDEN_NETWORK_POOL_IPV6",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) network_pool_ipv6: Option<String>,
    /// Containers may reach the host.
    #[arg(long, env = "GARDEN_ALLOW_HOST_ACCESS", global = true, help_heading = "Network")]
    pub(crate) allow_host_access: bool,
    /// A network, IPv4 or IPv6, where containers must not go unless an outbound rule of theirs lets them; repeatable.
    #[arg(
        long,
        value_name = "CIDR",
        env = "GARDEN_DENY_NETWORK",
        value_delimiter = ',',
        global = true,
        help_heading = "Network"
    )]
    pub(crate) deny_network: Vec<String>,
    /// What filters packets and translates addresses; auto: nftables where the kernel has it, else iptables.
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "GARDEN_FIREWALL",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) firewall: FirewallName,
    /// The host's address as others see it [default: the one that its default route leaves from].
    #[arg(long, value_name = "IP", env = "GARDEN_EXTERNAL_IP", global = true, help_heading = "Network")]
    pub(crate) external_ip: Option<IpAddr>,
    /// First host port that may be given out.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 61001,
        env = "GARDEN_PORT_POOL_START",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) port_pool_start: u16,
    /// How many host ports may be given out.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4534,
        env = "GARDEN_PORT_POOL_SIZE",
        global = true,
        help_heading = "Network"
    )]
    pub(crate) port_pool_size: u16,
    /// MTU of the containers' links [default: that of the egress interface, 1500 at most].
    #[arg(long, value_name = "BYTES", env = "GARDEN_MTU", global = true, help_heading = "Network")]
    pub(crate) mtu: Option<u32>,
    /// Metrics tell what a container has received and sent.
    #[arg(long, env = "GARDEN_ENABLE_CONTAINER_NETWORK_METRICS", global = true, help_heading = "Network")]
    pub(crate) enable_container_network_metrics: bool,
    #[command(flatten)]
    pub(crate) dns: Dns,
    #[command(flatten)]
    pub(crate) tcp: Tcp,
    #[command(flatten)]
    pub(crate) cni: Cni,

    /// For tests of recovery.
    #[arg(long, value_name = "N", hide = true, global = true)]
    pub(crate) die_at_record_write: Option<u64>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum Action {
    /// Is this host ready?
    Check,
    /// Remove every container and everything else of this server's from the host.
    Cleanup,
    /// Print the options in force, as a configuration file.
    Config,
}

/// What makes the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub(crate) enum BackendName {
    Linux,
    Fake,
    Auto,
}

/// What filters packets and translates addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FirewallName {
    Auto,
    Nftables,
    Iptables,
}

/// How much to log; `fatal` is gdn's name for less than errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl LogLevel {
    pub(crate) fn to_tracing(self) -> tracing::Level {
        match self {
            LogLevel::Trace => tracing::Level::TRACE,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Error | LogLevel::Fatal => tracing::Level::ERROR,
        }
    }
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

fn few(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number <= 256).ok_or_else(|| "a number from 0 to 256".to_owned())
}

fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("a mode is octal, 0777 at most, such as 0660".to_owned()),
    }
}

fn tag(text: &str) -> Result<String, String> {
    let is_tag = text.is_empty() || text.len() <= 2 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_tag { Ok(text.to_owned()) } else { Err("a tag is one or two ASCII letters or digits".to_owned()) }
}
