//! Answers as text for people.

use std::{fmt::Display, time::Duration};

use garden_client::protocol::{Capacity, ContainerInfo, Metrics, Properties};

use crate::report::printable;

/// Lines of names and values, the values aligned.
fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {}\n", printable(value))).collect()
}

pub fn capacity(capacity: &Capacity) -> String {
    table(&[
        ("memory", bytes(capacity.memory_in_bytes)),
        ("disk", bytes(capacity.disk_in_bytes)),
        ("schedulable disk", bytes(capacity.schedulable_disk_in_bytes)),
        ("containers at most", capacity.max_containers.to_string()),
    ])
}

pub fn info(info: &ContainerInfo) -> String {
    let ports = info.mapped_ports.iter().flatten();
    let ports = ports.map(|port| format!("{} -> {}", port.host_port, port.container_port));
    let rows = [
        ("state", info.state.clone()),
        ("container address", info.container_ip.clone()),
        ("container IPv6", info.container_ipv6.clone()),
        ("host address", info.host_ip.clone()),
        ("external address", info.external_ip.clone()),
        ("path", info.container_path.clone()),
        ("processes", join(info.process_ids.iter().flatten())),
        ("ports", join(ports)),
        ("events", join(info.events.iter().flatten())),
    ];
    let mut rows: Vec<_> = rows.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let properties = info.properties.iter().flatten();
    rows.extend(properties.map(|(key, value)| ("property", format!("{key}={value}"))));
    table(&rows)
}

pub fn metrics(metrics: &Metrics) -> String {
    let Metrics { memory, cpu, disk, network, pid, age, cpu_entitlement_ns } = metrics;
    let disk_use = |of_bytes, files| format!("{} in {files} files", bytes(of_bytes));
    let mut rows = vec![
        ("memory", bytes(memory.total_usage_toward_limit)),
        ("cpu time", nanoseconds(cpu.usage_ns)),
        ("cpu time, user", nanoseconds(cpu.user_ns)),
        ("cpu time, system", nanoseconds(cpu.system_ns)),
        ("cpu entitlement", nanoseconds(*cpu_entitlement_ns)),
        ("disk, with image", disk_use(disk.total_bytes_used, disk.total_inodes_used)),
        ("disk, its own", disk_use(disk.exclusive_bytes_used, disk.exclusive_inodes_used)),
        (
            "pids",
            match pid.max {
                0 => pid.current.to_string(),
                max => format!("{} of {max}", pid.current),
            },
        ),
    ];
    if let Some(network) = network {
        rows.push(("received", bytes(network.rx_bytes)));
        rows.push(("sent", bytes(network.tx_bytes)));
    }
    rows.push(("age", format!("{}s", age.as_secs())));
    table(&rows)
}

pub fn properties(properties: &Properties) -> String {
    properties.iter().map(|(key, value)| format!("{}={}\n", printable(key), printable(value))).collect()
}

/// Each on its line.
pub fn lines<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    items.into_iter().map(|item| printable(item) + "\n").collect()
}

fn join<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn nanoseconds(ns: u64) -> String {
    format!("{:.3}s", Duration::from_nanos(ns).as_secs_f64())
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        assert_eq!(
            [0, 1023, 1536, 1 << 30, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "1.0 GiB", "16777216.0 TiB"]
        );
    }

    #[test]
    fn a_server_cannot_steer_the_terminal() {
        let info = ContainerInfo { state: "a\x1b[2Jb\n".into(), ..ContainerInfo::default() };
        assert_eq!(super::info(&info), "state  a\u{fffd}[2Jb\u{fffd}\n");
    }
}
