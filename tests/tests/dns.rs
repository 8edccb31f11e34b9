//! What a container knows of names, and how patient its TCP is: from the host, the operator and the spec.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use backend_linux::TcpSettings;
use protocol::{Backend, BindMount, ContainerSpec, ProcessSpec};
use tests::{
    columns::check,
    killable::{Killable, binary, can_make_containers},
    linux::linux_with,
    world::{World, end},
};

async fn read(world: &World, handle: &str, path: &str) -> String {
    world.run_to_end(handle, &["cat", path]).await.text()
}

#[test]
fn containers_have_the_hosts_name_servers_as_they_are_when_they_are_made() {
    let host = tempfile::NamedTempFile::new().unwrap();
    fs::write(&host, "search one.internal\nnameserver 192.0.2.53\nnameserver 127.0.0.1\n").unwrap();
    let path = host.path().to_owned();
    check(linux_with(|config| config.network.dns.resolv_conf = path), |world| {
        Box::pin(async move {
            let first = world.create().await;
            let text = "search one.internal\nnameserver 192.0.2.53\n";
            assert_eq!(read(world, &first, "/etc/resolv.conf").await, text);
            fs::write(&host, "nameserver 192.0.2.54\n").unwrap();
            let second = world.create().await;
            assert_eq!(read(world, &second, "/etc/resolv.conf").await, "nameserver 192.0.2.54\n");
            assert_eq!(read(world, &first, "/etc/resolv.conf").await, text, "what was made stays");
        })
    });
}

#[test]
fn a_bind_mount_of_the_spec_takes_the_place_of_the_containers_own_files() {
    check(linux_with(|_| ()), |world| {
        Box::pin(async move {
            let host = tempfile::tempdir().unwrap();
            fs::set_permissions(host.path(), PermissionsExt::from_mode(0o755)).unwrap();
            let bind = |name: &str| {
                let source = host.path().join(name);
                fs::write(&source, format!("{name} of the spec\n")).unwrap();
                let src_path = source.display().to_string();
                BindMount { src_path, dst_path: format!("/etc/{name}"), ..BindMount::default() }
            };
            let binds = vec![bind("hosts"), bind("resolv.conf")];
            let handle = world.create_with(|spec| spec.bind_mounts = binds).await;
            for name in ["hosts", "resolv.conf"] {
                let text = read(world, &handle, &format!("/etc/{name}")).await;
                assert_eq!(text, format!("{name} of the spec\n"));
            }
        })
    });
}

const SYSCTLS: &str = "cd /proc/sys/net/ipv4 && \
                       cat tcp_keepalive_time tcp_keepalive_intvl tcp_keepalive_probes tcp_retries1 tcp_retries2";

/// Whether namespaces were prepared or are made for the container, and whoever root in it is.
fn check_tcp(tcp: TcpSettings, expected: &'static str) {
    for prepared in [0, 1] {
        let tcp = tcp.clone();
        let change = move |config: &mut backend_linux::Config| {
            config.network.tcp = tcp;
            config.prepared_containers = prepared;
        };
        check(linux_with(change), move |world| {
            Box::pin(async move {
                for privileged in [false, true] {
                    let handle = world.create_with(|spec| spec.privileged = privileged).await;
                    let found = world.run_to_end(&handle, &["sh", "-c", SYSCTLS]).await.text();
                    assert_eq!(
                        found.replace('\n', " "),
                        expected,
                        "{prepared} prepared, privileged {privileged}"
                    );
                }
            })
        });
    }
}

#[test]
fn tcp_is_as_patient_as_the_operator_says() {
    let tcp = TcpSettings {
        keepalive_time: Some(32767),
        keepalive_interval: Some(11),
        keepalive_probes: Some(127),
        retries1: Some(1),
        retries2: Some(255),
    };
    check_tcp(tcp, "32767 11 127 1 255 ");
}

