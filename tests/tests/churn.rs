//! Many containers with ports and rules come and go, many at a time: in the end nothing of them is left.
//!
//! `GARDEN_CHURN_LIVES=1000 cargo test -p tests --test churn` for more than the usual hundred.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use backend_linux::{Config, FirewallKind};
use protocol::{ContainerSpec, IpRange, NetIn, NetOutProtocol, NetOutRule, PortRange};
use tests::{columns::check, linux::linux_with, world::World};

const AT_ONCE: usize = 16;
const LIVES: usize = 100;
/// Addresses that a world's pool has: those of released containers are not free at once.
const POOL_ADDRESSES: u32 = 1024;

fn lives() -> usize {
    std::env::var("GARDEN_CHURN_LIVES")
        .map_or(LIVES, |lives| lives.parse().expect("GARDEN_CHURN_LIVES: a number"))
}

/// What the world's own settings do not bear, beside those of other worlds.
fn make_room(config: &mut Config) {
    let worlds = u32::from(Ipv4Addr::new(10, 253, 0, 0));
    let number = (u32::from(config.network.pool.network()) - worlds) / config.network.pool.size();
    let base = u32::from(Ipv4Addr::new(10, 160, 0, 0)) + number * POOL_ADDRESSES;
    config.network.pool = format!("{}/22", Ipv4Addr::from(base)).parse().expect("a pool");
    config.max_containers = 0;
    config.prepared_containers = 0;
}

fn rule(number: u8) -> NetOutRule {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, number));
    NetOutRule {
        protocol: if number.is_multiple_of(2) { NetOutProtocol::Tcp } else { NetOutProtocol::Udp },
        networks: vec![IpRange { start: Some(address), end: None }],
        ports: vec![PortRange { start: 80 + u16::from(number), end: 90 + u16::from(number) }],
        log: number.is_multiple_of(3),
        ..NetOutRule::default()
    }
}

/// A container with a port and rules, and more of them later.
async fn live(world: &World, number: usize) {
    let spec = ContainerSpec {
        net_in: vec![NetIn { host_port: 0, container_port: 8080 }],
        net_out: (0..4).map(rule).collect(),
        ..world.spec()
    };
    let backend = world.shared();
    let handle = backend.create(spec).await.expect("create");
    backend.net_out(&handle, (4..8).map(rule).collect()).await.expect("more rules");
    if number.is_multiple_of(3) {
        backend.replace_net_out(&handle, vec![rule(9)]).await.expect("other rules");
    }
    backend.destroy(&handle).await.expect("destroy");
}

/// What the firewall has of single containers: all that names one of their links.
fn of_containers(prefix: &str) -> Vec<String> {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect(program);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = said("nft", &["list", "ruleset"]) + &said("iptables-save", &[]) + &said("ip6tables-save", &[]);
    let is_link = |line: &&str| {
        let after = line.split(prefix).skip(1);
        after.into_iter().any(|rest| rest.len() >= 8 && rest.bytes().take(8).all(|b| b.is_ascii_hexdigit()))
    };
    all.lines().filter(is_link).map(str::to_owned).collect()
}

fn churn(kind: FirewallKind) {
    let prefix = Arc::new(Mutex::new(String::new()));
    let tag = Arc::clone(&prefix);
    let world = linux_with(move |config| {
        config.network.firewall = kind;
        make_room(config);
        *tag.lock().unwrap() = format!("g{}-", config.tag);
    });
    let next = AtomicUsize::new(0);
    check(world, move |world: &World| {
        Box::pin(async move {
            let lives = lives();
            let next = &next;
            let one_after_the_other = || async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= lives {
                        return;
                    }
                    live(world, number).await;
                }
            };
            futures_util::future::join_all((0..AT_ONCE).map(|_| one_after_the_other())).await;
            let prefix = prefix.lock().unwrap().clone();
            assert_eq!(of_containers(&prefix), Vec::<String>::new());
        })
    });
}

#[test]
fn after_many_creates_and_destroys_with_ports_and_rules_nftables_has_nothing_left() {
    churn(FirewallKind::Nftables);
}

#[test]
fn after_many_creates_and_destroys_with_ports_and_rules_iptables_has_nothing_left() {
    churn(FirewallKind::Iptables);
}
