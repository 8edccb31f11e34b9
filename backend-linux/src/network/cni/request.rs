//! What a plug-in is told: its configuration on standard input, and the variables of its environment.

use std::{ffi::OsString, net::IpAddr, path::PathBuf};

use ipnetwork::IpNetwork;
use protocol::{BandwidthLimits, NetIn};
use serde_json::{Map, Value, json};

use super::{
    super::bandwidth::default_burst_bytes,
    conflist::{Capability, NetworkList, PluginConfig},
};

/// The container's interface.
pub const INTERFACE: &str = "eth0";
/// Where plug-ins look for the programs that they run themselves, as `iptables`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plug-in is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
}

impl Command {
    /// The specification's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
        }
    }
}

/// What plug-ins are told of one container, if they can be told such things.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// Host ports that are to lead to it.
    pub ports: Vec<NetIn>,
    /// How much its link may carry.
    pub bandwidth: BandwidthLimits,
    /// The address that it is to have; none: the plug-ins' choice.
    pub address: Option<IpNetwork>,
}

/// The environment: fixed, nothing of the server's own.
pub fn environment(
    command: Command,
    container_id: &str,
    netns: Option<PathBuf>,
    plugin_path: OsString,
) -> Vec<(&'static str, OsString)> {
    vec![
        ("PATH", PATH.into()),
        ("CNI_COMMAND", command.name().into()),
        ("CNI_CONTAINERID", container_id.into()),
        ("CNI_NETNS", netns.unwrap_or_default().into()),
        ("CNI_IFNAME", INTERFACE.into()),
        ("CNI_PATH", plugin_path),
    ]
}

/// The configuration: what the file says to this plug-in, with what the specification has a runtime add.
pub fn input(list: &NetworkList, plugin: &PluginConfig, wishes: &Wishes, previous: Option<&Value>) -> Value {
    let mut input = plugin.settings().clone();
    input.insert("cniVersion".to_owned(), list.version.clone().into());
    input.insert("name".to_owned(), list.name.clone().into());
    let told = told(plugin, wishes);
    if !told.is_empty() {
        input.insert("runtimeConfig".to_owned(), told.into());
    }
    if let Some(previous) = previous {
        input.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(input)
}

/// Those of the wishes that the plug-in takes.
fn told(plugin: &PluginConfig, wishes: &Wishes) -> Map<String, Value> {
    let mut told = Map::new();
    let mut tell = |capability: Capability, value: Value| {
        if plugin.has(capability) {
            told.insert(capability.name().to_owned(), value);
        }
    };
    if !wishes.ports.is_empty() {
        let mapping = |port: &NetIn| json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": "tcp"});
        tell(Capability::PortMappings, wishes.ports.iter().map(mapping).collect());
    }
    if wishes.bandwidth != BandwidthLimits::default() {
        tell(Capability::Bandwidth, bandwidth(wishes.bandwidth));
    }
    if let Some(address) = wishes.address {
        tell(Capability::Ips, json!([address.to_string()]));
    }
    told
}

/// In bits, in both directions.
fn bandwidth(limits: BandwidthLimits) -> Value {
    let rate = limits.rate_bytes_per_second;
    let burst = if limits.burst_bytes > 0 { limits.burst_bytes } else { default_burst_bytes(rate) };
    let (rate, burst) = (rate.saturating_mul(8), burst.saturating_mul(8));
    json!({"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst})
}

/// A spec's `network`, which plug-ins take as an address with the length of its network. None: it is none.
pub fn address(requested: &str) -> Option<IpNetwork> {
    let (ip, prefix) = requested.split_once('/')?;
    IpNetwork::new(ip.parse::<IpAddr>().ok()?, prefix.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn list() -> NetworkList {
        let text = json!({
            "cniVersion": "1.0.0", "name": "net",
            "plugins": [
                {"type": "bridge", "name": "own", "mtu": 1400},
                {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
                {"type": "bandwidth", "capabilities": {"bandwidth": true, "ips": true}},
            ],
        });
        NetworkList::parse(Path::new("x"), &text.to_string()).unwrap()
    }

    #[test]
    fn a_plugin_is_told_its_settings_the_networks_name_and_what_came_before() {
        let list = list();
        let before = json!({"ips": []});
        let input = input(&list, &list.plugins[0], &Wishes::default(), Some(&before));
        let expected = json!({"type": "bridge", "name": "net", "mtu": 1400, "cniVersion": "1.0.0", "prevResult": {"ips": []}});
        assert_eq!(input, expected);
    }

    #[test]
    fn each_plugin_is_told_the_wishes_that_it_takes_and_no_others() {
        let list = list();
        let wishes = Wishes {
            ports: vec![NetIn { host_port: 8080, container_port: 80 }],
            bandwidth: BandwidthLimits { rate_bytes_per_second: 1000, burst_bytes: 0 },
            address: address("10.1.2.3/24"),
        };
        let told =
            |index: usize| input(&list, &list.plugins[index], &wishes, None).get("runtimeConfig").cloned();
        assert_eq!(told(0), None);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        assert_eq!(told(1), Some(json!({"portMappings": ports})));
        let rates =
            json!({"ingressRate": 8000, "ingressBurst": 1 << 20, "egressRate": 8000, "egressBurst": 1 << 20});
        assert_eq!(told(2), Some(json!({"bandwidth": rates, "ips": ["10.1.2.3/24"]})));
    }

    #[test]
    fn the_environment_is_the_specifications_and_nothing_of_the_servers() {
        let variables = environment(Command::Del, "id", None, "/a:/b".into());
        let shown: Vec<String> =
            variables.iter().map(|(name, value)| format!("{name}={}", value.to_string_lossy())).collect();
        let path = format!("PATH={PATH}");
        let expected = [
            path.as_str(),
            "CNI_COMMAND=DEL",
            "CNI_CONTAINERID=id",
            "CNI_NETNS=",
            "CNI_IFNAME=eth0",
            "CNI_PATH=/a:/b",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_network_that_is_passed_on_is_an_address_with_a_prefix() {
        assert_eq!(address("10.0.0.7/24").unwrap().to_string(), "10.0.0.7/24");
        assert!(
            ["", "10.0.0.7", "10.0.0.0/33", "x/24", "10.0.0.7/"].iter().all(|text| address(text).is_none())
        );
    }

    proptest! {
        #[test]
        fn every_wish_is_told_to_whoever_takes_it(
            ports in vec((1u16.., 1u16..), 0..5), rate in 0u64.., burst in 0u64..
        ) {
            let list = list();
            let ports: Vec<NetIn> =
                ports.into_iter().map(|(host_port, container_port)| NetIn { host_port, container_port }).collect();
            let bandwidth = BandwidthLimits { rate_bytes_per_second: rate, burst_bytes: burst };
            let wishes = Wishes { ports: ports.clone(), bandwidth, address: None };
            let told = |index: usize| input(&list, &list.plugins[index], &wishes, None)["runtimeConfig"].clone();
            prop_assert_eq!(told(0), Value::Null);
            prop_assert_eq!(told(1)["portMappings"].as_array().map_or(0, Vec::len), ports.len());
            if rate > 0 {
                let rates = told(2)["bandwidth"].clone();
                // Enough for any packet, where it was left open.
                let least = if burst > 0 { burst } else { 1 << 17 };
                prop_assert!(rates["ingressBurst"].as_u64() >= Some(least.saturating_mul(8)));
                prop_assert_eq!(rates["egressRate"].as_u64(), Some(rate.saturating_mul(8)));
            }
        }
    }
}
