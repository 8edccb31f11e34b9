//! The plug-ins of Debian's containernetworking-plugins, on hosts that the tests make.

use std::{
    net::IpAddr,
    os::fd::AsFd,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use protocol::NetIn;
use serde_json::{Value, json};

use super::{super::*, programs::list};
use crate::network::tests::world::{Namespace, World};

const DIRECTORY: &str = "/usr/lib/cni";

/// Runs `test` on a host of its own, with a directory for what host-local keeps, and sees that nothing that is a
/// container's is left.
fn on_host(test: impl AsyncFnOnce(&World, &Path) + Send + 'static) {
    let Some(world) = World::new().map(Arc::new) else { return };
    if !Path::new(DIRECTORY).join("bridge").exists() {
        assert!(std::env::var_os("CI").is_none(), "these tests need containernetworking-plugins");
        return println!("skipped: needs the package containernetworking-plugins");
    }
    let directory = tempfile::tempdir().unwrap();
    let (inside, leases) = (Arc::clone(&world), directory.path().to_owned());
    // Children begin in the namespace of the thread that starts them.
    let thread = world.host.run(move || {
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(&inside, &leases));
        })
    });
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
    assert_eq!(left(&world, directory.path()), Vec::<String>::new());
}

/// What is some container's: links, rules, addresses that are taken. Bridges and fixed chains are the plug-ins' own.
fn left(world: &World, leases: &Path) -> Vec<String> {
    let links = world.host.show(&["ip", "-o", "link"]);
    let mut left: Vec<String> = links
        .lines()
        .filter(|link| link.contains("veth") && !link.contains("uplink"))
        .map(str::to_owned)
        .collect();
    let rules = world.host.show(&["iptables-save"]) + &world.host.show(&["ip6tables-save"]);
    let of_containers = |rule: &&str| rule.contains("container-") || rule.contains("10.88.0.");
    left.extend(rules.lines().filter(of_containers).map(str::to_owned));
    let files = std::fs::read_dir(leases.join("net")).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    left.extend(names.filter(|name| name.parse::<IpAddr>().is_ok()));
    left
}

fn ipam(leases: &Path) -> Value {
    json!({
        "type": "host-local", "dataDir": leases, "subnet": "10.88.0.0/24",
        "routes": [{"dst": "0.0.0.0/0"}],
    })
}

fn bridge(leases: &Path) -> Value {
    json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": ipam(leases), "dns": {"nameservers": ["10.88.0.1"], "search": ["example"]},
        "capabilities": {"ips": true},
    })
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

/// A container without processes.
struct Container {
    list: NetworkList,
    id: String,
    namespace: Namespace,
    wishes: Wishes,
    result: Option<AddResult>,
}

impl Container {
    /// `number` tells one from another.
    fn new(list: &NetworkList, number: u8) -> Container {
        let id = format!("container-{number}");
        let namespace = Namespace::new();
        Container { list: list.clone(), id, namespace, wishes: Wishes::default(), result: None }
    }

    fn subject(&self) -> Subject<'_> {
        let netns = Some(self.namespace.netns.as_fd());
        Subject { list: &self.list, id: &self.id, netns, wishes: &self.wishes }
    }

    async fn add(&mut self) -> Result<IpAddr, PluginError> {
        for plugin in &self.list.plugins {
            self.result = Some(plugins().add(self.subject(), plugin, self.result.as_ref()).await?);
        }
        Ok(self.result().addresses()[0].ip)
    }

    fn result(&self) -> &AddResult {
        self.result.as_ref().unwrap()
    }

    async fn del(&self) {
        plugins().del(self.subject(), self.result.as_ref()).await.unwrap();
    }
}

fn plugins() -> Plugins {
    Plugins::new(vec![PathBuf::from("/nowhere"), PathBuf::from(DIRECTORY)])
}

fn port(host_port: u16, container_port: u16) -> NetIn {
    NetIn { host_port, container_port }
}

#[test]
fn a_chain_of_plugins_gives_an_address_and_names_checks_them_and_takes_all_away() {
    on_host(async |world, leases| {
        let tuning = json!({"type": "tuning", "mtu": 1380, "dataDir": leases.join("tuning")});
        let list = list(json!([bridge(leases), {"type": "firewall"}, tuning]));
        let mut container = Container::new(&list, 1);
        let address = container.add().await.unwrap();
        assert_eq!(address.to_string(), "10.88.0.2");
        assert_eq!(container.result().addresses()[0].gateway.unwrap().to_string(), "10.88.0.1");
        assert_eq!(container.result().dns().search, ["example"]);
        let shown = container.namespace.show(&["ip", "-o", "addr", "show", "dev", "eth0"]);
        assert!(shown.contains("10.88.0.2/24"), "{shown}");
        let link = container.namespace.show(&["ip", "-o", "link", "show", "dev", "eth0"]);
        assert!(link.contains("mtu 1380"), "{link}");

        plugins().check(container.subject(), container.result()).await.unwrap();
        container.namespace.show(&["ip", "route", "delete", "default"]);
        let error = plugins().check(container.subject(), container.result()).await.unwrap_err().to_string();
        assert!(error.starts_with("CNI plug-in \"bridge\", CHECK: "), "{error}");

        assert!(!left(world, leases).is_empty(), "what is looked for at the end is found while it is there");
        container.del().await;
        container.del().await;
    });
}

