//! The container's `/etc/hosts` and `/etc/resolv.conf`.

use std::net::IpAddr;

use crate::{dns::DnsConfig, network::Dns, supervisor::OwnFile};

/// The last 49 characters of the handle.
pub fn hostname(handle: &str) -> String {
    let characters = handle.chars().count();
    let name: String = handle.chars().skip(characters.saturating_sub(49)).collect();
    // The kernel takes 64 bytes.
    let cut = name.char_indices().map(|(at, _)| at).find(|at| name.len() - at <= 64);
    name[cut.unwrap_or(0)..].to_owned()
}

/// Both files, for a container with these addresses, of whose names its network's plug-ins may have told.
pub fn files(handle: &str, addresses: &[IpAddr], told: Dns, dns: &DnsConfig) -> Vec<OwnFile> {
    let file = |target: &str, text| OwnFile { target: target.into(), text };
    let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    vec![
        file("/etc/hosts", hosts(handle, addresses, dns)),
        file("/etc/resolv.conf", resolv_conf(dns, told, has_ipv6)),
    ]
}

/// The operator's word, or what the network's plug-ins say, or the host's.
fn resolv_conf(dns: &DnsConfig, told: Dns, has_ipv6: bool) -> String {
    let mut dns = dns.clone();
    if dns.servers.is_empty() {
        dns.servers = told.name_servers;
    }
    let line = |keyword: &str, words: &[String]| match words {
        [] => String::new(),
        words => format!("{keyword} {}\n", words.join(" ")),
    };
    // A later line of search takes the place of an earlier one.
    dns.resolv_conf(has_ipv6) + &line("search", &told.search) + &line("options", &told.options)
}

/// The container itself, and whom the operator has named.
fn hosts(handle: &str, addresses: &[IpAddr], dns: &DnsConfig) -> String {
    let hostname = hostname(handle);
    let own = addresses.iter().map(|address| format!("{address} {hostname}\n"));
    let others = dns.additional_hosts.iter().map(|entry| format!("{entry}\n"));
    std::iter::once("127.0.0.1 localhost\n".to_owned()).chain(own).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hostname_is_the_end_of_the_handle() {
        assert_eq!(hostname("short"), "short");
        assert_eq!(hostname(&("x".to_owned() + &"y".repeat(49))), "y".repeat(49));
        assert!(hostname(&"ä".repeat(60)).len() <= 64);
    }
    #[test]
    fn the_container_and_whom_the_operator_has_named_are_known() {
        let dns = DnsConfig {
            additional_hosts: vec!["10.0.0.7 db.internal db".parse().unwrap()],
            servers: vec!["10.0.0.2".parse().unwrap()],
            resolv_conf: "/nowhere/resolv.conf".into(),
            ..DnsConfig::default()
        };
        let addresses = ["10.254.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let files = files("one", &addresses, Dns::default(), &dns);
        let texts: Vec<String> = files.into_iter().map(|file| file.text).collect();
        let hosts = "127.0.0.1 localhost\n10.254.0.2 one\nfd00::2 one\n10.0.0.7 db.internal db\n";
        assert_eq!(texts, [hosts, "nameserver 10.0.0.2\n"]);
    }

    #[test]
    fn what_plugins_say_of_names_stands_in_for_the_host_and_not_for_the_operator() {
        let host = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(host.path(), "search host\nnameserver 10.0.0.2\n").unwrap();
        let mut dns = DnsConfig { resolv_conf: host.path().to_owned(), ..DnsConfig::default() };
        let told = Dns {
            name_servers: vec!["10.88.0.1".parse().unwrap()],
            search: vec!["a".into(), "b".into()],
            options: vec!["ndots:2".into()],
        };
        let text = |dns: &DnsConfig, told: &Dns| resolv_conf(dns, told.clone(), false);
        let lines = "search host\nnameserver 10.88.0.1\nsearch a b\noptions ndots:2\n";
        assert_eq!(text(&dns, &told), lines);
        assert_eq!(text(&dns, &Dns::default()), "search host\nnameserver 10.0.0.2\n");
        dns.servers = vec!["10.0.0.3".parse().unwrap()];
        assert_eq!(text(&dns, &told), lines.replace("10.88.0.1", "10.0.0.3"));
    }
}
