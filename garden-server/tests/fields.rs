//! Every field of every request reaches the backend, and every field of every answer is the backend's: the reference's
//! samples, with every field set, go through HTTP in both directions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
mod recorder;

use std::{collections::BTreeSet, sync::Arc};

use common::{Raw, Response, within};
use garden_server::{Config, Listener, UnixSocketOptions, serve};
use protocol::routes::{self, Match, ROUTES, Route};
use recorder::{EXIT_STATUS, RecordingBackend, STDERR, STDOUT, golden};

/// A server before a recording backend.
struct Recorded {
    backend: RecordingBackend,
    folder: tempfile::TempDir,
}

impl Recorded {
    async fn start() -> Recorded {
        let backend = RecordingBackend::default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("garden.sock");
        let listener = Listener::unix(&socket, UnixSocketOptions::default()).await.unwrap();
        let served =
            serve(vec![listener], Arc::new(backend.clone()), Config::default(), std::future::pending());
        tokio::spawn(served);
        let recorded = Recorded { backend, folder };
        // The server asks for the containers when it starts.
        let started = recorded.connect().await.request("GET /ping", "").await;
        assert_eq!(
            (started.status, recorded.backend.calls()),
            (200, vec!["list {}".to_owned(), "ping".to_owned()])
        );
        recorded
    }

    async fn connect(&self) -> Raw {
        let socket = self.folder.path().join("garden.sock");
        Raw::over(tokio::net::UnixStream::connect(socket).await.unwrap())
    }

    async fn request(&self, head: &str, body: &str) -> (Response, String) {
        let response = self.connect().await.request(head, body).await;
        let calls = self.backend.calls();
        assert_eq!(calls.len(), 1, "{head}: {calls:?}");
        (response, calls.into_iter().next().unwrap())
    }
}