#[test]
fn containers_on_a_bridge_reach_each_other_and_a_published_port_is_reached_from_outside() {
    on_host(async |world, leases| {
        let list = list(json!([bridge(leases), portmap()]));
        let (mut one, mut other) = (Container::new(&list, 1), Container::new(&list, 2));
        one.wishes.ports = vec![port(8080, 80)];
        let (address, from) = (one.add().await.unwrap(), other.add().await.unwrap());
        one.namespace.serve(address, 80, "one");
        one.namespace.serve(address, 81, "one again");
        assert_eq!(other.namespace.ask(address, 80).unwrap(), format!("one to {from}"));
        let published = |port| world.outside.ask(world.host_address, port);
        assert!(published(8080).unwrap().starts_with("one to "));
        assert!(published(8081).is_err());

        // A port that is asked for later, beside the first one.
        one.wishes.ports.push(port(8081, 81));
        plugins().map_ports(one.subject(), one.result()).await.unwrap();
        assert!(published(8081).unwrap().starts_with("one again to "));
        assert!(published(8080).unwrap().starts_with("one to "));

        plugins().unmap_ports(one.subject(), one.result()).await.unwrap();
        assert!(published(8081).is_err() && published(8080).is_err());
        assert!(other.namespace.ask(address, 80).is_ok(), "it is still on the network");
        one.del().await;
        other.del().await;
    });
}

#[test]
fn a_routed_pair_of_links_does_as_well_as_a_bridge() {
    on_host(async |_, leases| {
        let ptp = json!({"type": "ptp", "ipMasq": true, "ipam": ipam(leases)});
        let mut container = Container::new(&list(json!([ptp])), 1);
        container.add().await.unwrap();
        plugins().check(container.subject(), container.result()).await.unwrap();
        container.del().await;
    });
}

#[test]
fn an_address_that_is_asked_for_is_had_and_no_other_container_gets_it() {
    on_host(async |_, leases| {
        let list = list(json!([bridge(leases)]));
        let (mut one, mut other) = (Container::new(&list, 1), Container::new(&list, 2));
        one.wishes.address = address("10.88.0.77/24");
        other.wishes.address = one.wishes.address;
        assert_eq!(one.add().await.unwrap().to_string(), "10.88.0.77");
        let error = other.add().await.unwrap_err().to_string();
        assert!(error.contains("10.88.0.77"), "{error}");
        other.del().await;
        one.del().await;
    });
}

#[test]
fn limits_of_bandwidth_are_set_by_the_plugin_for_them() {
    on_host(async |world, leases| {
        let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let mut container = Container::new(&list(json!([bridge(leases), bandwidth])), 1);
        container.wishes.bandwidth.rate_bytes_per_second = 1_000_000;
        container.add().await.unwrap();
        let queues = world.host.show(&["tc", "qdisc", "show"]);
        assert_eq!(queues.matches("tbf").count(), 2, "one for each direction: {queues}");
        assert!(queues.contains("rate 8Mbit"), "{queues}");
        container.del().await;
        let queues = world.host.show(&["tc", "qdisc", "show"]);
        assert!(!queues.contains("tbf") && !world.host.show(&["ip", "link"]).contains("ifb"), "{queues}");
    });
}

#[test]
fn a_container_whose_namespace_or_result_is_lost_leaves_the_network_all_the_same() {
    on_host(async |_, leases| {
        // What the bridge masquerades is told by the link's address, which is gone with the namespace.
        let mut bridge = bridge(leases);
        bridge["ipMasq"] = json!(false);
        let list = list(json!([bridge, portmap()]));
        let mut lost = Container::new(&list, 1);
        lost.wishes.ports = vec![port(8080, 80)];
        lost.add().await.unwrap();
        let subject = Subject { netns: None, ..lost.subject() };
        plugins().del(subject, lost.result.as_ref()).await.unwrap();
        plugins().del(subject, None).await.unwrap();
        // Its link is there for as long as its namespace is.
        lost.namespace.show(&["ip", "link", "delete", "eth0"]);

        let mut unknown = Container::new(&list, 2);
        unknown.add().await.unwrap();
        plugins().del(unknown.subject(), None).await.unwrap();
    });
}
