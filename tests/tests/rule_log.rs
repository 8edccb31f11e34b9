//! What a rule that logs leaves in the kernel's log.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    time::Instant,
};

use backend_linux::FirewallKind;
use protocol::{IpRange, NetIn, NetOutProtocol, NetOutRule, PortRange};
use rustix::fs::OFlags;
use tests::{columns::check, linux::linux_with, patience::patience, world::World};

/// The kernel's log from now on.
struct KernelLog(File);

impl KernelLog {
    fn open() -> KernelLog {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut log = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg").expect("/dev/kmsg");
        log.seek(SeekFrom::End(0)).expect("seek");
        KernelLog(log)
    }

    /// What has come since the last call, a record at a time.
    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(len) => lines.push(String::from_utf8_lossy(&record[..len]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return lines,
                // Records were overwritten before they were read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => panic!("read /dev/kmsg: {error}"),
            }
        }
    }
}

/// Connects from one container to a published port of another, through the host's end of the first one's link.
async fn connect(world: &World, client: &str, port: u16) {
    let host = world.backend().info(client).await.expect("info").into_value().host_ip;
    // The other end may not listen yet.
    let script = format!("until nc -w 5 {host} {port} </dev/null | grep -q pong; do :; done");
    assert_eq!(world.run_to_end(client, &["sh", "-c", &script]).await.status, 0);
}

fn logs(kind: FirewallKind) {
    let open = linux_with(move |config| config.network.firewall = kind);
    check(open, |world: &World| {
        Box::pin(async move {
            let server = world.create().await;
            let port = NetIn { host_port: 0, container_port: 8080 };
            let port = world.backend().net_in(&server, port).await.expect("a port").host_port;
            let serve = "while nc -l -p 8080 -e echo pong; do :; done";
            let serving = world.run(&server, &["sh", "-c", serve]).await;
            let handle = format!("{}-and-a-tail-that-is-longer-than-a-prefix-may-be", world.handle());
            let client = world.create_with(|spec| spec.handle = handle.clone()).await;
            let host = world.backend().info(&client).await.expect("info").into_value().host_ip;
            let rule = |log| NetOutRule {
                protocol: NetOutProtocol::Tcp,
                networks: vec![IpRange { start: Some(host.parse().expect("an address")), end: None }],
                ports: vec![PortRange { start: port, end: port }],
                log,
                ..NetOutRule::default()
            };
            let prefix: String = handle.chars().take(28).collect();
            let is_ours = |line: &String| line.contains(&format!("{prefix} IN=g"));

            let mut log = KernelLog::open();
            world.backend().net_out(&client, vec![rule(true)]).await.expect("a rule that logs");
            connect(world, &client, port).await;
            let begun = Instant::now();
            let line = loop {
                if let Some(line) = log.lines().into_iter().find(is_ours) {
                    break line;
                }
                assert!(begun.elapsed() < patience(10), "no line with {prefix:?}");
                tokio::task::yield_now().await;
            };
            assert!(line.contains("PROTO=TCP") && line.contains("DPT=8080"), "{line}");

            // A later rule that does not log wins.
            world.backend().net_out(&client, vec![rule(false)]).await.expect("a rule that does not");
            log.lines();
            connect(world, &client, port).await;
            assert_eq!(log.lines().into_iter().filter(is_ours).collect::<Vec<_>>(), Vec::<String>::new());
            drop(serving);
        })
    });
}

#[test]
fn a_rule_that_logs_names_the_container_until_a_later_one_wins_under_nftables() {
    logs(FirewallKind::Nftables);
}

#[test]
fn a_rule_that_logs_names_the_container_until_a_later_one_wins_under_iptables() {
    logs(FirewallKind::Iptables);
}
