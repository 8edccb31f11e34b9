//! The request heads that the official Go client was seen to send (`tests/wire/client-accepts.txt`), byte for byte:
//! each is understood as the client meant it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use backend_fake::FakeBackend;
use common::Server;
use garden_server::Config;
use protocol::{Backend, ContainerSpec, ProcessSpec, Properties};

/// The recorded heads, by their request lines.
fn heads() -> Vec<String> {
    let record = include_str!("../../tests/wire/client-accepts.txt");
    let quoted = record.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'));
    let heads = quoted.filter(|text| text.contains(" HTTP/1.1"));
    heads.map(|text| text.replace("\\r", "\r").replace("\\n", "\n")).collect()
}

/// A body that fits the head, with what the request needs.
fn body_for(head: &str) -> String {
    let content = match head.split(' ').nth(1).unwrap() {
        "/containers" => r#"{"handle":"made"}"#,
        "/containers/h/processes" => r#"{"path":"exit","args":["4"]}"#,
        path if path.starts_with("/containers/h/properties/") => r#"{"value":"1"}"#,
        _ => "",
    };
    if head.contains("Transfer-Encoding: chunked") {
        // Of an empty tar.
        return format!("400\r\n{}\r\n0\r\n\r\n", "\0".repeat(1024));
    }
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.map_or(0, |text| text.parse().unwrap());
    assert!(content.len() <= length || length == 0, "{head}");
    format!("{content:length$}")
}

/// A server as the client's requests need it.
async fn furnished() -> Server {
    let server = Server::with(FakeBackend::new(), Config::default()).await;
    let properties: Properties =
        [("a&b", "c d/é+,"), ("z", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let spec = ContainerSpec { handle: "h".to_owned(), properties, ..ContainerSpec::default() };
    server.fake.create(spec).await.unwrap();
    for handle in ["h1", "h 2", "3"] {
        server.create(handle).await;
    }
    let spec = ProcessSpec { id: "p 1".into(), path: "hold".into(), ..ProcessSpec::default() };
    server.fake.run("h", spec).await.unwrap();
    server
}

/// What the request asked for, as the answer or the backend shows it.
async fn seen(server: &Server, head: &str) -> String {
    let mut raw = server.connect().await;
    raw.send(format!("{head}{}", body_for(head))).await;
    let response = raw.response().await;
    let closes = head.contains("Connection: close");
    assert_eq!(response.header("connection"), closes.then_some("close"), "{head}");
    let told = match (response.status, response.is_hijacked()) {
        (200 | 201, true) => raw.payload().await["process_id"].as_str().unwrap().to_owned(),
        (200, false) => response.text().trim_end().to_owned(),
        (500, _) => return response.json()["Message"].as_str().unwrap().to_owned(),
        (status, _) => return status.to_string(),
    };
    let properties = server.fake.properties("h").await.unwrap();
    let set: Vec<String> =
        properties.iter().filter(|(_, value)| *value == "1").map(|(key, _)| format!("{key:?}")).collect();
    format!("{told} {}", set.join(" ")).trim_end().to_owned()
}

#[tokio::test]
async fn every_head_of_the_go_client_is_understood() {
    const PROPERTY: &str = "/containers/h/properties/";
    let mut checked = 0;
    for head in heads() {
        let server = furnished().await;
        let got = seen(&server, &head).await;
        let line = head.split("\r\n").next().unwrap();
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let expected = match (method, target) {
            ("GET", "/ping") => "{}",
            ("POST", "/containers") => r#"{"Handle":"made"}"#,
            ("GET", "/containers?a%26b=c+d%2F%C3%A9%2B%2C&z=") => r#"{"Handles":["h"]}"#,
            ("GET", "/containers/bulk_info?handles=h1%2Ch+2%2Ch%2C3") => "bulk",
            ("PUT", "/containers/h/files?destination=%2Fa+b&user=u") => {
                "error streaming in: unable to find user u: no matching entries in passwd file"
            }
            ("GET", "/containers/h/files?source=%2Fa+b&user=") => "no such path: /a b",
            ("GET", "/containers/h/processes/p%201") => "p 1",
            ("POST", "/containers/h/processes") => "generated",
            ("PUT", target) => match target.strip_prefix(PROPERTY).unwrap() {
                // The client does not escape keys: a slash makes another path of it, and others end it.
                "a/b" | "../x" => "404",
                "a%2Fb" => r#"{} "a/b""#,
                "a%20b" | "a+b" => r#"{} "a b""#,
                "a?b" | "a" => r#"{} "a""#,
                "%C3%A9" => r#"{} "é""#,
                "a:b" => r#"{} "a:b""#,
                key => panic!("{key} is untested"),
            },
            other => panic!("{other:?} is untested"),
        };
        match expected {
            "bulk" => {
                let entries: serde_json::Value = serde_json::from_str(&got).unwrap();
                let handles: Vec<_> = entries.as_object().unwrap().keys().map(String::as_str).collect();
                assert_eq!(handles, ["3", "h", "h 2", "h1"], "{line}");
            }
            "generated" => assert!(!got.is_empty() && got.parse::<u16>().is_err(), "{line}: {got}"),
            expected => assert_eq!(got, expected, "{line}"),
        }
        checked += 1;
    }
    assert_eq!(checked, 17);
}