/// Request, its body, the call that the backend sees, the answer.
fn ordinary_exchanges() -> Vec<(&'static str, String, String, String)> {
    let none = String::new;
    let done = || golden("res-empty");
    let with = |call: &str, sample: &str| format!("{call} {}", golden(sample));
    let (spec, rule, rules) =
        ("req-create-ContainerSpec.full", "req-netout-NetOutRule.full", "req-bulknetout.full");
    vec![
        ("GET /ping", none(), "ping".into(), done()),
        ("GET /capacity", none(), "capacity".into(), golden("res-capacity-Capacity.full")),
        ("POST /containers", golden(spec), with("create", spec), golden("res-create")),
        ("GET /containers?a=1&b%3D=+&a=2", none(), r#"list {"a":"1","b=":" "}"#.into(), golden("res-list")),
        (
            "GET /containers/bulk_info?handles=a,b%2Cc",
            none(),
            r#"bulk_info ["a", "b", "c"]"#.into(),
            golden("res-bulkinfo.mixed"),
        ),
        (
            "GET /containers/bulk_metrics?handles=a,b",
            none(),
            r#"bulk_metrics ["a", "b"]"#.into(),
            golden("res-bulkmetrics.mixed"),
        ),
        ("DELETE /containers/h%2F1", none(), "destroy h/1".into(), done()),
        ("GET /containers/h+1/info", none(), "info h 1".into(), golden("res-info-ContainerInfo.full")),
        ("PUT /containers/h/stop", golden("req-stop.kill-true"), "stop h true".into(), done()),
        ("PUT /containers/h/stop", golden("req-stop.kill-false"), "stop h false".into(), done()),
        (
            "PUT /containers/h/grace_time",
            golden("req-setgracetime"),
            "set_grace_time h 5000000000 ns".into(),
            done(),
        ),
        (
            "PUT /containers/h/files?user=u&destination=%2Fd+e",
            "a tar".into(),
            "stream_in h u /d e a tar".into(),
            done(),
        ),
        (
            "GET /containers/h/files?user=u&source=%2Fs%2F",
            none(),
            "stream_out h u /s/".into(),
            "one two".into(),
        ),
        (
            "GET /containers/h/limits/bandwidth",
            none(),
            "bandwidth_limits h".into(),
            golden("res-limits-bandwidth.full"),
        ),
        ("GET /containers/h/limits/cpu", none(), "cpu_limits h".into(), golden("res-limits-cpu.full")),
        ("GET /containers/h/limits/disk", none(), "disk_limits h".into(), golden("res-limits-disk.full")),
        (
            "GET /containers/h/limits/memory",
            none(),
            "memory_limits h".into(),
            golden("res-limits-memory.full"),
        ),
        (
            "POST /containers/h/net/in",
            golden("req-netin-NetInRequest.full"),
            r#"net_in h {"host_port":1,"container_port":2}"#.into(),
            r#"{"host_port":61001,"container_port":8080}"#.into(),
        ),
        ("POST /containers/h/net/out", golden(rule), format!("net_out h [{}]", golden(rule)), done()),
        ("POST /containers/h/net/out/bulk", golden(rules), with("net_out h", rules), done()),
        ("PUT /v1/containers/h/net/out", golden(rules), with("replace_net_out h", rules), done()),
        ("GET /containers/h/properties", none(), "properties h".into(), golden("res-properties.full")),
        ("GET /containers/h/properties/k%2F", none(), "property h k/".into(), golden("res-property")),
        (
            "PUT /containers/h/properties/k",
            golden("req-setproperty"),
            "set_property h k some<value>".into(),
            done(),
        ),
        ("DELETE /containers/h/properties/k", none(), "remove_property h k".into(), done()),
        ("GET /containers/h/metrics", none(), "metrics h".into(), golden("res-metrics-Metrics.full")),
    ]
}

#[tokio::test]
async fn ordinary_requests_and_answers_are_passed_on_whole() {
    let server = Recorded::start().await;
    let mut tried: BTreeSet<&str> = BTreeSet::new();
    for (head, body, call, answer) in ordinary_exchanges() {
        let (method, target) = head.split_once(' ').unwrap();
        let path = target.split('?').next().unwrap();
        let Match::Found(route, _) = routes::find(method, path) else { panic!("{head}") };
        tried.insert(route.def().name);
        let (response, seen) = server.request(head, &body).await;
        assert_eq!((response.status, seen), (200, call), "{head}");
        assert_eq!(response.text().trim_end(), answer, "{head}");
    }
    let ordinary = ROUTES.iter().filter(|def| !def.hijacked).map(|def| def.name);
    let all: BTreeSet<&str> = ordinary.chain([Route::ReplaceNetOut.def().name]).collect();
    assert_eq!(tried, all, "every ordinary route");
}

#[tokio::test]
async fn processes_and_their_streams_are_passed_on_whole() {
    let server = Recorded::start().await;
    let spec = golden("req-run-ProcessSpec.full");
    for (route, head, body, call, status) in [
        (Route::Run, "POST /containers/h/processes", spec.clone(), format!("run h {spec}"), 201),
        (
            Route::Attach,
            "GET /containers/h/processes/some-pid",
            String::new(),
            "attach h some-pid".into(),
            200,
        ),
    ] {
        assert!(route.def().hijacked);
        let mut raw = server.connect().await;
        assert_eq!(raw.request(head, &body).await.status, status);
        assert_eq!(server.backend.calls(), [call]);
        let first = raw.payload().await;
        assert_eq!(first["process_id"], "some-pid");
        for (which, text) in [("stdout", STDOUT), ("stderr", STDERR)] {
            let stream_id = first["stream_id"].as_str().unwrap();
            let path = format!("GET /containers/h/processes/some-pid/attaches/{stream_id}/{which}");
            let mut output = server.connect().await;
            assert_eq!(output.request(&path, "").await.status, 200);
            assert_eq!(output.rest().await, text.as_bytes());
        }

        let mut seen = Vec::new();
        for (sample, calls) in [
            ("stream-stdin", vec!["write_stdin \"some data\\n\""]),
            ("stream-signal.terminate", vec!["signal Terminate"]),
            ("stream-signal.kill", vec!["signal Kill"]),
            ("stream-tty", vec![r#"set_tty {"window_size":{"columns":80,"rows":24}}"#]),
            ("stream-tty.nowindow", vec!["set_tty {}"]),
        ] {
            raw.send(golden(sample)).await;
            let wanted = seen.len() + calls.len();
            within(async {
                while seen.len() < wanted {
                    seen.extend(server.backend.calls());
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert_eq!(seen[wanted - calls.len()..], calls, "{sample}");
        }
        raw.send(golden("stream-stdin.emptydata")).await;
        raw.send(golden("stream-stdin.eof")).await;
        let last = raw.payload().await;
        assert_eq!(last, serde_json::json!({"process_id": "some-pid", "exit_status": EXIT_STATUS}));
        assert_eq!(last, serde_json::from_str::<serde_json::Value>(&golden("stream-exit255")).unwrap());
        assert_eq!(raw.rest().await, b"");
        assert_eq!(server.backend.calls(), ["close_stdin"], "no empty piece is written before it");
    }
}
