//! Files in and out: what is cut short is never called a success.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::Server;

/// A tar with one file.
fn tar() -> Vec<u8> {
    let mut header = [0; 512];
    header[..4].copy_from_slice(b"file");
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(b"00000000013");
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    header[263..265].copy_from_slice(b"00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut content = [0; 512];
    content[..11].copy_from_slice(b"hello world");
    [header.as_slice(), &content, &[0; 1024]].concat()
}

const PUT: &str = "PUT /containers/c1/files?user=&destination=%2Ftmp%2Fx HTTP/1.1\r\nHost: api\r\n";

#[tokio::test]
async fn a_tar_goes_in_and_comes_out() {
    let server = Server::with_container().await;
    let mut raw = server.connect().await;
    raw.send(format!("{PUT}Transfer-Encoding: chunked\r\n\r\n")).await;
    for piece in tar().chunks(700) {
        raw.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    raw.send("0\r\n\r\n").await;
    let response = raw.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "{}\n"), "{response:?}");

    let response = raw.request("GET /containers/c1/files?user=&source=%2Ftmp%2Fx%2F", "").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    assert!(response.body.windows(11).any(|window| window == b"hello world"));
    assert_eq!(raw.request("GET /ping", "").await.status, 200);
}

#[tokio::test]
async fn a_body_cut_short_is_no_success() {
    let server = Server::with_container().await;
    let tar = tar();
    let half = &tar[..1024];
    for head in [
        "Transfer-Encoding: chunked\r\n\r\n400\r\n".to_owned(),
        format!("Content-Length: {}\r\n\r\n", tar.len()),
    ] {
        for mut raw in server.both_kinds().await {
            raw.send(format!("{PUT}{head}")).await;
            raw.send(half).await;
            raw.half_close().await;
            let response = raw.response().await;
            assert!(response.status >= 400, "{response:?}");
            assert!(
                response.json()["Message"].as_str().unwrap().contains("error streaming in"),
                "{response:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_error_before_the_first_byte_is_an_http_error() {
    let server = Server::with_container().await;
    let response = server.request("GET /containers/c1/files?user=&source=%2Fnosuch", "").await;
    assert_eq!(response.status, 500);
    assert!(!response.json()["Message"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn a_later_error_breaks_the_body() {
    let server = Server::with_container().await;
    let mut raw = server.connect().await;
    raw.send(format!("{PUT}Content-Length: {}\r\n\r\n", tar().len())).await;
    raw.send(tar()).await;
    assert_eq!(raw.response().await.status, 200);

    server.fake.faults().break_next_stream_out("the disk is gone");
    raw.send("GET /containers/c1/files?user=&source=%2Ftmp%2Fx HTTP/1.1\r\nHost: api\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 200);
    raw.chunks().await.expect_err("no last chunk");
}

#[tokio::test]
async fn a_client_that_sends_everything_first_still_gets_the_error() {
    let server = Server::with_container().await;
    let body = vec![b'x'; 8 << 20];
    for path in ["/containers/none/files?destination=x", "/containers/c1/files?user=nobody-knows", "/nosuch"]
    {
        for mut raw in server.both_kinds().await {
            let length = body.len();
            raw.send(format!("PUT {path} HTTP/1.1\r\nHost: api\r\nContent-Length: {length}\r\n\r\n")).await;
            raw.send(&body).await;
            assert!(raw.response().await.status >= 400, "{path}");
            assert_eq!(raw.request("GET /ping", "").await.status, 200, "{path}: the connection goes on");
        }
    }
}
