//! The container's `/etc/hosts` and `/etc/resolv.conf`.

use std::{fs, net::IpAddr, path::Path};

use crate::supervisor::OwnFile;

/// Where systemd-resolved keeps the servers behind its own.
const UPSTREAM_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// The last 49 characters of the handle.
pub fn hostname(handle: &str) -> String {
    let characters = handle.chars().count();
    let name: String = handle.chars().skip(characters.saturating_sub(49)).collect();
    // The kernel takes 64 bytes.
    let cut = name.char_indices().map(|(at, _)| at).find(|at| name.len() - at <= 64);
    name[cut.unwrap_or(0)..].to_owned()
}

/// Both files.
pub fn files(handle: &str, address: IpAddr) -> Vec<OwnFile> {
    let hosts = format!("127.0.0.1 localhost\n{address} {}\n", hostname(handle));
    let file = |target: &str, text| OwnFile { target: target.into(), text };
    vec![file("/etc/hosts", hosts), file("/etc/resolv.conf", resolv_conf())]
}

/// The host's name servers, as far as a container can reach them.
fn resolv_conf() -> String {
    let host = text("/etc/resolv.conf".as_ref());
    let usable = without_loopback(&host);
    if has_server(&usable) || !has_server(&host) {
        return usable;
    }
    without_loopback(&text(UPSTREAM_RESOLV_CONF.as_ref()))
}

/// What a file says, in whatever encoding its comments are. A host without the file has no name servers.
fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()).flatten()
}

fn has_server(text: &str) -> bool {
    text.lines().any(|line| server(line).is_some())
}

fn without_loopback(text: &str) -> String {
    let loopback =
        |line: &str| server(line).is_some_and(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()));
    text.lines().filter(|line| !loopback(line)).map(|line| format!("{line}\n")).collect()
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
    fn a_comment_that_is_not_utf_8_costs_no_name_server() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, b"# f\xfcr alle\nnameserver 10.0.0.2\n").unwrap();
        assert!(has_server(&without_loopback(&text(file.path()))));
        assert_eq!(text(Path::new("/nowhere/resolv.conf")), "");
    }

    #[test]
    fn name_servers_on_loopback_are_left_out() {
        let text = "search a b\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\n";
        assert_eq!(without_loopback(text), "search a b\nnameserver 10.0.0.2\n");
    }
}
