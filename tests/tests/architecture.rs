//! What ARCHITECTURE.md says of the crates, held against what cargo knows of them.

#![allow(clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::Value;

/// Who may depend on whom, in what is shipped. The server names the backends for its binary alone, as features.
const EDGES: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("garden-server", &["backend-fake (optional)", "backend-linux (optional)", "protocol"]),
    ("garden-client", &["protocol"]),
    ("backend-linux", &["protocol"]),
    ("backend-fake", &["protocol"]),
];

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect(key)
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn the_edges_between_crates_are_those_of_the_architecture_and_no_others() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in &packages {
        let edges = found.entry(text(package, "name")).or_default();
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = text(dependency, "name");
            if dependency["kind"].is_null() && ours.contains(name) {
                let optional = if dependency["optional"] == true { " (optional)" } else { "" };
                edges.insert(format!("{name}{optional}"));
            }
        }
    }
    for (name, edges) in EDGES {
        let wanted: BTreeSet<String> = edges.iter().map(|edge| (*edge).to_owned()).collect();
        assert_eq!(found.get(name), Some(&wanted), "{name}");
    }
}

fn sources(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_is_in_one_module_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > 100, "the sources were found");
    let allowance = ["allow", "(unsafe_code)"].concat();
    let allowed: Vec<_> = files
        .iter()
        .filter(|path| fs::read_to_string(path).expect("a source").contains(&allowance))
        .map(|path| path.strip_prefix(root).expect("below the root").display().to_string())
        .collect();
    assert_eq!(allowed, ["backend-linux/src/sys/mod.rs"]);
}
