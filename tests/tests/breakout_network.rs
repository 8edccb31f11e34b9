//! Attempts to break out by way of the network, and of keyrings.
//!
//! Each attack is seen to succeed without what stops it, and then refused. docs/DEFENCES.md lists them all.

// Only debug builds can leave a defence out.
#![cfg(debug_assertions)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    io::Write,
    net::UdpSocket,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Command, Stdio},
    time::Duration,
};

use backend_linux::{Config, Defence, Defences, sys::leave_session_keyring};
use tests::{
    attack::{attack, attack_on_host, victim},
    columns::check,
    linux::{linux, linux_with},
    system_calls::{Abi, Call, answers, program},
    world::World,
};

#[test]
fn abstract_sockets_of_the_host_are_in_another_network_namespace() {
    check(linux(), |world| {
        Box::pin(async move {
            let name = format!("garden-breakout-{}", std::process::id());
            let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
            // The namespace is what stops it: in that of the listener anybody may.
            assert_eq!(attack_on_host(&["connect", &name]), "connected");
            for privileged in [false, true] {
                let handle = victim(world, |spec| spec.privileged = privileged).await;
                let said = attack(world, &handle, &["connect", &name]).await;
                assert!(said.contains("Connection refused"), "privileged: {privileged}: {said}");
            }
        })
    });
}

/// Whether the host receives what a container sends under the address of another.
async fn a_lie_arrives(world: &World) -> bool {
    let (liar, other) = (victim(world, |_| ()).await, victim(world, |_| ()).await);
    let liars = world.backend().info(&liar).await.expect("info");
    let others = world.backend().info(&other).await.expect("info");
    let server = UdpSocket::bind((liars.host_ip.as_str(), 0)).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let target = server.local_addr().unwrap().to_string();
    // The lie first: it would arrive first.
    for source in [&others.container_ip, &liars.container_ip] {
        assert_eq!(attack(world, &liar, &["spoof", source, &target]).await, "sent");
    }
    let from = server.recv_from(&mut [0; 100]).expect("a packet").1.ip().to_string();
    assert!(from == others.container_ip || from == liars.container_ip, "{from}");
    from == others.container_ip
}

#[test]
fn packets_leave_a_container_under_its_own_address_only() {
    let without_the_rule = |config: &mut Config| {
        config.network.allow_host_access = true;
        config.defences = Defences::without(Defence::SourceAddress);
    };
    check(linux_with(without_the_rule), |world| Box::pin(async move { assert!(a_lie_arrives(world).await) }));
    check(linux_with(|config| config.network.allow_host_access = true), |world| {
        Box::pin(async move { assert!(!a_lie_arrives(world).await) })
    });
}

const KEYCTL: u32 = 250;
const GET_KEYRING_ID: u64 = 0;
const DESCRIBE: u64 = 6;
const READ: u64 = 11;
const SESSION_KEYRING: u64 = -3i64 as u64;

fn keyctl(arguments: [u64; 3]) -> Call {
    Call { abi: Abi::X86_64, number: KEYCTL, arguments }
}

/// The number of the session keyring, and what calls on that of whoever started the server answer.
fn keyring_calls(servers: u64) -> Vec<Call> {
    vec![
        keyctl([GET_KEYRING_ID, SESSION_KEYRING, 0]),
        keyctl([DESCRIBE, servers, 0]),
        keyctl([READ, servers, 0]),
    ]
}

/// What these calls answer to a process that was started as the supervisors are.
fn on_host(calls: &[Call]) -> Vec<i64> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("calls");
    // Written by another process: a child that another thread forks meanwhile would have it open for writing, and no
    // such file can be executed.
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > $0 && chmod 755 $0 && exec $0"]).arg(&path);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    child.stdin.take().unwrap().write_all(&program(calls)).unwrap();
    answers(&child.wait_with_output().expect("the calls").stdout)
}

/// Without the filter, which refuses keyctl before the kernel looks at keyrings; or privileged, which has none.
async fn calls_inside(world: &World, privileged: bool, calls: &[Call]) -> Vec<i64> {
    let handle = world.create_with(|spec| spec.privileged = privileged).await;
    world.stream_in(&handle, "", "/usr/local", &[("calls", &program(calls))]).await;
    let script = "chmod 755 /usr/local/calls && exec /usr/local/calls";
    answers(&world.run_to_end(&handle, &["sh", "-c", script]).await.stdout)
}

#[test]
fn the_session_keyring_of_whoever_started_the_server_is_not_the_containers() {
    // One of this thread's own, which what it starts inherits.
    leave_session_keyring().unwrap();
    check(linux_with(|config| config.defences = Defences::without(Defence::Seccomp)), |world| {
        Box::pin(async move {
            // Who does not leave it has it: a program that is started as a supervisor is.
            let servers = on_host(&keyring_calls(0))[0];
            assert!(servers > 0, "{servers}");
            let calls = keyring_calls(servers as u64);
            let inherited = on_host(&calls);
            assert_eq!(inherited[0], servers);
            assert!(inherited.iter().all(|answer| *answer >= 0), "{inherited:?}");
            for privileged in [false, true] {
                let inside = calls_inside(world, privileged, &calls).await;
                assert!(inside[0] > 0 && inside[0] != servers, "privileged: {privileged}: {inside:?}");
                // Root of the host may look at it by its number, without possessing it.
                let seen = inside[1..].iter().any(|answer| *answer >= 0);
                assert_eq!(seen, privileged, "{inside:?}");
            }
        })
    });
}
