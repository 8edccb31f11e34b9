//! A network configuration list, the operator's choice of plug-ins and their settings, as the CNI specification has it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How long a file may be.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// How many plug-ins a list may have.
const PLUGINS_MAX: usize = 32;
/// The versions of the specification whose results are understood, as a file names them.
const VERSIONS: [&str; 2] = ["0.4.0", "1.0.0"];
/// What the server writes into a plug-in's configuration.
const RESERVED: [&str; 3] = ["runtimeConfig", "prevResult", "args"];

/// Why a file is no list of plug-ins.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cni-config: cannot read {file:?}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not JSON.
    #[error("cni-config: {file:?} is not JSON")]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// One of its fields makes no sense.
    #[error("cni-config: {file:?}: {field} {reason}")]
    Field {
        /// The file.
        file: PathBuf,
        /// The field, by its path in the document.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A list that was checked. Kept in a container's record, so that the container leaves the network by the list by which
/// it came, whatever the file says by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkList {
    #[serde(rename = "cniVersion")]
    pub version: String,
    pub name: String,
    #[serde(rename = "disableCheck", default)]
    pub disable_check: bool,
    pub plugins: Vec<PluginConfig>,
}

/// One plug-in of a list, with everything that the file says to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PluginConfig(Map<String, Value>);

/// A thing that a plug-in can be told of each container, by the specification's name of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    PortMappings,
    Bandwidth,
    Ips,
}

impl Capability {
    pub fn name(self) -> &'static str {
        match self {
            Capability::PortMappings => "portMappings",
            Capability::Bandwidth => "bandwidth",
            Capability::Ips => "ips",
        }
    }

    /// Why a client's wish cannot be had where no plug-in has this.
    pub fn is_lacking(self) -> String {
        format!("none of this server's CNI plug-ins has the capability {:?}: leave it out", self.name())
    }
}

impl NetworkList {
    /// Reads a `.conflist`. Blocks for a small file.
    pub fn read(file: &Path) -> Result<NetworkList, ConfigError> {
        let read = || {
            let mut text = String::new();
            File::open(file)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
            match text.len() as u64 > FILE_MAX_BYTES {
                true => Err(io::Error::other(format!("it has more than {FILE_MAX_BYTES} bytes"))),
                false => Ok(text),
            }
        };
        let text = read().map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        NetworkList::parse(file, &text)
    }

    /// `file` is named in errors.
    pub fn parse(file: &Path, text: &str) -> Result<NetworkList, ConfigError> {
        let document: Value = serde_json::from_str(text)
            .map_err(|source| ConfigError::Json { file: file.to_owned(), source })?;
        check(&document).map_err(|Problem { field, reason }| ConfigError::Field {
            file: file.to_owned(),
            field,
            reason,
        })
    }

    /// Whether some plug-in takes this.
    pub fn has(&self, capability: Capability) -> bool {
        self.plugins.iter().any(|plugin| plugin.has(capability))
    }
}

impl PluginConfig {
    /// The name of its program.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the file says that it takes this.
    pub fn has(&self, capability: Capability) -> bool {
        let declared = self.0.get("capabilities").and_then(|all| all.get(capability.name()));
        declared.and_then(Value::as_bool).unwrap_or(false)
    }

    /// What the file says to it.
    pub fn settings(&self) -> &Map<String, Value> {
        &self.0
    }
}

struct Problem {
    field: String,
    reason: String,
}

fn problem(field: impl Into<String>, reason: impl Into<String>) -> Problem {
    Problem { field: field.into(), reason: reason.into() }
}

fn check(document: &Value) -> Result<NetworkList, Problem> {
    let list = document.as_object().ok_or_else(|| problem("the document", "is not an object"))?;
    let version = string(list, "", "cniVersion")?;
    if !VERSIONS.contains(&version) {
        return Err(problem(
            "cniVersion",
            format!("is {version:?}: this server speaks {}", VERSIONS.join(" and ")),
        ));
    }
    let name = string(list, "", "name")?;
    if !is_name(name) {
        let reason =
            format!("is {name:?}: a name begins with a letter or digit, and goes on with those and _ . -");
        return Err(problem("name", reason));
    }
    let disable_check = match list.get("disableCheck") {
        None => false,
        Some(value) => value.as_bool().ok_or_else(|| problem("disableCheck", "is not a boolean"))?,
    };
    let plugins = list.get("plugins").and_then(Value::as_array);
    let plugins = plugins.filter(|plugins| (1..=PLUGINS_MAX).contains(&plugins.len())).ok_or_else(|| {
        problem("plugins", format!("is not a list of 1 to {PLUGINS_MAX} plug-ins, as a .conflist has it"))
    })?;
    let plugins = plugins.iter().enumerate().map(|(index, plugin)| check_plugin(index, plugin));
    Ok(NetworkList {
        version: version.to_owned(),
        name: name.to_owned(),
        disable_check,
        plugins: plugins.collect::<Result<_, _>>()?,
    })
}

fn check_plugin(index: usize, plugin: &Value) -> Result<PluginConfig, Problem> {
    let at = format!("plugins[{index}]");
    let settings = plugin.as_object().ok_or_else(|| problem(at.clone(), "is not an object"))?;
    let kind = string(settings, &at, "type")?;
    if !is_name(kind) {
        let reason = format!("is {kind:?}: the name of a program in a --cni-plugin-dir, without a path");
        return Err(problem(format!("{at}.type"), reason));
    }
    if let Some(reserved) = RESERVED.iter().find(|field| settings.contains_key(**field)) {
        return Err(problem(format!("{at}.{reserved}"), "is for the server to fill in"));
    }
    if let Some(capabilities) = settings.get("capabilities") {
        let all = capabilities.as_object().filter(|all| all.values().all(Value::is_boolean));
        all.ok_or_else(|| problem(format!("{at}.capabilities"), "is not an object of booleans"))?;
    }
    Ok(PluginConfig(settings.clone()))
}

