//! Which name servers and which hosts the containers know.

use std::{fmt, fs, net::IpAddr, path::Path, path::PathBuf, str::FromStr};

/// The longest name of a host that there is, in bytes.
const HOST_NAME_MAX_BYTES: usize = 253;

/// Settings of the containers' `/etc/resolv.conf` and `/etc/hosts`.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Name servers instead of the host's; empty: the host's.
    pub servers: Vec<IpAddr>,
    /// Name servers that come after those.
    pub additional_servers: Vec<IpAddr>,
    /// Hosts besides the container itself.
    pub additional_hosts: Vec<HostEntry>,
    /// The host's own settings.
    pub resolv_conf: PathBuf,
    /// Where systemd-resolved keeps the name servers behind its own, which only the host reaches.
    pub upstream_resolv_conf: PathBuf,
}

impl Default for DnsConfig {
    fn default() -> Self {
        DnsConfig {
            servers: Vec::new(),
            additional_servers: Vec::new(),
            additional_hosts: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            upstream_resolv_conf: "/run/systemd/resolve/resolv.conf".into(),
        }
    }
}

impl DnsConfig {
    /// The text of a container's `/etc/resolv.conf`: what the host's says about searching, and the name servers.
    /// Without IPv6 a container does not get the host's servers that only IPv6 reaches: a resolver looks at three at
    /// most. What the operator has named is there whatever it is.
    pub fn resolv_conf(&self, ipv6: bool) -> String {
        let host = self.of_host(ipv6);
        let named =
            self.servers.iter().copied().chain(host.servers).chain(self.additional_servers.iter().copied());
        let servers = named.map(|server| format!("nameserver {server}\n"));
        host.rest.into_iter().chain(servers).collect()
    }

    /// Whether containers will know no name server at all.
    pub fn is_lacking(&self, ipv6: bool) -> bool {
        self.servers.is_empty() && self.additional_servers.is_empty() && self.of_host(ipv6).servers.is_empty()
    }

    /// What comes from the host, as far as containers can use it.
    fn of_host(&self, ipv6: bool) -> HostResolver {
        let own = HostResolver::read(&self.resolv_conf, ipv6);
        if !self.servers.is_empty() {
            return HostResolver { servers: Vec::new(), ..own };
        }
        match own.servers.is_empty() && own.has_loopback {
            true => HostResolver::read(&self.upstream_resolv_conf, ipv6),
            false => own,
        }
    }
}

/// What a `resolv.conf` of the host says.
#[derive(Default)]
struct HostResolver {
    /// Those that a container can reach.
    servers: Vec<IpAddr>,
    /// Whether there is one that is the host itself.
    has_loopback: bool,
    /// The other lines.
    rest: Vec<String>,
}

impl HostResolver {
    /// A file that is not there says nothing.
    fn read(path: &Path, ipv6: bool) -> HostResolver {
        let mut found = HostResolver::default();
        // Comments may be in whatever encoding.
        for line in String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                found.rest.push(format!("{line}\n"));
                continue;
            }
            // One with a zone (`fe80::1%eth0`) is no address here: it is one of the host's own links.
            let Some(server) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            let server = server.to_canonical();
            if server.is_loopback() || server.is_unspecified() {
                found.has_loopback = true;
            } else if server.is_ipv4() || ipv6 {
                found.servers.push(server);
            }
        }
        found
    }
}

/// A line of `/etc/hosts`: an address, and its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    address: IpAddr,
    names: Vec<String>,
}

/// Why a text is no [`HostEntry`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostEntryError {
    /// It does not begin with an address.
    #[error(
        "{0:?} is no IP address: write an address and one name or more, as in \"10.0.0.7 db.internal db\""
    )]
    Address(String),
    /// There is no name.
    #[error(
        "the address {0} has no name: write an address and one name or more, as in \"10.0.0.7 db.internal db\""
    )]
    NoName(IpAddr),
    /// What should be a name is none.
    #[error("{0:?} is no host name: one has letters, digits, dots, hyphens and underscores, 253 at most")]
    Name(String),
}

impl FromStr for HostEntry {
    type Err = HostEntryError;

    fn from_str(text: &str) -> Result<Self, HostEntryError> {
        let mut words = text.split_ascii_whitespace();
        let address = words.next().unwrap_or_default();
        let address = address.parse().map_err(|_| HostEntryError::Address(address.to_owned()))?;
        let names: Vec<String> = words.map(str::to_owned).collect();
        if names.is_empty() {
            return Err(HostEntryError::NoName(address));
        }
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_name = |name: &&String| name.len() <= HOST_NAME_MAX_BYTES && name.bytes().all(is_of_name);
        match names.iter().find(|name| !is_name(name)) {
            Some(wrong) => Err(HostEntryError::Name(wrong.clone())),
            None => Ok(HostEntry { address, names }),
        }
    }
}

