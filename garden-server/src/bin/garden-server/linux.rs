//! The Linux backend, with settings from the options.

use backend_linux::{Config, FirewallKind, HostIds, IoLimits, LimitPolicy, LinuxBackend, TcpSettings};

use crate::{
    backends::Chosen,
    options::{FirewallName, Options},
};

fn config(options: &Options) -> Result<Config, String> {
    let mut config = Config::default();
    config.tag.clone_from(&options.tag);
    config.depot.clone_from(&options.depot);
    config.store.clone_from(&options.store);
    config.default_rootfs.clone_from(&options.default_rootfs);
    config.max_containers = options.max_containers;
    config.prepared_containers = options.prepared_containers;
    config.disable_privileged_containers = options.disable_privileged_containers;
    config.hardening.no_new_privileges = options.no_new_privileges;
    config.hardening.clear_inheritable_capabilities = options.clear_inheritable_capabilities;
    config.hardening.apparmor_profile = options.apparmor.clone().filter(|profile| !profile.is_empty());
    config.destroy_containers_on_startup = options.destroy_containers_on_startup;
    config.cleanup_process_dirs_on_wait = options.cleanup_process_dirs_on_wait;
    config.output_buffer_total_bytes = options.output_buffer_total;
    config.ids.per_container = Some(options.ids_per_container).filter(|count| *count > 0);
    config.ids.users = HostIds { start: options.uid_map_start, length: options.uid_map_length };
    config.ids.groups = HostIds { start: options.gid_map_start, length: options.gid_map_length };
    config.die_at_record_write = options.die_at_record_write;
    config.device_rules = options
        .device_cgroup_rule
        .iter()
        .map(|rule| rule.parse().map_err(|error| format!("--device-cgroup-rule: {error}")))
        .collect::<Result<_, _>>()?;
    config.cpu_entitlement_per_share_percent = options.limits.cpu_entitlement_per_share;
    config.limit_policy = LimitPolicy {
        swap_is_free: options.limits.disable_swap_limit,
        cpu_quota_per_share_us: options.limits.cpu_quota_per_share,
        io: IoLimits {
            weight: options.limits.default_container_blockio_weight,
            read_bytes_per_second: options.limits.container_io_max_read_bps,
            write_bytes_per_second: options.limits.container_io_max_write_bps,
            reads_per_second: options.limits.container_io_max_read_iops,
            writes_per_second: options.limits.container_io_max_write_iops,
        },
    };
    let network = &mut config.network;
    network.pool = options
        .network_pool
        .parse()
        .map_err(|error| format!("--network-pool {}: {error}", options.network_pool))?;
    network.pool_ipv6 = match options.network_pool_ipv6.as_deref() {
        None | Some("") => None,
        Some(pool) => Some(pool.parse().map_err(|error| format!("--network-pool-ipv6 {pool}: {error}"))?),
    };
    network.external_ip = options.external_ip;
    network.port_pool_start = options.port_pool_start;
    network.port_pool_size = options.port_pool_size;
    network.mtu = options.mtu;
    network.allow_host_access = options.allow_host_access;
    network.denied = options
        .deny_network
        .iter()
        .map(|denied| denied.parse().map_err(|error| format!("--deny-network {denied}: {error}")))
        .collect::<Result<_, _>>()?;
    network.firewall = match options.firewall {
        FirewallName::Auto => FirewallKind::Auto,
        FirewallName::Nftables => FirewallKind::Nftables,
        FirewallName::Iptables => FirewallKind::Iptables,
    };
    network.cni.list.clone_from(&options.cni.cni_config);
    network.cni.plugin_dirs.clone_from(&options.cni.cni_plugin_dir);
    network.container_metrics = options.enable_container_network_metrics;
    network.dns.servers.clone_from(&options.dns.dns_server);
    network.dns.additional_servers.clone_from(&options.dns.additional_dns_server);
    network.dns.additional_hosts = options
        .dns
        .additional_host_entry
        .iter()
        .map(|entry| entry.parse().map_err(|error| format!("--additional-host-entry {entry:?}: {error}")))
        .collect::<Result<_, _>>()?;
    let given = |value: u16| Some(value).filter(|value| *value > 0);
    network.tcp = TcpSettings {
        keepalive_time: given(options.tcp.tcp_keepalive_time),
        keepalive_interval: given(options.tcp.tcp_keepalive_interval),
        keepalive_probes: given(options.tcp.tcp_keepalive_probes),
        retries1: given(options.tcp.tcp_retries1),
        retries2: given(options.tcp.tcp_retries2),
    };
    Ok(config)
}

/// An error with all its causes.
fn chain(error: &backend_linux::Error) -> String {
    protocol::Error::failed(error).to_string()
}

/// Starts it; finds again what an earlier server left.
pub(crate) async fn start(options: &Options, reason: String) -> Result<Chosen, String> {
    let backend = LinuxBackend::start(config(options)?).await.map_err(|error| chain(&error))?;
    Ok(Chosen { backend, name: "linux", reason })
}

/// Says what this host lacks.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    let lines = backend_linux::check(&config(options)?);
    for (ok, what) in &lines {
        println!("{} {what}", if *ok { "ok     " } else { "MISSING" });
    }
    match lines.iter().filter(|(ok, _)| !ok).count() {
        0 => Ok(()),
        missing => Err(format!("this host is not ready: {missing} of {} checks failed", lines.len())),
    }
}

/// Removes what a server with these options left.
pub(crate) async fn cleanup(options: &Options) -> Result<(), String> {
    backend_linux::cleanup(&config(options)?).await.map_err(|error| chain(&error))
}