#[test]
fn tcp_is_as_patient_as_the_kernel_says_where_the_operator_says_nothing() {
    // What a new network namespace has, whatever the host has been set to.
    check_tcp(TcpSettings::default(), "7200 75 9 3 15 ");
    let one = TcpSettings { keepalive_time: Some(120), ..TcpSettings::default() };
    check_tcp(one, "120 75 9 3 15 ");
}

/// Starts a program on a host whose `/etc/resolv.conf` is this file: in a mount namespace of its own.
fn on_a_host_with(resolv_conf: &str) -> [String; 6] {
    let script = format!("mount --bind {resolv_conf} /etc/resolv.conf && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn options_name_servers_and_hosts_and_the_patience_of_tcp() {
    if !can_make_containers() {
        return;
    }
    let host = tempfile::NamedTempFile::new().unwrap();
    fs::write(&host, "search host.internal\nnameserver 192.0.2.1\n").unwrap();
    let wrapper = on_a_host_with(&host.path().display().to_string());
    let options = [
        ["--dns-server", "192.0.2.2"],
        ["--dns-server", "192.0.2.3"],
        ["--additional-dns-server", "192.0.2.4"],
        ["--additional-host-entry", "192.0.2.7 db.internal db"],
        ["--additional-host-entry", "fd00::7 web"],
        ["--tcp-keepalive-time", "120"],
        ["--tcp-retries2", "5"],
    ];
    let mut server = Killable::new()
        .started_by(&wrapper.each_ref().map(String::as_str))
        .with_options(options.as_flattened());
    let client = server.start(None).await;
    client
        .create(ContainerSpec { handle: "names".into(), ..ContainerSpec::default() })
        .await
        .expect("create");
    let script = format!("cat /etc/resolv.conf; tail -n 2 /etc/hosts; {SYSCTLS}");
    let process = client.run("names", ProcessSpec::new("sh", ["-c", script.as_str()])).await.expect("run");
    let text = end(process).await.text();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "search host.internal",
        "nameserver 192.0.2.2",
        "nameserver 192.0.2.3",
        "nameserver 192.0.2.4",
        "192.0.2.7 db.internal db",
        "fd00::7 web",
        "120",
        "75",
        "9",
        "3",
        "5",
    ];
    assert_eq!(lines, expected);
    assert!(!server.log().contains("--dns-server"), "{}", server.log());
    client.destroy("names").await.expect("destroy");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_host_has_no_name_server_for_others_says_so_at_its_start() {
    if !can_make_containers() {
        return;
    }
    let host = tempfile::NamedTempFile::new().unwrap();
    fs::write(&host, "nameserver 127.0.0.1\n").unwrap();
    let wrapper = on_a_host_with(&host.path().display().to_string());
    let words = wrapper.each_ref().map(String::as_str);
    let mut server = Killable::new().started_by(&words);
    server.start(None).await;
    assert!(server.log().contains("--dns-server is needed"), "{}", server.log());
    assert_eq!(server.clean_up().await, Vec::<String>::new());
    let check = |options: &[&str]| {
        let server = binary("garden-server");
        let output = Command::new(words[0]).args(&words[1..]).arg(server).arg("check").args(options).output();
        String::from_utf8(output.expect("garden-server check").stdout).unwrap()
    };
    assert!(check(&[]).contains("--dns-server is needed"));
    assert!(!check(&["--dns-server", "192.0.2.1"]).contains("--dns-server"));
}

#[test]
fn wrong_values_are_refused_at_start_by_option_and_value() {
    for (option, value) in [
        ("--dns-server", "nowhere"),
        ("--additional-dns-server", "192.0.2.300"),
        ("--additional-host-entry", "db.internal 192.0.2.7"),
        ("--additional-host-entry", "192.0.2.7"),
        ("--tcp-keepalive-time", "32768"),
        ("--tcp-keepalive-interval", "soon"),
        ("--tcp-keepalive-probes", "128"),
        ("--tcp-retries1", "256"),
        ("--tcp-retries2", "256"),
    ] {
        let server = binary("garden-server");
        let output =
            Command::new(server).args(["--backend", "linux", option, value, "check"]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && text.contains(option) && text.contains(value),
            "{option}: {text}"
        );
    }
}
