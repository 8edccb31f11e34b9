//! What a plug-in answers: the result of an ADD, or why there is none.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How many addresses, name servers, search domains and options each are taken.
const EACH_MAX: usize = 64;

/// What an ADD has made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddResult(Value);

/// An address of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    /// The way out from there.
    pub gateway: Option<IpAddr>,
}

/// How the container finds names; what is empty is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub name_servers: Vec<IpAddr>,
    /// In the order in which they are tried.
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// As a plug-in says why it has failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Failure {
    pub code: i64,
    #[serde(default)]
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

impl Failure {
    /// None: this is not how a plug-in says it.
    pub fn parse(output: &[u8]) -> Option<Failure> {
        serde_json::from_slice(output).ok()
    }
}

/// The parts of a result that matter here. Versions from 0.3.0 on have them alike.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
    #[serde(default)]
    dns: DnsPart,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    interface: Option<usize>,
    address: IpNetwork,
    gateway: Option<IpAddr>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DnsPart {
    nameservers: Vec<IpAddr>,
    domain: String,
    search: Vec<String>,
    options: Vec<String>,
}

impl AddResult {
    /// What a plug-in has said, or what is wrong with it.
    pub fn parse(output: &[u8]) -> Result<AddResult, String> {
        let value: Value = serde_json::from_slice(output).map_err(|error| error.to_string())?;
        let result = AddResult(value);
        let parts = result.parts()?;
        let DnsPart { nameservers, domain, search, options } = &parts.dns;
        let lengths =
            [parts.interfaces.len(), parts.ips.len(), nameservers.len(), search.len(), options.len()];
        if lengths.iter().any(|length| *length > EACH_MAX) {
            return Err(format!("more than {EACH_MAX} of something"));
        }
        let words = [domain].into_iter().chain(search).chain(options);
        // They become words of a line in the container's /etc/resolv.conf.
        if let Some(word) = words.into_iter().find(|word| !word.chars().all(|c| c.is_ascii_graphic())) {
            return Err(format!("dns: {word:?} is not one word"));
        }
        Ok(result)
    }

    fn parts(&self) -> Result<Parts, String> {
        Parts::deserialize(&self.0).map_err(|error| error.to_string())
    }

    /// The container's addresses, those of the host's ends left out.
    pub fn addresses(&self) -> Vec<Address> {
        // Checked when it came; a record that somebody has edited has none.
        let Ok(Parts { interfaces, ips, .. }) = self.parts() else { return Vec::new() };
        let inside = |ip: &Ip| match ip.interface {
            Some(index) => interfaces.get(index).is_none_or(|interface| !interface.sandbox.is_empty()),
            None => true,
        };
        let address = |ip: Ip| Address { ip: ip.address.ip(), gateway: ip.gateway };
        ips.into_iter().filter(inside).map(address).collect()
    }

    /// What the plug-ins say of names.
    pub fn dns(&self) -> Dns {
        let DnsPart { nameservers, domain, mut search, options } =
            self.parts().map(|parts| parts.dns).unwrap_or_default();
        if !domain.is_empty() && !search.contains(&domain) {
            search.insert(0, domain);
        }
        Dns { name_servers: nameservers, search, options }
    }

    /// As the next plug-in is told of it. A namespace goes by another path after a restart of the server.
    pub fn for_namespace(&self, netns: Option<&str>) -> Value {
        let mut value = self.0.clone();
        let interfaces = value.get_mut("interfaces").and_then(Value::as_array_mut);
        for interface in interfaces.into_iter().flatten() {
            if let Some(Value::String(sandbox)) = interface.get_mut("sandbox")
                && let Some(netns) = netns
                && !sandbox.is_empty()
            {
                *sandbox = netns.to_owned();
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn bridge() -> Value {
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "cni0", "mac": "b2:09:9d:bb:d3:a0"},
                {"name": "veth1", "mac": "46:88:e8:01:d8:45"},
                {"name": "eth0", "mac": "da:5f:69:bb:7d:dd", "sandbox": "/proc/7/fd/9"},
            ],
            "ips": [
                {"interface": 2, "address": "10.88.0.2/24", "gateway": "10.88.0.1"},
                {"interface": 2, "address": "fd00::2/64"},
                {"interface": 0, "address": "10.88.0.1/24"},
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {"nameservers": ["10.88.0.1", "fd00::1"], "domain": "b", "search": ["a", "c"], "options": ["ndots:2"]},
        })
    }

    fn parse(value: &Value) -> Result<AddResult, String> {
        AddResult::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_result_has_the_containers_addresses_and_names() {
        let result = parse(&bridge()).unwrap();
        let gateway = Some("10.88.0.1".parse().unwrap());
        let expected = [
            Address { ip: "10.88.0.2".parse().unwrap(), gateway },
            Address { ip: "fd00::2".parse().unwrap(), gateway: None },
        ];
        assert_eq!(result.addresses(), expected);
        let dns = result.dns();
        assert_eq!(dns.name_servers, ["10.88.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(
            (dns.search, dns.options),
            (vec!["b".into(), "a".into(), "c".into()], vec!["ndots:2".into()])
        );
    }

    #[test]
    fn a_result_goes_to_the_next_plugin_whole_but_for_the_namespaces_path() {
        let mut expected = bridge();
        let result = parse(&expected).unwrap();
        assert_eq!(result.for_namespace(None), expected);
        expected["interfaces"][2]["sandbox"] = json!("/proc/8/fd/3");
        assert_eq!(result.for_namespace(Some("/proc/8/fd/3")), expected);
    }

    #[test]
    fn what_could_not_stand_in_a_containers_file_is_refused() {
        for (place, value) in [
            ("/dns/search", json!(["a b"])),
            ("/dns/options", json!(["x\nnameserver 6.6.6.6"])),
            ("/dns/domain", json!("a\tb")),
            ("/dns/nameservers", json!(["host.example"])),
            ("/ips/0/address", json!("10.88.0.300/24")),
            ("/ips/0/gateway", json!("nobody")),
            ("/ips", json!(vec![json!({"address": "10.0.0.1/8"}); EACH_MAX + 1])),
        ] {
            let mut document = bridge();
            *document.pointer_mut(place).unwrap() = value;
            assert!(parse(&document).is_err(), "{place}");
        }
        assert!(AddResult::parse(b"").is_err() && AddResult::parse(b"done.").is_err());
    }

    #[test]
    fn a_failure_is_told_by_code_and_message() {
        let said = br#"{"cniVersion": "1.0.0", "code": 7, "msg": "Invalid", "details": "of the network"}"#;
        let expected = Failure { code: 7, msg: "Invalid".into(), details: "of the network".into() };
        assert_eq!(Failure::parse(said), Some(expected));
        assert_eq!(Failure::parse(b"panic: runtime error"), None);
    }

    proptest! {
        #[test]
        fn no_output_makes_the_parsers_fail(output in "[{}\\[\\]\":,a-z0-9 ]{0,80}") {
            let _ = AddResult::parse(output.as_bytes());
            Failure::parse(output.as_bytes());
        }

        #[test]
        fn words_that_are_taken_are_words(word in any::<String>()) {
            let document = json!({"dns": {"search": [word.clone()]}});
            if let Ok(result) = parse(&document) {
                prop_assert!(result.dns().search.iter().all(|word| !word.contains(char::is_whitespace)));
            }
        }
    }
}
