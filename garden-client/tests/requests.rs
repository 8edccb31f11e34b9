//! Ordinary requests, against a server that says exactly what the test wants.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use garden_client::{
    Backend, Client, ContainerSpec, Error,
    protocol::{Capacity, NetIn},
};
use support::{LIMIT, Scripted, answer, captured};
use tokio::time::timeout;

#[tokio::test]
async fn what_the_reference_server_answers() {
    let client = |capture| {
        let server = Scripted::answering(captured(capture), 20);
        (server.client(), server)
    };
    let (c, _server) = client("03-capacity.txt");
    let wanted = Capacity {
        memory_in_bytes: 1 << 30,
        disk_in_bytes: 1 << 40,
        schedulable_disk_in_bytes: 0,
        max_containers: 250,
    };
    assert_eq!(c.capacity().await.unwrap(), wanted);
    let (c, _server) = client("05-create-dup.txt");
    let error = c.create(ContainerSpec::default()).await.unwrap_err();
    assert!(error.to_string().contains("already in use"), "{error}");
    let (c, _server) = client("06-list.txt");
    assert_eq!(*c.list(&BTreeMap::new()).await.unwrap(), ["c1"]);
    let (c, _server) = client("08-info-unknown.txt");
    assert!(matches!(c.info("x").await, Err(Error::ContainerNotFound { .. })));
    let (c, _server) = client("13-405.txt");
    let error = c.ping().await.unwrap_err().to_string();
    assert!(error.contains("with 405 Method Not Allowed: Method Not Allowed"), "{error}");
    let (c, _server) = client("14-info.txt");
    assert_eq!(c.info("c1").await.unwrap().into_value().state, "active");
    let (c, _server) = client("15-bulkinfo.txt");
    let info = c.bulk_info(&["c1".into(), "nope".into()]).await.unwrap();
    assert!(
        info.0.values().any(|entry| entry.err.is_some()) && info.0.values().any(|entry| entry.err.is_none())
    );
    let (c, _server) = client("16-metrics.txt");
    c.metrics("c1").await.unwrap();
    let (c, _server) = client("20-getprop-missing.txt");
    assert_eq!(c.property("c1", "zz").await, Err(Error::PropertyNotFound { key: "zz".into() }));
    let (c, _server) = client("21-properties.txt");
    assert!(!c.properties("c1").await.unwrap().is_empty());
    let (c, _server) = client("25-netin.txt");
    let ports = NetIn { host_port: 61001, container_port: 61001 };
    assert_eq!(c.net_in("c1", NetIn::default()).await, Ok(ports));
    let (c, _server) = client("32-create-unavail.txt");
    assert!(matches!(c.create(ContainerSpec::default()).await, Err(Error::ServiceUnavailable { .. })));
    let (c, _server) = client("33-create-unrec.txt");
    assert!(matches!(c.create(ContainerSpec::default()).await, Err(Error::Unrecoverable { .. })));
}

#[tokio::test]
async fn parameters_are_escaped() {
    let server = Scripted::start(|_, mut peer| async move {
        loop {
            let request = peer.request().await;
            let Some(line) = request.lines().next() else { return };
            let status = match line {
                "GET /containers/a%2Fb%0D%0A/properties/x%20%2B%3F%23 HTTP/1.1" => "200 OK",
                "GET /containers?a%26b=c%20d%2F%C3%A9 HTTP/1.1" => "200 OK",
                "GET /containers/../info HTTP/1.1" => "200 OK",
                _ => "400 Bad Request",
            };
            peer.send(answer(status, "{}")).await;
        }
    });
    let client = server.client();
    assert_eq!(client.property("a/b\r\n", "x +?#").await.unwrap(), "");
    client.list(&BTreeMap::from([("a&b".into(), "c d/é".into())])).await.unwrap();
    client.info("..").await.unwrap().into_value();
}

#[tokio::test]
async fn an_empty_name_reaches_no_other_route() {
    let client = Client::new("unix:/nowhere").unwrap();
    assert_eq!(client.destroy("").await, Err(Error::container_not_found("")));
    assert_eq!(client.attach("c1", "").await.unwrap_err(), Error::process_not_found(""));
    assert!(matches!(client.property("c1", "").await, Err(Error::Invalid { field: "key", .. })));
}

#[tokio::test]
async fn questions_share_a_connection_and_survive_its_end() {
    let server = Scripted::start(|number, mut peer| async move {
        for _ in 0..2 {
            peer.request().await;
            peer.send(answer("200 OK", "{}\n")).await;
        }
        if number == 0 {
            // The third question arrives and finds the connection closed behind it.
            peer.request().await;
        }
    });
    let client = server.client();
    client.ping().await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(server.connections(), 1);
    client.ping().await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn what_changes_something_is_never_sent_twice() {
    let server = Scripted::start(|number, mut peer| async move {
        peer.request().await;
        if number == 0 {
            peer.send(answer("200 OK", "{}\n")).await;
            // Answers one question; whatever else comes is heard and not answered.
            peer.request().await;
        }
    });
    let client = server.client();
    client.ping().await.unwrap();
    let error = client.create(ContainerSpec::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Connection { .. }), "{error}");
    assert!(error.to_string().contains("lost during create"), "{error}");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn hostile_answers_are_errors() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{".to_owned();
    let endless_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    for hostile in ["SSH-2.0\r\n\r\n".into(), answer("200 OK", "7"), endless_head] {
        let server = Scripted::answering(hostile.clone().into_bytes(), 0);
        let error = timeout(LIMIT, server.client().capacity()).await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Malformed { .. }), "{hostile:.40}: {error:?}");
        assert_eq!(server.connections(), 1, "{hostile:.40} was asked for again");
    }
    for cut_short in [answer("200 OK", "[1,2").replace("4\r\n", "5\r\n"), length] {
        let server = Scripted::answering(cut_short.clone().into_bytes(), 0);
        let client = server.client().with_retries_for(Duration::ZERO);
        let error = timeout(LIMIT, client.capacity()).await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Connection { .. }), "{cut_short:.40}: {error:?}");
    }
}

#[tokio::test]
async fn failing_to_connect_says_where_and_what_next() {
    let client = Client::new("unix:/nowhere/garden.sock").unwrap().with_retries_for(Duration::ZERO);
    let error = client.ping().await.unwrap_err();
    assert!(matches!(&error, Error::CannotConnect { .. }));
    let text = error.to_string();
    assert!(text.starts_with("cannot connect to unix:/nowhere/garden.sock: No such file"), "{text}");
    assert!(text.ends_with("is garden-server running, and is this its address?"), "{text}");
}

#[tokio::test]
async fn what_the_wire_does_not_have() {
    let client = Client::new("unix:/nowhere").unwrap();
    assert!(client.telemetry().is_empty());
    let error = client.grace_time("c1").await.unwrap_err();
    assert!(error.to_string().contains("no request that reads it"), "{error}");
}

#[tokio::test]
async fn tcp_works_too() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let listener = match tokio::net::TcpListener::bind(bind).await {
            Ok(listener) => listener,
            Err(error) if bind.starts_with('[') => {
                println!("skipped: this host has no IPv6: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(answer("200 OK", "{}").as_bytes()).await.unwrap();
        });
        Client::new(&format!("tcp://{address}")).unwrap().ping().await.unwrap();
    }
}
