//! A server whose containers' networks are made by plug-ins, the real ones, on hosts that have a network of their own.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use garden_client::Client;
use protocol::{Backend, ContainerSpec, NetIn, NetOutProtocol, NetOutRule, ProcessSpec};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    killable::{Killable, binary, can_make_containers, supervisors_left},
    netns::Namespace,
    patience::patience,
    world::end,
};

const PLUGINS: &str = "/usr/lib/cni";
const POLL: Duration = Duration::from_millis(5);

/// A host: its network, and what its plug-ins keep.
struct Host {
    namespace: Namespace,
    directory: TempDir,
}

impl Host {
    /// With the plug-ins that `chain` makes of a directory of the test's. None, and says why: tests cannot run here.
    fn new(chain: impl Fn(&Path) -> Value) -> Option<(Host, Killable)> {
        if !can_make_containers() {
            return None;
        }
        if !Path::new(PLUGINS).join("bridge").exists() {
            assert!(
                std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                "containernetworking-plugins is missing"
            );
            println!("skipped: needs the package containernetworking-plugins");
            return None;
        }
        let host = Host { namespace: Namespace::new(), directory: tempfile::tempdir().unwrap() };
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": chain(host.directory.path())});
        fs::write(host.path("net.conflist"), list.to_string()).unwrap();
        fs::create_dir(host.path("plugins")).unwrap();
        let wrapper = host.namespace.wrapper();
        let server = Killable::new().started_by(&wrapper.each_ref().map(String::as_str));
        let options = host.options();
        Some((host, server.with_options(&options.each_ref().map(String::as_str))))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn options(&self) -> [String; 6] {
        let (list, plugins) = (self.path("net.conflist"), self.path("plugins"));
        let of = |path: &Path| path.display().to_string();
        let option = || "--cni-plugin-dir".to_owned();
        ["--cni-config".to_owned(), of(&list), option(), of(&plugins), option(), PLUGINS.to_owned()]
    }

    /// What is some container's on the host: links, rules, addresses that are taken.
    fn left(&self) -> Vec<String> {
        let links = self.namespace.command(&["ip", "-o", "link"]);
        let rules = self.namespace.command(&["iptables-save"]) + &self.namespace.command(&["ip6tables-save"]);
        let of_containers = |rule: &&str| rule.contains("id: \\\"") || rule.contains("10.88.0.");
        let mut left: Vec<String> =
            links.lines().filter(|link| link.contains("veth")).map(str::to_owned).collect();
        left.extend(rules.lines().filter(of_containers).map(str::to_owned));
        left.extend(self.leases());
        left
    }

    /// The addresses that host-local knows as taken.
    fn leases(&self) -> Vec<String> {
        let files = fs::read_dir(self.path("leases/net")).into_iter().flatten().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }

    /// What a server behind one of the host's ports says. Programs in containers take a moment to listen.
    async fn ask(&self, port: u16) -> String {
        let begun = Instant::now();
        loop {
            let answer = self.namespace.ask(SocketAddr::new([127, 0, 0, 1].into(), port));
            match answer {
                Ok(answer) if !answer.is_empty() => return answer,
                other => assert!(begun.elapsed() < patience(10), "port {port}: {other:?}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Cleans a server up that has no container any more.
    async fn close(self, server: Killable) {
        assert_eq!(self.left(), Vec::<String>::new(), "before clean-up");
        assert!(self.path("leases/net").exists(), "host-local has used the test's directory");
        assert_eq!(server.clean_up().await, Vec::<String>::new());
    }
}

fn bridge(directory: &Path) -> Value {
    json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "subnet": "10.88.0.0/24", "dataDir": directory.join("leases"),
            "routes": [{"dst": "0.0.0.0/0"}],
        },
        "dns": {"nameservers": ["10.88.0.1"], "search": ["plugged.example"]},
    })
}

fn bridge_and_ports(directory: &Path) -> Value {
    json!([bridge(directory), {"type": "firewall"}, {"type": "portmap", "capabilities": {"portMappings": true}}])
}

fn spec(handle: &str) -> ContainerSpec {
    ContainerSpec { handle: handle.to_owned(), ..ContainerSpec::default() }
}

fn port(container_port: u16) -> NetIn {
    NetIn { host_port: 0, container_port }
}

/// Runs a script to its end, and returns what it prints.
async fn sh(client: &Client, handle: &str, script: &str) -> String {
    let process = client.run(handle, ProcessSpec::new("sh", ["-c", script])).await.expect("run");
    end(process).await.text()
}

/// Has a container answer each connection to a port with a word.
async fn serve(client: &Client, handle: &str, port: u16, word: &str) {
    let arguments = ["-ll", "-p", &port.to_string(), "-e", "echo", word].map(str::to_owned);
    client.run(handle, ProcessSpec::new("nc", arguments)).await.expect("run");
}

#[tokio::test(flavor = "multi_thread")]
async fn address_names_and_ports_come_from_the_plugins_and_go_with_the_container() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("one") }).await.expect("create");
    client.create(spec("other")).await.expect("create");
    let info = client.info("one").await.expect("info");
    assert_eq!((info.container_ip.as_str(), info.host_ip.as_str()), ("10.88.0.2", "10.88.0.1"));
    let shown = sh(&client, "one", "ip -o addr; cat /etc/hosts /etc/resolv.conf").await;
    for line in [
        "lo    inet 127.0.0.1/8",
        "eth0    inet 10.88.0.2/24",
        "10.88.0.2 one",
        "nameserver 10.88.0.1",
        "search plugged.example",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }

    serve(&client, "one", 80, "eighty").await;
    serve(&client, "one", 81, "eighty-one").await;
    let first = info.mapped_ports.as_ref().unwrap()[0].host_port;
    assert_eq!(host.ask(first).await, "eighty\n");
    let second = client.net_in("one", port(81)).await.expect("net_in");
    assert_eq!(host.ask(second.host_port).await, "eighty-one\n");
    assert_eq!(host.ask(first).await, "eighty\n", "still");
    assert_eq!(sh(&client, "other", "nc 10.88.0.2 80 < /dev/null").await, "eighty\n");
    let metrics = client.metrics("one").await.expect("metrics");
    assert!(metrics.network.is_none());

    assert_eq!(host.leases().len(), 2, "what is looked for at the end is found while it is there");
    client.destroy("one").await.expect("destroy");
    client.destroy("other").await.expect("destroy");
    assert_eq!(host.left(), Vec::<String>::new());
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_goes_on_with_the_network_and_says_what_is_not_as_it_was() {
    // portmap's own CHECK fails in a container without IPv6.
    let Some((host, mut server)) = Host::new(|directory| json!([bridge(directory), {"type": "firewall"}]))
    else {
        return;
    };
    let client = server.start(None).await;
    client.create(spec("whole")).await.expect("create");
    client.create(spec("broken")).await.expect("create");
    server.kill();
    let links = host.namespace.command(&["ip", "-o", "link", "show", "master", "cni0"]);
    let last = links.lines().last().and_then(|line| line.split([' ', '@']).nth(1)).expect("a link");
    host.namespace.command(&["ip", "link", "set", last, "nomaster"]);
    let client = server.start(None).await;
    let begun = Instant::now();
    while !server.log().contains("is not as its CNI plug-ins have made it") {
        assert!(begun.elapsed() < patience(20), "{}", server.log());
        tokio::time::sleep(POLL).await;
    }
    let log = server.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("not as its CNI")).collect();
    assert!(told.len() == 1 && told[0].contains("broken") && told[0].contains("bridge"), "{log}");
    assert_eq!(client.info("broken").await.expect("info").container_ip, "10.88.0.3");
    client.destroy("broken").await.expect("destroy");
    client.destroy("whole").await.expect("destroy");
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_published_by_a_new_server_and_closed_by_clean_up() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("kept") }).await.expect("create");
    serve(&client, "kept", 80, "eighty").await;
    serve(&client, "kept", 81, "eighty-one").await;
    server.kill();
    let client = server.start(None).await;
    let first = client.info("kept").await.expect("info").mapped_ports.clone().unwrap()[0].host_port;
    assert_eq!(host.ask(first).await, "eighty\n");
    let second = client.net_in("kept", port(81)).await.expect("net_in");
    assert_eq!(host.ask(second.host_port).await, "eighty-one\n");
    assert_eq!(server.clean_up().await, Vec::<String>::new());
    assert_eq!(host.left(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_between_any_two_plugins_leaves_nothing() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let mut died = 0;
    loop {
        let client = server.start(Some(died + 1)).await;
        let created = client.create(ContainerSpec { net_in: vec![port(80)], ..spec("cut") }).await;
        if created.is_ok() {
            break;
        }
        assert!(server.dies().await, "{created:?}");
        server.kill();
        died += 1;
        let client = server.start(None).await;
        if client.info("cut").await.is_ok() {
            client.destroy("cut").await.expect("destroy");
        }
        assert_eq!(host.left(), Vec::<String>::new(), "after death {died}");
        assert_eq!(supervisors_left("cut").await, Vec::<String>::new());
        server.kill();
    }
    // One record before the first plug-in, one after each of three, and one at the end, with two deaths at each.
    assert_eq!(died, 10);
    server.kill();
    let client = server.start(None).await;
    client.destroy("cut").await.expect("destroy");
    host.close(server).await;
}

/// Puts a plug-in of that name in place of the real one: the real one, if `script` goes on to it.
fn replace(host: &Host, name: &str, script: &str) {
    let file = host.path("plugins").join(name);
    // Written by another process, lest a child of this one have it open while it is executed.
    let mut shell = Command::new("sh")
        .args([
            "-c",
            "cat > \"$0\".new && chmod 755 \"$0\".new && mv \"$0\".new \"$0\"",
            file.to_str().unwrap(),
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("#!/bin/sh\n{script}\nexec {PLUGINS}/{name}\n");
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_fails_the_create_in_its_own_words_and_nothing_is_left() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    for (script, expected) in [
        (
            r#"[ $CNI_COMMAND = ADD ] && echo '{"code": 100, "msg": "not today"}' && exit 1"#,
            "not today (code 100)",
        ),
        ("[ $CNI_COMMAND = ADD ] && echo hello && exit 0", "is no result"),
        ("[ $CNI_COMMAND = ADD ] && echo >&2 oops && exit 2", "oops"),
    ] {
        replace(&host, "firewall", script);
        let error = client.create(spec("unlucky")).await.unwrap_err().to_string();
        assert!(error.contains("firewall") && error.contains(expected), "{error}");
        assert_eq!(host.left(), Vec::<String>::new());
        client.info("unlucky").await.expect_err("it does not exist");
    }
    fs::remove_file(host.path("plugins/firewall")).unwrap();
    client.create(spec("lucky")).await.expect("create");

    // What cannot be taken away now is taken away later.
    replace(&host, "bridge", "exit 4");
    let error = client.destroy("lucky").await.unwrap_err().to_string();
    assert!(error.contains("bridge") && error.contains("exit status: 4"), "{error}");
    fs::remove_file(host.path("plugins/bridge")).unwrap();
    let begun = Instant::now();
    while client.info("lucky").await.is_ok() {
        assert!(begun.elapsed() < patience(20), "{}", server.log());
        tokio::time::sleep(POLL).await;
    }
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_plugins_cannot_be_told_is_refused() {
    let Some((host, mut server)) = Host::new(|directory| json!([bridge(directory)])) else { return };
    let client = server.start(None).await;
    let rule = NetOutRule { protocol: NetOutProtocol::All, ..NetOutRule::default() };
    let mut limited = spec("refused");
    limited.limits.bandwidth.rate_bytes_per_second = 1 << 20;
    let refused = [
        (ContainerSpec { net_out: vec![rule.clone()], ..spec("refused") }, "netout"),
        (ContainerSpec { net_in: vec![port(80)], ..spec("refused") }, "portMappings"),
        (ContainerSpec { network: "10.88.0.9/24".into(), ..spec("refused") }, "\"ips\""),
        (limited, "bandwidth"),
    ];
    for (spec, named) in refused {
        let error = client.create(spec).await.unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    client.create(spec("made")).await.expect("create");
    let error = client.net_out("made", vec![rule]).await.unwrap_err().to_string();
    assert!(error.contains("cannot be enforced on a network that CNI plug-ins make"), "{error}");
    let error = client.net_in("made", port(80)).await.unwrap_err().to_string();
    assert!(error.contains("portMappings"), "{error}");
    client.destroy("made").await.expect("destroy");
    host.close(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_makes_networks_itself_takes_away_those_of_plugins_and_the_other_way_round() {
    let Some((host, mut server)) = Host::new(bridge_and_ports) else { return };
    let client = server.start(None).await;
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("plugged") }).await.expect("create");
    server.kill();

    let mut server = server.with_options(&[]);
    let client = server.start(None).await;
    client.info("plugged").await.expect_err("it has been destroyed");
    assert_eq!(host.left(), Vec::<String>::new());
    client.create(ContainerSpec { net_in: vec![port(80)], ..spec("own") }).await.expect("create");

    server.kill();
    let mut server = server.with_options(&host.options().each_ref().map(String::as_str));
    let client = server.start(None).await;
    client.info("own").await.expect_err("it has been destroyed");
    assert!(!host.namespace.command(&["nft", "list", "tables"]).contains(&server.base_group()));
    host.close(server).await;
}

#[test]
fn options_that_make_no_sense_are_refused_at_start_with_file_and_field() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.conflist");
    fs::write(&file, r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "../bridge"}]}"#).unwrap();
    let server = |options: &[&str]| {
        let output = Command::new(binary("garden-server"))
            .args(["--backend", "linux", "--depot"])
            .arg(directory.path().join("depot"))
            .arg("--store")
            .arg(directory.path().join("store"))
            .arg("--bind-socket")
            .arg(directory.path().join("socket"))
            .args(options)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap()
    };
    let path = file.display().to_string();
    let said = server(&["--cni-config", &path, "check"]);
    assert!(said.contains("bad.conflist") && said.contains("plugins[0].type"), "{said}");
    if !can_make_containers() {
        return;
    }
    let said = server(&["--cni-config", &path]);
    assert!(said.contains("bad.conflist") && said.contains("plugins[0].type"), "{said}");
    fs::write(&file, r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "no-such-plugin"}]}"#)
        .unwrap();
    let said = server(&["--cni-config", &path]);
    assert!(said.contains("no-such-plugin") && said.contains("/opt/cni/bin"), "{said}");
    for option in [&["--deny-network", "10.0.0.0/8"][..], &["--mtu", "1400"], &["--allow-host-access"]] {
        let said = server(&[&["--cni-config", &path], option].concat());
        assert!(said.contains(&option[0][2..]) && said.contains("CNI plug-ins"), "{option:?}: {said}");
    }
    let said = server(&["--cni-plugin-dir", "relative"]);
    assert!(said.contains("cni-plugin-dir") && said.contains("relative"), "{said}");
}
