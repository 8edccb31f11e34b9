//! Hosts whose containers' networks are made by plug-ins, the real ones of Debian's package.

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use garden_client::Client;
use protocol::{Backend, ContainerSpec, NetIn, ProcessSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    killable::{Killable, can_make_containers},
    netns::Namespace,
    patience::patience,
    world::end,
};

/// Where Debian has them.
pub const PLUGINS: &str = "/usr/lib/cni";
/// How often something is looked for that is to come.
pub const POLL: Duration = Duration::from_millis(5);

/// A host: its network, and what its plug-ins keep.
pub struct Host {
    /// Its network.
    pub namespace: Namespace,
    directory: TempDir,
}

impl Host {
    /// With the plug-ins that `chain` makes of a directory of the test's. None, and says why: tests cannot run here.
    pub fn new(chain: impl Fn(&Path) -> Value) -> Option<(Host, Killable)> {
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

    /// Of a directory of the test's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Those of the server that name the plug-ins.
    pub fn options(&self) -> [String; 6] {
        let (list, plugins) = (self.path("net.conflist"), self.path("plugins"));
        let of = |path: &Path| path.display().to_string();
        let option = || "--cni-plugin-dir".to_owned();
        ["--cni-config".to_owned(), of(&list), option(), of(&plugins), option(), PLUGINS.to_owned()]
    }

    /// What is some container's on the host: links, rules, addresses that are taken.
    pub fn left(&self) -> Vec<String> {
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
    pub fn leases(&self) -> Vec<String> {
        let files = fs::read_dir(self.path("leases/net")).into_iter().flatten().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }

    /// What a server behind one of the host's ports says. Programs in containers take a moment to listen.
    pub async fn ask(&self, port: u16) -> String {
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

    /// Puts a script in place of a plug-in, which runs after it unless the script exits.
    pub fn replace_plugin(&self, name: &str, script: &str) {
        let file = self.path("plugins").join(name);
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

    /// Cleans a server up that has no container any more.
    pub async fn close(self, server: Killable) {
        assert_eq!(self.left(), Vec::<String>::new(), "before clean-up");
        assert!(self.path("leases/net").exists(), "host-local has used the test's directory");
        assert_eq!(server.clean_up().await, Vec::<String>::new());
    }
}

/// Settings of the plug-in `bridge`.
pub fn bridge(directory: &Path) -> Value {
    json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "subnet": "10.88.0.0/24", "dataDir": directory.join("leases"),
            "routes": [{"dst": "0.0.0.0/0"}],
        },
        "dns": {"nameservers": ["10.88.0.1"], "search": ["plugged.example"]},
    })
}

/// Those of a chain that also publishes ports.
pub fn bridge_and_ports(directory: &Path) -> Value {
    json!([bridge(directory), {"type": "firewall"}, {"type": "portmap", "capabilities": {"portMappings": true}}])
}

/// A container of that handle.
pub fn spec(handle: &str) -> ContainerSpec {
    ContainerSpec { handle: handle.to_owned(), ..ContainerSpec::default() }
}

/// Whichever host port, to this one.
pub fn port(container_port: u16) -> NetIn {
    NetIn { host_port: 0, container_port }
}

/// Runs a script to its end, and returns what it prints.
pub async fn sh(client: &Client, handle: &str, script: &str) -> String {
    let process = client.run(handle, ProcessSpec::new("sh", ["-c", script])).await.expect("run");
    end(process).await.text()
}

/// Has a container answer each connection to a port with a word.
pub async fn serve(client: &Client, handle: &str, port: u16, word: &str) {
    let arguments = ["-ll", "-p", &port.to_string(), "-e", "echo", word].map(str::to_owned);
    client.run(handle, ProcessSpec::new("nc", arguments)).await.expect("run");
}
