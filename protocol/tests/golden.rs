//! Every wire type equals the reference's samples, byte for byte, in both directions.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use protocol::{json::DurationNs, *};
use serde::{Serialize, de::DeserializeOwned};

/// Samples whose bytes cannot come back, each with the reason.
const ONE_WAY: &[(&str, &str)] = &[
    ("req-bulknetout.nil.json", "a nil slice: null is read as empty, and empty is written []"),
    ("res-bulkinfo.nil.json", "a nil map: null is read as empty"),
    ("res-properties.nil.json", "a nil map: null is read as empty"),
    (
        "stream-stdin.nonutf8.json",
        "Go escapes U+FFFD only where it stands for a broken byte; here no byte is broken",
    ),
];

fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, text: &[u8]) {
    let value: T = json::decode(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let again = json::encode(&value).unwrap();
    assert_eq!(json::decode::<T>(&again).unwrap(), value, "{name}: what we write we read");
    let expected = [text.strip_suffix(b"\n").unwrap_or(text), b"\n"].concat();
    if !ONE_WAY.iter().any(|(file, _)| *file == name) {
        assert_eq!(String::from_utf8(again).unwrap(), String::from_utf8(expected).unwrap(), "{name}");
    }
}

fn check(name: &str, text: &[u8]) {
    let kind = name.split('.').next().unwrap();
    match kind {
        "req-bulknetout" => same::<Vec<NetOutRule>>(name, text),
        "req-create-ContainerSpec" | "req-create" => same::<ContainerSpec>(name, text),
        "req-netin-NetInRequest" => same::<NetInRequest>(name, text),
        "req-netout-NetOutRule" | "req-netout" => same::<NetOutRule>(name, text),
        "req-run-ProcessSpec" | "req-run" => same::<ProcessSpec>(name, text),
        "req-setgracetime" => same::<DurationNs>(name, text),
        "req-setproperty" | "res-property" => same::<PropertyValue>(name, text),
        "req-stop" => same::<StopRequest>(name, text),
        "res-bulkinfo-entry" => same::<InfoEntry>(name, text),
        "res-bulkinfo" => same::<BulkInfo>(name, text),
        "res-bulkmetrics-entry" => same::<MetricsEntry>(name, text),
        "res-bulkmetrics" => same::<BulkMetrics>(name, text),
        "res-capacity-Capacity" => same::<Capacity>(name, text),
        "res-create" => same::<CreateResponse>(name, text),
        "res-empty" => same::<BTreeMap<String, String>>(name, text),
        "res-error" => same::<ErrorBody>(name, text),
        "res-info-ContainerInfo" => same::<ContainerInfo>(name, text),
        "res-limits-bandwidth" => same::<BandwidthLimits>(name, text),
        "res-limits-cpu" => same::<CpuLimits>(name, text),
        "res-limits-disk" => same::<DiskLimits>(name, text),
        "res-limits-memory" => same::<MemoryLimits>(name, text),
        "res-list" => same::<ListResponse>(name, text),
        "res-metrics-Metrics" => same::<Metrics>(name, text),
        "res-netin-NetInResponse" => same::<NetInResponse>(name, text),
        "res-properties" => same::<Properties>(name, text),
        kind if kind.starts_with("stream-") => same::<ProcessPayload>(name, text),
        kind => panic!("no type for {kind}"),
    }
}

#[test]
fn every_type_equals_its_golden_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/wire/golden");
    let index: Vec<BTreeMap<String, String>> =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let indexed: BTreeSet<&str> = index.iter().map(|entry| entry["file"].as_str()).collect();
    for name in &indexed {
        check(name, &std::fs::read(folder.join(name)).unwrap());
    }
    let files =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unused: Vec<String> =
        files.filter(|name| name != "index.json" && !indexed.contains(name.as_str())).collect();
    assert_eq!(unused, [""; 0], "samples that the index does not name");
    assert_eq!(indexed.len(), 88);
}

#[test]
fn what_cannot_come_back_is_read_as_said() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/wire/golden");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    for (name, reason) in ONE_WAY {
        let empty = match name.split('.').next().unwrap() {
            "req-bulknetout" => json::decode::<Vec<NetOutRule>>(&read(name)).unwrap().is_empty(),
            "res-bulkinfo" => json::decode::<BulkInfo>(&read(name)).unwrap().0.is_empty(),
            "res-properties" => json::decode::<Properties>(&read(name)).unwrap().is_empty(),
            _ => continue,
        };
        assert!(empty, "{name}: {reason}");
    }
    let payload: ProcessPayload = json::decode(&read("stream-stdin.nonutf8.json")).unwrap();
    assert!(payload.data.unwrap().contains('\u{fffd}'));
}

#[test]
fn errors_survive_the_wire() {
    for error in [
        Error::container_not_found("h"),
        Error::process_not_found("p"),
        Error::ExecutableNotFound { message: "executable file not found in $PATH".into() },
        Error::ServiceUnavailable { message: "m".into() },
        Error::Unrecoverable { message: "m".into() },
        Error::Failed { message: "a < b".into() },
    ] {
        let body: ErrorBody = json::decode(&json::encode(&error.to_body()).unwrap()).unwrap();
        assert_eq!(body.into_error(), error);
    }
}
