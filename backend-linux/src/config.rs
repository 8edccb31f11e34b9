//! What an operator can choose about the Linux backend.

use std::{net::IpAddr, path::PathBuf};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::{DeviceRule, LimitPolicy},
    defence::Defences,
    dns::DnsConfig,
    ids::IdConfig,
    process::Retention,
};

/// Settings of a [`LinuxBackend`](crate::LinuxBackend); [`Config::default`] is what FLAGS in the README states.
#[derive(Debug, Clone)]
pub struct Config {
    /// Two letters or digits that set this server's links, firewall table and cgroups apart from those of another
    /// server on the same host; empty: no tag.
    pub tag: String,
    /// Records and sockets of the containers, on a file system that a reboot clears.
    pub depot: PathBuf,
    /// Images and write layers.
    pub store: PathBuf,
    /// The supervisor's binary; none: `garden-init` beside the running executable.
    pub init_binary: Option<PathBuf>,
    /// Root filesystem of containers that name none (a URI as in a spec); empty: one packed from the host's busybox.
    pub default_rootfs: String,
    /// Containers at most; 0: as many as the address pool bears.
    pub max_containers: u64,
    /// How many supervisors wait with namespaces and a network for a container to come.
    pub prepared_containers: usize,
    /// Refuse privileged containers.
    pub disable_privileged_containers: bool,
    /// Destroy what an earlier server left instead of adopting it.
    pub destroy_containers_on_startup: bool,
    /// Forget an ended process, whose id is free then, once somebody has been told its exit status; else at destroy.
    pub cleanup_process_dirs_on_wait: bool,
    /// How much output of processes is kept in memory, all together, until a minute after their end.
    pub output_buffer_total_bytes: u64,
    /// Whose ids the containers' users and groups have on the host.
    pub ids: IdConfig,
    /// Per cent of one CPU that each share of a container entitles it to; none: from the host's CPUs and memory.
    pub cpu_entitlement_per_share_percent: Option<f64>,
    /// Devices that unprivileged containers may use besides those that all may.
    pub device_rules: Vec<DeviceRule>,
    /// How the limits of all containers are meant.
    pub limit_policy: LimitPolicy,
    /// Addresses, ports and rules.
    pub network: NetworkConfig,
    /// What processes of unprivileged containers are kept from besides.
    pub hardening: Hardening,
    /// What keeps containers from the host.
    pub defences: Defences,
    /// For tests of recovery: the server kills itself with SIGKILL at this write of a container's record. Odd numbers
    /// 2n-1 die before the n-th record is in place, even ones 2n just after.
    pub die_at_record_write: Option<u64>,
}

/// What an operator may take from the processes of unprivileged containers beyond what none of them has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardening {
    /// Programs that are setuid, setgid or have file capabilities do not raise whoever executes them.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// The inheritable capability set is empty, so that no file capability of an image raises a user other than root
    /// (CVE-2022-24769). Clients of Garden may look for the set, which is therefore there by default.
    #[serde(default)]
    pub clear_inheritable_capabilities: bool,
    /// The AppArmor profile that processes are under, where the kernel has AppArmor; none: no profile of their own.
    #[serde(default)]
    pub apparmor_profile: Option<String>,
}

/// Settings of the containers' network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where the containers' /30 subnets come from.
    pub pool: Ipv4Network,
    /// Where the containers' IPv6 subnets, each a /126, come from; none: containers have no IPv6.
    pub pool_ipv6: Option<Ipv6Network>,
    /// The host's address as others see it; none: the one that its default route leaves from.
    pub external_ip: Option<IpAddr>,
    /// First host port that may be given out.
    pub port_pool_start: u16,
    /// How many host ports may be given out.
    pub port_pool_size: u16,
    /// MTU of the containers' links; none: that of the egress interface, 1500 at most.
    pub mtu: Option<u32>,
    /// Whether containers may reach the host.
    pub allow_host_access: bool,
    /// Where containers must not go, unless a rule of theirs lets them.
    pub denied: Vec<IpNetwork>,
    /// Whether metrics tell what the containers' links have carried.
    pub container_metrics: bool,
    /// What filters packets and translates addresses.
    pub firewall: FirewallKind,
    /// Name servers and hosts that containers know.
    pub dns: DnsConfig,
    /// How patient the containers' TCP is.
    pub tcp: TcpSettings,
    /// Plug-ins instead of the server's own network.
    pub cni: CniConfig,
}

