//! The programs of iptables: missing, hanging, failing, and kept waiting by another.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use crate::network::{
    Assignment, Member, Subnet,
    firewall::{
        Change, Firewall, Outbound, Policy,
        iptables::{Iptables, Programs, Tools},
    },
    tests::world::{TAG, World},
};

/// For as long as the test program runs: the names of programs are that, too.
fn name(path: PathBuf) -> &'static str {
    Box::leak(path.to_str().unwrap().to_owned().into_boxed_str())
}

/// Programs that are shell scripts, each named like the program that it stands for; `script` gets that name.
fn scripts(directory: &Path, script: impl Fn(&str) -> String) -> Tools {
    let make = |program: &str| {
        let path = directory.join(program);
        fs::write(&path, format!("#!/bin/sh\n{}\n", script(program))).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        name(path)
    };
    let programs = |family: &str| Programs {
        iptables: make(family),
        restore: make(&format!("{family}-restore")),
        save: make(&format!("{family}-save")),
    };
    Tools { ipv4: programs("iptables"), ipv6: programs("ip6tables"), ..Tools::default() }
}

fn policy() -> Policy {
    Policy {
        pool: "10.254.0.0/22".parse().unwrap(),
        pool_ipv6: None,
        allow_host_access: false,
        denied: Vec::new(),
        check_sources: true,
        link_prefix: format!("g{TAG}-"),
        ipv6: false,
    }
}

fn assignment() -> Assignment {
    let subnet = Subnet::try_from("10.254.0.0/30".parse::<ipnetwork::Ipv4Network>().unwrap()).unwrap();
    Assignment {
        subnet,
        host_ip: subnet.host_address(),
        container_ip: subnet.container_address(),
        host_link: format!("g{TAG}-12345678"),
        mtu: 1500,
        ipv6: None,
    }
}

/// What installing with these programs says, on a host of its own.
fn installed_with(tools: Tools) -> Result<(), String> {
    let Some(world) = World::new() else { return Err(String::new()) };
    world.host.run(move || {
        let error = |error| protocol::Error::failed(&error).to_string();
        Iptables::new(TAG, tools).install(&policy()).map_err(error)
    })
}

fn assert_says(result: Result<(), String>, expected: &[&str]) {
    let Err(text) = result else { panic!("this should have failed") };
    // Empty: not root, nothing was tried.
    assert!(text.is_empty() || expected.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_program_that_is_missing_is_named_and_what_to_install() {
    let mut tools = Tools::default();
    tools.ipv4.save = "no-iptables-save";
    assert_says(
        installed_with(tools),
        &["no-iptables-save", "Debian's package iptables", "--firewall nftables"],
    );
}

#[test]
fn a_program_that_fails_is_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let tools = scripts(directory.path(), |_| "echo 'no such table' >&2; exit 3".to_owned());
    assert_says(installed_with(tools), &["iptables-save", "exit status: 3", "no such table"]);
}

#[test]
fn a_line_that_is_refused_is_named() {
    let Some(world) = World::new() else { return };
    let refused = world.host.run(|| {
        let tools = Tools::default();
        tools.restore(
            &tools.ipv4,
            "*filter\n:garden-t-input - [0:0]\n-A garden-t-input -p tcp --dport 99999 -j DROP\nCOMMIT\n",
        )
    });
    assert_says(
        refused.map_err(|error| error.to_string()),
        &["iptables-restore", "-A garden-t-input -p tcp --dport 99999 -j DROP"],
    );
}

#[test]
fn a_program_that_hangs_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 1000", pid.display());
    let mut tools = scripts(directory.path(), |_| script.clone());
    tools.limit = Duration::from_millis(500);
    assert_says(installed_with(tools), &["iptables-save", "did not end within 0.5 s"]);
    if let Ok(pid) = fs::read_to_string(pid) {
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it runs still");
    }
}

#[test]
fn a_lock_that_another_program_holds_is_waited_for_and_then_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lock");
    let older = |program: &str| {
        // The older programs alone take the lock. This one is ours, so that nobody else on this machine waits.
        let older = program.replace("tables", "tables-legacy");
        format!("XTABLES_LOCKFILE={} exec {older} \"$@\"", path.display())
    };
    let mut tools = scripts(directory.path(), older);
    tools.lock_wait_seconds = 1;
    let lock = File::create(&path).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    assert_says(installed_with(tools), &["iptables-restore", "has held the xtables lock for 1 s", "fuser"]);
    drop(lock);
    if rustix::process::geteuid().is_root() {
        assert_eq!(installed_with(tools), Ok(()));
    }
}

#[test]
fn a_commit_that_failed_is_made_up_for_by_the_next() {
    let Some(world) = World::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    let flag = broken.clone();
    let tools = scripts(directory.path(), |program| {
        format!(
            "[ -e {} ] && {{ echo 'out of order' >&2; exit 2; }}; exec {program} \"$@\"",
            broken.display()
        )
    });
    let ports = |host_port| vec![protocol::NetIn { host_port, container_port: 80 }];
    let member = |ports| Member { assignment: assignment(), ports, outbound: Outbound::default() };
    world.host.run(move || {
        let mut firewall = Iptables::new(TAG, tools);
        firewall.install(&policy()).unwrap();
        firewall.replace_all(&[]).unwrap();
        fs::write(&flag, "").unwrap();
        firewall.apply(&[Change::Open(member(ports(61001)))]).unwrap_err();
        fs::remove_file(&flag).unwrap();
        firewall.apply(&[Change::Open(member(ports(61002)))]).unwrap();
    });
    let saved = world.host.show(&["iptables-save", "-t", "nat"]);
    assert!(saved.contains("--dport 61002") && !saved.contains("--dport 61001"), "{saved}");
    // Somebody deletes what is to be deleted.
    world.host.show(&["iptables", "-t", "nat", "-F", "garden-t-ports"]);
    world.host.run(move || {
        let tools = Tools::default();
        let mut firewall = Iptables::new(TAG, tools);
        firewall.install(&policy()).unwrap();
        firewall.replace_all(&[member(ports(61003))]).unwrap();
        tools.restore(&tools.ipv4, "*nat\n-F garden-t-ports\nCOMMIT\n").unwrap();
        firewall.apply(&[Change::Close { assignment: assignment(), ports: ports(61003) }]).unwrap();
    });
    let saved = world.host.show(&["iptables-save", "-t", "nat"]);
    assert!(!saved.contains("--dport"), "{saved}");
}
