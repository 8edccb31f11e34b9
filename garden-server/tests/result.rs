//! Processes for whoever has only an HTTP client: started, looked at, signalled, and their result as one document.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use backend_fake::{Context, FakeOptions};
use common::{Server, within};
use serde_json::json;

const MIB: usize = 1 << 20;

const PROCESSES: &str = "POST /v1/containers/c1/processes";

#[tokio::test]
async fn run_and_wait_in_one_request() {
    let server = Server::with_container().await;
    let run = format!("{PROCESSES}?wait=true");
    for mut raw in server.both_kinds().await {
        let response =
            raw.request(&run, r#"{"path":"sh","args":["-c","cat; echo out; echo err >&2; exit 3"]}"#).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let mut result = response.json();
        assert!(!result["process_id"].take().as_str().unwrap().is_empty());
        let wanted = json!({"process_id": null, "exit_status": 3, "stdout": "out\n", "stderr": "err\n"});
        assert_eq!(result, wanted);
    }
}

#[tokio::test]
async fn started_looked_at_signalled_and_waited_for() {
    let server = Server::with_container().await;
    let response = server.request(PROCESSES, r#"{"id":"p","path":"hold"}"#).await;
    assert_eq!((response.status, response.json()), (201, json!({"process_id": "p"})));
    let look = "GET /v1/containers/c1/processes/p";
    assert_eq!(server.request(look, "").await.json(), json!({"process_id": "p", "exit_status": null}));

    // A client that waits and leaves costs nothing.
    let mut leaving = server.connect().await;
    let waiting = format!("{look}/result HTTP/1.1\r\nHost: api\r\n\r\n");
    leaving.send(&waiting).await;
    let mut waiting_on = server.connect().await;
    waiting_on.send(&waiting).await;
    drop(leaving);
    assert_eq!(server.request(look, "").await.json()["exit_status"], json!(null));

    let signal = "POST /v1/containers/c1/processes/p/signal";
    assert_eq!(server.request(signal, r#"{"signal":"terminate"}"#).await.text(), "{}\n");
    let wanted = json!({"process_id": "p", "exit_status": 143, "stdout": "", "stderr": ""});
    assert_eq!(waiting_on.response().await.json(), wanted);
    assert_eq!(server.request(look, "").await.json(), json!({"process_id": "p", "exit_status": 143}));
    // It has ended, which a signal does not mind.
    assert_eq!(server.request(signal, r#"{"signal":"kill"}"#).await.status, 200);
}

#[tokio::test]
async fn a_process_of_an_earlier_containers_name_is_not_taken_for_it() {
    let server = Server::with_container().await;
    for n in 0..10 {
        let run = json!({"id": "job", "path": "echo", "args": [n.to_string()]}).to_string();
        assert_eq!(server.request(PROCESSES, &run).await.status, 201);
        let result = server.request("GET /v1/containers/c1/processes/job/result", "").await.json();
        assert_eq!(result["stdout"], json!(format!("{n}\n")));
        assert_eq!(server.request("DELETE /containers/c1", "").await.status, 200);
        server.create("c1").await;
    }
}

#[tokio::test]
async fn input_stays_open_for_who_attaches() {
    let server = Server::with_container().await;
    let id = server.start_process(r#"{"path":"cat"}"#).await;
    let mut socket = server.attach(&id).await;
    socket.send(common::websocket::STDIN, "late").await;
    socket.send(common::websocket::CLOSE, [common::websocket::STDIN]).await;
    assert_eq!(socket.rest().await.stdout, b"late");
}

#[tokio::test]
async fn a_result_can_be_had_again_and_in_exact_bytes() {
    let mut options = FakeOptions::default();
    options.programs.insert("binary", |context: Context| async move {
        context.print(b"a\xff\0\xc3").await;
        Ok(0)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let id = server.start_process(r#"{"path":"binary"}"#).await;
    let result = format!("GET /v1/containers/c1/processes/{id}/result");
    for _ in 0..2 {
        assert_eq!(server.request(&result, "").await.json()["stdout"], "a\u{fffd}\0\u{fffd}");
        let exact = server.request(&format!("{result}?encoding=base64"), "").await.json();
        assert_eq!((&exact["stdout"], &exact["stderr"]), (&json!("Yf8Aww=="), &json!("")));
    }
}

#[tokio::test]
async fn what_is_beyond_the_bound_is_counted_and_holds_nothing_up() {
    let mut options = FakeOptions::default();
    options.programs.insert("much", |context: Context| async move {
        for _ in 0..40 {
            context.print(vec![b'x'; MIB]).await;
            // The first of them before anybody reads.
            tokio::task::yield_now().await;
        }
        context.print_error("few").await;
        Ok(0)
    });
    let server = Server::with_options(options).await;
    server.create("c1").await;
    let result = server.request(&format!("{PROCESSES}?wait=true"), r#"{"path":"much"}"#).await.json();
    assert_eq!(result["stdout"].as_str().unwrap().len(), 16 * MIB);
    assert_eq!(result["stdout_dropped_bytes"], 24 * MIB);
    assert_eq!((&result["stderr"], result.get("stderr_dropped_bytes")), (&json!("few"), None));
}

#[tokio::test]
async fn errors_are_those_of_the_protocol() {
    let server = Server::with_container().await;
    let process = "/v1/containers/c1/processes";
    for (request, body, status, kind, message) in [
        (
            format!("POST {process}"),
            r#"{"path":"nosuch"}"#,
            500,
            "ExecutableNotFoundError",
            "not found in $PATH",
        ),
        (
            format!("POST {process}?wait=perhaps"),
            r#"{"path":"cat"}"#,
            400,
            "",
            "wait=\"perhaps\": use one of",
        ),
        (format!("POST {process}"), "", 500, "", "EOF"),
        (format!("GET {process}/none"), "", 404, "ProcessNotFoundError", "unknown process: none"),
        (format!("GET {process}/none/result"), "", 404, "ProcessNotFoundError", "none"),
        (format!("POST {process}/none/signal"), r#"{"signal":"kill"}"#, 404, "ProcessNotFoundError", "none"),
        (format!("POST {process}/none/signal"), r#"{"signal":"hup"}"#, 500, "", "hup"),
        ("POST /v1/containers/x/processes".into(), r#"{"path":"cat"}"#, 404, "ContainerNotFoundError", "x"),
    ] {
        let response = server.request(&request, body).await;
        let document = response.json();
        assert_eq!((response.status, &document["Type"]), (status, &kind.into()), "{request}: {document}");
        assert!(document["Message"].as_str().unwrap().contains(message), "{request}: {document}");
    }
    let response = server.request(&format!("DELETE {process}/p"), "").await;
    assert_eq!((response.status, response.header("allow")), (405, Some("GET")));
}

#[tokio::test]
async fn who_waits_while_the_server_stops_is_told() {
    let mut server = Server::with_container().await;
    let mut waiting = server.connect().await;
    waiting
        .send(format!(
            "{PROCESSES}?wait=true HTTP/1.1\r\nHost: api\r\nContent-Length: 24\r\n\r\n{{\"id\":\"p\",\"path\":\"hold\"}}"
        ))
        .await;
    within(async {
        while server.request("GET /v1/containers/c1/processes/p", "").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.ask_to_stop();
    let response = waiting.response().await;
    assert_eq!((response.status, &response.json()["Type"]), (500, &"ServiceUnavailableError".into()));
    let fake = server.fake.clone();
    within(server.stopped()).await;
    let again = Server::before(fake, garden_server::Config::default()).await;
    let status = again.request("GET /v1/containers/c1/processes/p", "").await.json();
    assert_eq!(status["exit_status"], json!(null));
}