/// Networks that CNI plug-ins make.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// A network configuration list (`.conflist`) that names the plug-ins; none: the server makes the network itself.
    pub list: Option<PathBuf>,
    /// Where the plug-ins are, the first place first.
    pub plugin_dirs: Vec<PathBuf>,
}

impl Default for CniConfig {
    fn default() -> Self {
        CniConfig { list: None, plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()] }
    }
}

/// How patient TCP is in each container: sysctls of its network namespace. None: the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSettings {
    /// Seconds until an idle connection is probed, 1 to 32767.
    pub keepalive_time: Option<u16>,
    /// Seconds between probes, 1 to 32767.
    pub keepalive_interval: Option<u16>,
    /// Unanswered probes after which a connection is lost, 1 to 127.
    pub keepalive_probes: Option<u16>,
    /// Retransmissions after which another route is looked for, 1 to 255.
    pub retries1: Option<u16>,
    /// Retransmissions after which a connection is lost, 1 to 255.
    pub retries2: Option<u16>,
}

impl TcpSettings {
    /// The files below `/proc/sys/net/ipv4` that are not as the kernel has them, and what is in each.
    pub fn sysctls(&self) -> impl Iterator<Item = (&'static str, u16)> {
        let all = [
            ("tcp_keepalive_time", self.keepalive_time),
            ("tcp_keepalive_intvl", self.keepalive_interval),
            ("tcp_keepalive_probes", self.keepalive_probes),
            ("tcp_retries1", self.retries1),
            ("tcp_retries2", self.retries2),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// What filters packets and translates addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FirewallKind {
    /// nftables where the kernel has it, else iptables.
    #[default]
    Auto,
    /// The kernel's nftables, without any program.
    Nftables,
    /// The programs of iptables.
    Iptables,
}

impl FirewallKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FirewallKind::Auto => "auto",
            FirewallKind::Nftables => "nftables",
            FirewallKind::Iptables => "iptables",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            tag: String::new(),
            depot: "/run/garden/depot".into(),
            store: "/var/lib/garden".into(),
            init_binary: None,
            default_rootfs: String::new(),
            max_containers: 0,
            prepared_containers: 8,
            disable_privileged_containers: false,
            destroy_containers_on_startup: false,
            cleanup_process_dirs_on_wait: false,
            output_buffer_total_bytes: 1 << 30,
            ids: IdConfig::default(),
            cpu_entitlement_per_share_percent: None,
            device_rules: Vec::new(),
            limit_policy: LimitPolicy::default(),
            network: NetworkConfig::default(),
            hardening: Hardening::default(),
            defences: Defences::default(),
            die_at_record_write: None,
        }
    }
}

impl Config {
    pub(crate) fn retention(&self) -> Retention {
        match self.cleanup_process_dirs_on_wait {
            true => Retention::UntilTold,
            false => Retention::UntilDestroy,
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            // Cannot fail: the prefix is a constant below 33.
            pool: Ipv4Network::new_checked(std::net::Ipv4Addr::new(10, 254, 0, 0), 22)
                .unwrap_or_else(|| Ipv4Network::from(std::net::Ipv4Addr::UNSPECIFIED)),
            pool_ipv6: None,
            external_ip: None,
            port_pool_start: 61001,
            port_pool_size: 4534,
            mtu: None,
            allow_host_access: false,
            denied: Vec::new(),
            container_metrics: false,
            firewall: FirewallKind::Auto,
            dns: DnsConfig::default(),
            tcp: TcpSettings::default(),
            cni: CniConfig::default(),
        }
    }
}