fn string<'a>(object: &'a Map<String, Value>, at: &str, field: &str) -> Result<&'a str, Problem> {
    let path = if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") };
    match object.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(problem(path, "is not a string")),
        None => Err(problem(path, "is missing")),
    }
}

/// Also keeps paths out: of programs, and of the files that plug-ins name after a network.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.len() <= 255
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::json;

    use super::*;

    fn parse(document: &Value) -> Result<NetworkList, String> {
        NetworkList::parse(Path::new("/etc/cni/net.conflist"), &document.to_string())
            .map_err(|error| error.to_string())
    }

    fn good() -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "net", "disableCheck": true,
            "plugins": [
                {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}},
                {"type": "portmap", "capabilities": {"portMappings": true, "bandwidth": false}},
            ],
        })
    }

    #[test]
    fn a_list_is_read_with_all_that_it_says_to_its_plugins() {
        let list = parse(&good()).unwrap();
        assert_eq!((list.name.as_str(), list.version.as_str(), list.disable_check), ("net", "1.0.0", true));
        assert_eq!(list.plugins.iter().map(PluginConfig::kind).collect::<Vec<_>>(), ["bridge", "portmap"]);
        assert_eq!(list.plugins[0].settings()["bridge"], "cni0");
        assert!(list.has(Capability::PortMappings) && !list.plugins[0].has(Capability::PortMappings));
        assert!(!list.has(Capability::Bandwidth), "declared, as false");
    }

    #[test]
    fn a_kept_list_is_the_same_list() {
        let list = parse(&good()).unwrap();
        let kept = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<NetworkList>(&kept).unwrap(), list);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_file_and_field() {
        let cases: [(&str, Value, &str); 12] = [
            ("/cniVersion", json!("2.0.0"), "cniVersion is \"2.0.0\": this server speaks 0.4.0 and 1.0.0"),
            ("/cniVersion", json!(1), "cniVersion is not a string"),
            ("/name", json!("a/b"), "name is \"a/b\""),
            ("/name", json!(""), "name is \"\""),
            ("/disableCheck", json!("no"), "disableCheck is not a boolean"),
            ("/plugins", json!([]), "plugins is not a list of 1 to 32"),
            ("/plugins", json!({}), "plugins is not a list of 1 to 32"),
            ("/plugins/1", json!("portmap"), "plugins[1] is not an object"),
            ("/plugins/1/type", json!("../sh"), "plugins[1].type is \"../sh\""),
            ("/plugins/0/type", json!(".."), "plugins[0].type is \"..\""),
            ("/plugins/0/ipam", json!(null), ""),
            ("/plugins/1/capabilities", json!({"a": 1}), "plugins[1].capabilities is not an object of bool"),
        ];
        for (place, value, expected) in cases {
            let mut document = good();
            *document.pointer_mut(place).unwrap() = value;
            match parse(&document) {
                Ok(_) => assert_eq!(expected, "", "{place}"),
                Err(error) => {
                    let whole = format!("cni-config: \"/etc/cni/net.conflist\": {expected}");
                    assert!(!expected.is_empty() && error.starts_with(&whole), "{place}: {error}");
                }
            }
        }
        let mut reserved = good();
        reserved["plugins"][0]["prevResult"] = json!({});
        assert!(parse(&reserved).unwrap_err().contains("plugins[0].prevResult is for the server to fill in"));
        let single = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge"});
        assert!(parse(&single).unwrap_err().contains("plugins is not a list"));
    }

    #[test]
    fn a_file_that_is_not_there_or_too_long_or_not_json_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.conflist");
        assert!(matches!(NetworkList::read(&file), Err(ConfigError::Read { .. })));
        std::fs::write(&file, vec![b' '; FILE_MAX_BYTES as usize + 1]).unwrap();
        assert!(matches!(NetworkList::read(&file), Err(ConfigError::Read { .. })));
        std::fs::write(&file, "{").unwrap();
        let error = NetworkList::read(&file).unwrap_err();
        assert!(error.to_string().contains("x.conflist") && matches!(error, ConfigError::Json { .. }));
        std::fs::write(&file, good().to_string()).unwrap();
        assert_eq!(NetworkList::read(&file).unwrap(), parse(&good()).unwrap());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z./]{0,6}".prop_map(Value::from),
        ];
        let keys = prop_oneof![
            Just("type".to_owned()),
            Just("capabilities".to_owned()),
            Just("args".to_owned()),
            "[a-z]{1,4}"
        ];
        leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((keys.clone(), inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_the_plugins_are_none_has_a_path_for_a_name(plugins in any_json(), name in any_json()) {
            let document = json!({"cniVersion": "0.4.0", "name": name, "plugins": plugins});
            if let Ok(list) = parse(&document) {
                prop_assert!(is_name(&list.name) && !list.plugins.is_empty());
                for plugin in &list.plugins {
                    prop_assert!(is_name(plugin.kind()) && !plugin.kind().contains('/'));
                    prop_assert!(RESERVED.iter().all(|field| !plugin.settings().contains_key(*field)));
                }
            }
        }
    }
}
