//! Tars in and out.
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, io, os::unix::fs::PermissionsExt};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use garden_client::{Backend, ByteStream, Error, FilesQuery, tarball};
use support::{LIMIT, Scripted, answer, captured};
use tokio::time::timeout;

fn chunks(chunks: Vec<io::Result<&'static str>>) -> ByteStream {
    Box::pin(stream::iter(chunks.into_iter().map(|chunk| chunk.map(Bytes::from))))
}

fn query(path: &str) -> FilesQuery {
    FilesQuery { user: "alice".into(), path: path.into() }
}

#[tokio::test]
async fn an_upload_is_chunked() {
    let server = Scripted::start(|_, mut peer| async move {
        let head = peer.request().await;
        assert!(
            head.starts_with("PUT /containers/c1/files?destination=%2Ftmp%2Fx&user=alice HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains("Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n"), "{head}");
        assert_eq!(peer.until("0\r\n\r\n").await, "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
        peer.send(captured("26-streamin-chunked.txt")).await;
    });
    let tar = chunks(vec![Ok("hello"), Ok(""), Ok(" world")]);
    server.client().stream_in("c1", query("/tmp/x"), tar).await.unwrap();
}

#[tokio::test]
async fn an_upload_whose_source_fails_is_cut_short() {
    let (sender, body) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let server = Scripted::start(move |_, mut peer| {
        let sender = sender.lock().unwrap().take().unwrap();
        async move {
            peer.request().await;
            sender.send(peer.rest().await).unwrap();
        }
    });
    let tar = chunks(vec![Ok("half"), Err(io::Error::other("disk on fire"))]);
    let error = server.client().stream_in("c1", query("/"), tar).await.unwrap_err();
    assert_eq!(error.to_string(), "stream_in: cannot read the tar to send: disk on fire");
    assert_eq!(timeout(LIMIT, body).await.unwrap().unwrap(), b"4\r\nhalf\r\n");
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_an_upload_is_heard() {
    for _ in 0..50 {
        let server = Scripted::start(|_, mut peer| async move {
            peer.request().await;
            // Closes with most of the upload unread.
            let body = r#"{"Type":"","Message":"error streaming in: no room","Handle":"","ProcessID":"","Binary":""}"#;
            peer.send(answer("500 Internal Server Error", body)).await;
        });
        let endless: ByteStream = Box::pin(stream::repeat_with(|| Ok(Bytes::from(vec![0; 65536]))));
        let error =
            timeout(LIMIT, server.client().stream_in("c1", query("/"), endless)).await.unwrap().unwrap_err();
        assert_eq!(error, Error::Failed { message: "error streaming in: no room".into() });
    }
}

async fn read(mut stream: ByteStream) -> (Vec<u8>, Option<io::Error>) {
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        match bytes {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

#[tokio::test]
async fn a_download_that_is_cut_short_ends_in_an_error() {
    let chunked = |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let whole = chunked("5\r\nhello\r\n0\r\n\r\n");
    let client = |answer: &str| {
        let server = Scripted::answering(answer.as_bytes().to_vec(), 0);
        (server.client(), server)
    };
    let (c, _server) = client(&whole);
    let (bytes, error) = read(c.stream_out("c1", query("/x")).await.unwrap()).await;
    assert!(bytes == b"hello" && error.is_none(), "{error:?}");

    let head = whole.len() - "5\r\nhello\r\n0\r\n\r\n".len();
    for length in head..whole.len() {
        let (c, _server) = client(&whole[..length]);
        let (_, error) = read(c.stream_out("c1", query("/x")).await.unwrap()).await;
        let error = error.unwrap_or_else(|| panic!("cut at {length}")).to_string();
        assert!(error.contains("was cut short"), "{error}");
    }
    let (c, _server) = client("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
    let (bytes, error) = read(c.stream_out("c1", query("/x")).await.unwrap()).await;
    assert!(bytes == b"hello" && error.is_some());
    let (c, _server) = client("HTTP/1.1 200 OK\r\n\r\nhello");
    assert!(c.stream_out("c1", query("/x")).await.is_err());
}

#[tokio::test]
async fn a_download_s_error_comes_before_its_first_byte() {
    let server = Scripted::answering(captured("28-streamout-err.txt"), 0);
    let error = server.client().stream_out("c1", query("/nope")).await.err().unwrap();
    assert_eq!(error, Error::Failed { message: "no such path: /nope".into() });
    let server = Scripted::answering(captured("27-streamout.txt"), 0);
    let (bytes, error) = read(server.client().stream_out("c1", query("/tmp/x")).await.unwrap()).await;
    assert!(bytes == b"hello world" && error.is_none());
}

#[tokio::test]
async fn a_directory_goes_into_a_tar_and_comes_out_of_it() {
    let from = tempfile::tempdir().unwrap();
    let root = from.path();
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    fs::write(root.join("sub/run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("sub/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let large: Vec<u8> = (0..=255).cycle().take(1_000_001).collect();
    fs::write(root.join("large"), &large).unwrap();
    let long = "n".repeat(200);
    fs::write(root.join(&long), "").unwrap();
    std::os::unix::fs::symlink("sub/nowhere", root.join("link")).unwrap();

    let to = tempfile::tempdir().unwrap();
    let target = to.path().join("made/for/it");
    tarball::unpack(tarball::pack(root.to_owned()), target.clone()).await.unwrap();
    assert_eq!(fs::read(target.join("large")).unwrap(), large);
    assert_eq!(fs::read_link(target.join("link")).unwrap().to_str(), Some("sub/nowhere"));
    assert!(target.join("sub/empty").is_dir() && target.join(&long).is_file());
    let mode = fs::metadata(target.join("sub/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);

    let one = to.path().join("one");
    tarball::unpack(tarball::pack(root.join("large")), one.clone()).await.unwrap();
    assert_eq!(fs::read(one.join("large")).unwrap(), large);
}

#[tokio::test]
async fn what_cannot_be_packed_or_unpacked_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let (_, error) = read(tarball::pack(directory.path().join("nope"))).await;
    let error = error.unwrap().to_string();
    assert!(error.contains("nope: No such file or directory"), "{error}");

    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s.sock")).unwrap();
    let (_, error) = read(tarball::pack(directory.path().to_owned())).await;
    assert!(error.unwrap().to_string().contains("s.sock: is neither a file"));

    let target = directory.path().join("out");
    let broken: ByteStream = Box::pin(
        tarball::pack("/proc/self/status".into()).take(0).chain(chunks(vec![Err(io::Error::other("cut"))])),
    );
    let error = tarball::unpack(broken, target.clone()).await.unwrap_err();
    assert!(format!("{error:?}").contains("cut"), "{error:?}");
}

#[tokio::test]
async fn a_tar_cannot_lead_out_of_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "door", &outside).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o6777);
    header.set_size(4);
    tar.append_data(&mut header, "door/evil", &b"evil"[..]).unwrap();
    let bytes = tar.into_inner().unwrap();
    let stream: ByteStream = Box::pin(stream::iter([Ok(Bytes::from(bytes))]));
    assert!(tarball::unpack(stream, directory.path().join("in")).await.is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
