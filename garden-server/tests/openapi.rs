//! The OpenAPI document that the server serves says what the server does: every plain route, every field.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
mod schema;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use common::Server;
use protocol::{
    extension::{self, ProcessResult, ProcessStatus, SignalRequest, StartedProcess},
    json::{self, DurationNs},
    routes::{ROUTES, Route, RouteDef},
    *,
};
use schema::Schemas;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).unwrap()
}

/// `/containers/:handle` as OpenAPI writes it.
fn template(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => segment.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

fn operation<'a>(document: &'a Value, method: &str, path: &str) -> &'a Value {
    &document["paths"][template(path)][method.to_lowercase()]
}

/// Whether it is more than one request and its answer.
fn is_stream(def: &RouteDef) -> bool {
    def.hijacked || def.route == Route::ProcessStream
}

fn routes() -> impl Iterator<Item = &'static RouteDef> {
    ROUTES.iter().chain(extension::ROUTES)
}

fn plain_routes() -> impl Iterator<Item = &'static RouteDef> {
    routes().filter(|def| !is_stream(def))
}

#[tokio::test]
async fn the_server_serves_it_and_it_is_of_this_version() {
    let server = Server::start().await;
    for mut raw in server.both_kinds().await {
        let response = raw.request("GET /openapi.json", "").await;
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        assert_eq!(response.json(), document());
        let response = raw.request("POST /openapi.json", "").await;
        assert_eq!((response.status, response.header("allow")), (405, Some("GET")));
    }
    assert_eq!(document()["openapi"], "3.1.0");
    assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    let metrics = server.request("GET /metrics", "").await.text();
    assert!(metrics.contains("code=\"200\",method=\"GET\",route=\"openapi\"} 2\n"), "{metrics}");
}

#[test]
fn it_lists_every_plain_route_and_no_other() {
    let document = document();
    let mut listed: BTreeSet<String> = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let id = operation["operationId"].as_str().unwrap();
            listed.insert(format!("{id}: {} {path}", method.to_uppercase()));
        }
    }
    let beside = ["prometheus: GET /metrics", "openapi: GET /openapi.json"].map(str::to_owned);
    let plain = plain_routes().map(|def| format!("{}: {} {}", def.name, def.method, template(def.path)));
    assert_eq!(listed, plain.chain(beside).collect());

    let text = document["info"]["description"].as_str().unwrap();
    for def in routes().filter(|def| is_stream(def)) {
        let (from, to) = match def.path.split_once("/attaches") {
            Some((_, which)) => (which.rsplit('/').next().unwrap(), ""),
            None => (def.method, def.path),
        };
        assert!(text.contains(from) && text.contains(&template(to)), "{} is not named", def.name);
    }
}

#[test]
fn every_route_tells_its_parameters_and_its_errors() {
    let document = document();
    let schemas = Schemas::new(document.clone());
    for def in plain_routes() {
        let item = &document["paths"][template(def.path)];
        let operation = operation(&document, def.method, def.path);
        let lists = [&item["parameters"], &operation["parameters"]];
        let parameters = lists.into_iter().filter_map(Value::as_array).flatten();
        let in_path: Vec<_> = parameters
            .map(|parameter| schemas.resolve(parameter))
            .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let expected: Vec<_> = def.path.split('/').filter_map(|segment| segment.strip_prefix(':')).collect();
        assert_eq!(in_path, expected, "{}", def.name);

        let statuses: Vec<_> =
            operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
        let (done, failed): (Vec<&str>, Vec<&str>) =
            statuses.iter().partition(|status| status.starts_with('2'));
        // Started, or ended already.
        let expected: &[&str] = if def.route == Route::StartProcess { &["200", "201"] } else { &["200"] };
        assert_eq!(done, expected, "{}", def.name);
        let names_container = def.path.contains(":handle");
        let expected: &[&str] =
            if names_container { &["400", "403", "404", "500"] } else { &["400", "403", "500"] };
        assert_eq!(failed, expected, "{}", def.name);
        for status in expected {
            let content = &schemas.resolve(&operation["responses"][status])["content"];
            assert_eq!(
                content["application/json"]["schema"]["$ref"], "#/components/schemas/Error",
                "{}",
                def.name
            );
        }
        assert!(operation["summary"].as_str().unwrap().ends_with('.'), "{}", def.name);
    }
}

/// The schema of what goes over the wire in this direction.
fn schema_of(document: &Value, direction: &str, route: &str) -> Value {
    let (method, path) = route.split_once(' ').unwrap();
    let operation = operation(document, method, path);
    let body = match direction {
        "request" => &operation["requestBody"],
        _ => &operation["responses"]["200"],
    };
    body["content"]["application/json"]["schema"].clone()
}