impl fmt::Display for HostEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.address, self.names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A host with these two files; an empty text is a missing file.
    fn host(resolv_conf: &[u8], upstream: &[u8]) -> (TempDir, DnsConfig) {
        let directory = tempfile::tempdir().unwrap();
        let config = DnsConfig {
            resolv_conf: directory.path().join("resolv.conf"),
            upstream_resolv_conf: directory.path().join("upstream"),
            ..DnsConfig::default()
        };
        for (path, text) in [(&config.resolv_conf, resolv_conf), (&config.upstream_resolv_conf, upstream)] {
            if !text.is_empty() {
                fs::write(path, text).unwrap();
            }
        }
        (directory, config)
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn name_servers_that_are_the_host_itself_are_left_out() {
        let text =
            b"search a b\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\nnameserver 0.0.0.0\n\
            nameserver ::ffff:127.0.0.1\n";
        let (_directory, config) = host(text, b"nameserver 10.0.0.3\n");
        assert_eq!(config.resolv_conf(true), "search a b\nnameserver 10.0.0.2\n");
        assert!(!config.is_lacking(true));
    }

    #[test]
    fn behind_systemd_resolved_are_the_servers_that_it_asks() {
        let stub = b"# stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch of.stub\n";
        let (_directory, config) =
            host(stub, b"nameserver 10.0.0.2\nnameserver 10.0.0.3\nsearch of.upstream\n");
        let text = config.resolv_conf(false);
        assert_eq!(text, "search of.upstream\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n");
        assert!(!config.is_lacking(false));
        // Without it, or where it asks only itself, there is nobody to ask.
        for upstream in [&b""[..], b"nameserver 127.0.0.1\n"] {
            let (_directory, config) = host(stub, upstream);
            assert!(config.is_lacking(false));
            assert!(!config.resolv_conf(false).contains("nameserver"));
        }
    }

    #[test]
    fn a_host_without_name_servers_lacks_them_whatever_lies_about() {
        for text in [&b""[..], b"search a\n", b"nameserver\n", b"nameserver nobody\n"] {
            let (_directory, config) = host(text, b"nameserver 10.0.0.2\n");
            assert!(config.is_lacking(true), "{text:?}");
            assert!(!config.resolv_conf(true).contains("nameserver"), "{text:?}");
        }
    }

    #[test]
    fn the_hosts_ipv6_servers_are_for_containers_with_ipv6() {
        let (_directory, config) =
            host(b"nameserver fd00::1\nnameserver fe80::1%eth0\nnameserver 10.0.0.2\n", b"");
        assert_eq!(config.resolv_conf(false), "nameserver 10.0.0.2\n");
        assert_eq!(config.resolv_conf(true), "nameserver fd00::1\nnameserver 10.0.0.2\n");
        let (_directory, config) = host(b"nameserver fd00::1\n", b"nameserver 10.0.0.2\n");
        assert!(config.is_lacking(false) && !config.is_lacking(true));
    }

    #[test]
    fn the_operators_servers_stand_in_for_the_hosts_and_additional_ones_come_last() {
        let (_directory, config) = host(b"search a\nnameserver 10.0.0.2\noptions ndots:2\n", b"");
        let additional = DnsConfig { additional_servers: addresses(&["10.9.9.9"]), ..config.clone() };
        let lines = "search a\noptions ndots:2\n";
        assert_eq!(
            additional.resolv_conf(false),
            format!("{lines}nameserver 10.0.0.2\nnameserver 10.9.9.9\n")
        );
        let both = DnsConfig { servers: addresses(&["10.8.8.8", "fd00::8"]), ..additional };
        let wanted = format!("{lines}nameserver 10.8.8.8\nnameserver fd00::8\nnameserver 10.9.9.9\n");
        assert_eq!(both.resolv_conf(false), wanted);
    }

    #[test]
    fn the_operators_servers_are_enough_where_the_host_has_none() {
        let (_directory, config) = host(b"nameserver 127.0.0.53\n", b"");
        let servers = addresses(&["10.8.8.8"]);
        assert!(!DnsConfig { servers: servers.clone(), ..config.clone() }.is_lacking(false));
        let additional = DnsConfig { additional_servers: servers, ..config };
        assert!(!additional.is_lacking(false));
        assert_eq!(additional.resolv_conf(false), "nameserver 10.8.8.8\n");
    }

    #[test]
    fn a_comment_that_is_not_utf_8_costs_no_name_server() {
        let (_directory, config) = host(b"# f\xfcr alle\nnameserver 10.0.0.2\n", b"");
        assert!(config.resolv_conf(false).ends_with("\nnameserver 10.0.0.2\n"));
    }

    #[test]
    fn a_host_entry_is_an_address_and_names() {
        let entry: HostEntry = "  10.0.0.7\tdb.internal  db_1 ".parse().unwrap();
        assert_eq!(entry.to_string(), "10.0.0.7 db.internal db_1");
        assert_eq!("fd00::7 db".parse::<HostEntry>().unwrap().to_string(), "fd00::7 db");
        for (wrong, named) in [
            ("", "\"\" is no IP address"),
            ("db 10.0.0.7", "\"db\" is no IP address"),
            ("10.0.0.7", "10.0.0.7 has no name"),
            ("10.0.0.7 db # ours", "\"#\" is no host name"),
            ("10.0.0.7 d\u{e4}", "is no host name"),
        ] {
            let error = wrong.parse::<HostEntry>().unwrap_err().to_string();
            assert!(error.contains(named), "{wrong:?}: {error}");
        }
        let long = format!("10.0.0.7 {}", "x".repeat(254));
        assert!(matches!(long.parse::<HostEntry>(), Err(HostEntryError::Name(_))));
    }

    proptest::proptest! {
        #[test]
        fn an_entry_is_one_line_that_means_the_same_again(text in "[0-9a-f.:]{0,12}[ \t\n]{0,3}[ -~\n]{0,20}") {
            if let Ok(entry) = text.parse::<HostEntry>() {
                let line = entry.to_string();
                proptest::prop_assert_eq!(line.lines().count(), 1);
                proptest::prop_assert_eq!(line.parse(), Ok(entry));
            }
        }
    }
}