#[test]
fn every_sample_of_the_wire_fits_and_every_field_is_of_a_sample() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/wire/golden");
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap() };
    let index: Vec<BTreeMap<String, String>> = serde_json::from_value(read("index.json")).unwrap();
    let mut schemas = Schemas::new(document());
    let error = serde_json::json!({"$ref": "#/components/schemas/Error"});
    let done = serde_json::json!({"$ref": "#/components/schemas/Done"});
    let mut checked = 0;
    for entry in &index {
        let (file, route) = (entry["file"].as_str(), entry["routes"].as_str());
        let value = read(file);
        let schema = match route {
            "any" => error.clone(),
            _ if file == "res-empty.json" => done.clone(),
            "hijacked run/attach" => continue,
            "POST /containers/:handle/processes" => {
                schema_of(&schemas.document, "request", "POST /v1/containers/:handle/processes")
            }
            // Null for an empty list or map: it is read, and never written.
            _ if value.is_null() => continue,
            _ => match route.strip_suffix(" (map value)") {
                Some(route) => {
                    let map = schema_of(&schemas.document, &entry["direction"], route);
                    schemas.resolve(&map)["additionalProperties"].clone()
                }
                None => schema_of(&schemas.document, &entry["direction"], route),
            },
        };
        assert!(schema.is_object(), "{file}: {route} has no schema");
        schemas.check(&schema, &value, file).unwrap();
        checked += 1;
    }
    assert_eq!(checked, 68);
    for (name, document) in documents_of_the_extension() {
        let schema = serde_json::json!({"$ref": format!("#/components/schemas/{name}")});
        schemas.check(&schema, &serde_json::from_slice(&document.unwrap()).unwrap(), name).unwrap();
    }
    let unseen: Vec<_> = schemas.all_properties().difference(&schemas.seen).cloned().collect();
    assert_eq!(unseen, [""; 0], "fields that no sample has");
}

/// Every document that Garden does not have, with every field set.
fn documents_of_the_extension() -> Vec<(&'static str, Result<Vec<u8>>)> {
    let process_id = || "p".to_owned();
    let result = ProcessResult {
        process_id: process_id(),
        exit_status: 255,
        stdout: "out".to_owned(),
        stderr: "err".to_owned(),
        stdout_dropped_bytes: u64::MAX,
        stderr_dropped_bytes: 1,
    };
    let status = |exit_status| ProcessStatus { process_id: process_id(), exit_status };
    vec![
        ("StartedProcess", json::encode(&StartedProcess { process_id: process_id() })),
        ("ProcessStatus", json::encode(&status(None))),
        ("ProcessStatus", json::encode(&status(Some(0)))),
        ("ProcessResult", json::encode(&result)),
        ("ProcessResult", json::encode(&ProcessResult::default())),
        ("SignalRequest", json::encode(&SignalRequest::from(Signal::Terminate))),
        ("SignalRequest", json::encode(&SignalRequest::from(Signal::Kill))),
    ]
}

/// What the type makes of an example.
fn again<T: Serialize + DeserializeOwned>(example: &Value) -> Value {
    let value: T = json::decode(example.to_string().as_bytes()).unwrap();
    serde_json::from_slice(&json::encode(&value).unwrap()).unwrap()
}

#[test]
fn its_examples_are_requests_that_mean_something() {
    let document = document();
    let mut schemas = Schemas::new(document.clone());
    for def in plain_routes() {
        let body = &operation(&document, def.method, def.path)["requestBody"]["content"]["application/json"];
        if body.is_null() {
            continue;
        }
        for example in body["examples"].as_object().unwrap().values().map(|example| &example["value"]) {
            schemas.check(&body["schema"], example, def.name).unwrap();
            let understood = match def.name {
                "create" => again::<ContainerSpec>(example),
                "stop" => again::<StopRequest>(example),
                "set_grace_time" => again::<DurationNs>(example),
                "net_in" => again::<NetInRequest>(example),
                "net_out" => again::<NetOutRule>(example),
                "bulk_net_out" | "replace_net_out" => again::<Vec<NetOutRule>>(example),
                "set_property" => again::<PropertyValue>(example),
                "start_process" => again::<ProcessSpec>(example),
                "signal_process" => again::<SignalRequest>(example),
                name => panic!("{name}: of which type is its body?"),
            };
            let mut missing = Vec::new();
            lost(example, &understood, def.name, &mut missing);
            assert_eq!(missing, [""; 0]);
        }
    }
}

/// The places of `given` that are not in `understood`.
fn lost(given: &Value, understood: &Value, place: &str, missing: &mut Vec<String>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(_)) => {
            for (key, value) in given {
                lost(value, &understood[key], &format!("{place}.{key}"), missing);
            }
        }
        (Value::Array(given), Value::Array(_)) => {
            for (index, value) in given.iter().enumerate() {
                lost(value, &understood[index], &format!("{place}[{index}]"), missing);
            }
        }
        // What is zero may be left out.
        (given, Value::Null) if *given == 0 || *given == false || *given == "" => {}
        (given, understood) if given == understood => {}
        _ => missing.push(format!("{place}: {given} became {understood}")),
    }
}
