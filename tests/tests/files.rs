//! Files in and out of containers of a real kernel: sparse, many, special, with odd owners. On the Linux backend, in
//! process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, os::unix::fs::FileExt, process::Command};

use protocol::{FilesQuery, ProcessSpec};
use tar::{EntryType, Header};
use tests::{
    columns::{Behaviour, check},
    files::{body, collect, untar},
    linux::{linux, linux_with},
    world::{World, assert_fails_with, end},
};

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

async fn run(world: &World, handle: &str, script: &str) -> (String, i32) {
    let args = vec!["-c".to_owned(), script.to_owned()];
    let spec = ProcessSpec { path: "/bin/sh".into(), args, dir: "/".into(), ..ProcessSpec::default() };
    let ended = end(world.backend().run(handle, spec).await.expect("run")).await;
    (ended.text(), ended.status)
}

fn query(user: &str, path: &str) -> FilesQuery {
    FilesQuery { user: user.into(), path: path.into() }
}

fn header(kind: EntryType, owner: u64, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    header
}

/// A tar with one entry.
fn one(mut header: Header, path: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, path, content).expect("a tar in memory");
    builder.into_inner().expect("a tar in memory")
}

#[test]
fn a_sparse_file_comes_in_with_its_holes() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let host = tempfile::tempdir().expect("a directory");
            let file = fs::File::create(host.path().join("sparse")).unwrap();
            file.write_all_at(b"begin", 0).unwrap();
            file.write_all_at(b"end", (1 << 30) - 3).unwrap();
            for format in ["--format=gnu", "--format=pax"] {
                let output = Command::new("tar")
                    .args(["--sparse", format, "-cf", "-", "-C"])
                    .arg(host.path())
                    .arg("sparse")
                    .output()
                    .expect("tar");
                assert!(output.status.success() && output.stdout.len() < 1 << 20, "{format}");
                let tar = body(output.stdout);
                world.backend().stream_in(&handle, query("", "/tmp"), tar).await.expect("stream in");
                let script = "cd /tmp; stat -c %s sparse; [ $(stat -c %b sparse) -lt 2048 ] || echo no holes
                    head -c 5 sparse; tail -c 3 sparse; rm sparse";
                assert_eq!(run(world, &handle, script).await.0, "1073741824\nbeginend", "{format}");
            }
        })
    });
}

#[test]
fn twenty_thousand_files_with_long_names_go_in_and_come_out() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            // Long ones for some only: each takes three more blocks of the tar.
            let directory =
                |n: u32| if n.is_multiple_of(100) { "n".repeat(200) } else { (n % 100).to_string() };
            let mut builder = tar::Builder::new(Vec::new());
            for n in 0..20_000 {
                let content = n.to_string();
                let mut header = header(EntryType::Regular, 0, 0o644, content.len());
                let path = format!("many/{}/{n}", directory(n));
                builder.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
            let tar = bytes::Bytes::from(builder.into_inner().unwrap());
            let tar: protocol::ByteStream = Box::pin(futures_util::stream::iter([Ok(tar)]));
            world.backend().stream_in(&handle, query("", "/tmp"), tar).await.expect("stream in");
            assert_eq!(run(world, &handle, "find /tmp/many -type f | wc -l").await.0.trim(), "20000");
            let stream = world.backend().stream_out(&handle, query("", "/tmp/many/")).await;
            let files = untar(&collect(stream.expect("stream out")).await.expect("all of it"));
            let content = |n: u32| files[&format!("{}/{n}", directory(n))].0.clone();
            assert!((0..20_000).all(|n| content(n) == Some(n.to_string().into_bytes())));
        })
    });
}

#[test]
fn special_files_and_bits_go_in_as_far_as_the_user_may() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let mut builder = tar::Builder::new(Vec::new());
            builder.append_data(&mut header(EntryType::Regular, 0, 0o4755, 1), "setuid", &b"x"[..]).unwrap();
            builder.append_data(&mut header(EntryType::Fifo, 7, 0o640, 0), "fifo", &b""[..]).unwrap();
            builder.append_link(&mut header(EntryType::Link, 0, 0o644, 0), "other-name", "setuid").unwrap();
            builder.append_link(&mut header(EntryType::Symlink, 0, 0o777, 0), "link", "/etc/passwd").unwrap();
            let tar = builder.into_inner().unwrap();
            for (user, owner, of_fifo) in [("", "0", "7"), ("vcap", "1000", "1000")] {
                let place = format!("/tmp/as-{owner}");
                let streamed =
                    world.backend().stream_in(&handle, query(user, &place), body(tar.clone())).await;
                streamed.expect("stream in");
                let script =
                    format!("cd {place}; stat -c '%n %F %a %u %h' setuid fifo other-name; readlink link");
                let wanted = format!(
                    "setuid regular file 4755 {owner} 2\nfifo fifo 640 {of_fifo} 1\n\
                     other-name regular file 4755 {owner} 2\n/etc/passwd\n"
                );
                assert_eq!(run(world, &handle, &script).await.0, wanted);
                let mut device = header(EntryType::Block, 0, 0o666, 0);
                device.set_device_major(7).unwrap();
                device.set_device_minor(0).unwrap();
                let streamed =
                    world.backend().stream_in(&handle, query(user, &place), body(one(device, "disk", b"")));
                assert_fails_with(streamed.await, "error streaming in");
                assert_eq!(run(world, &handle, &format!("ls -A {place}/disk")).await.1, 1);
            }
        })
    });
}

#[test]
fn a_capability_of_a_file_goes_in_and_counts_in_the_container_alone() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let shell =
                collect(world.backend().stream_out(&handle, query("", "/bin/busybox")).await.expect("out"));
            let busybox = untar(&shell.await.expect("all of it"))["busybox"].0.clone().expect("a file");
            // Version 2, effective, permitted: CAP_NET_RAW (13).
            let mut value = Vec::new();
            for word in [0x0200_0001_u32, 1 << 13, 0, 0, 0] {
                value.extend_from_slice(&word.to_le_bytes());
            }
            let mut builder = tar::Builder::new(Vec::new());
            let attribute: (&str, &[u8]) = ("SCHILY.xattr.security.capability", &value);
            builder.append_pax_extensions([attribute]).unwrap();
            let mut file = header(EntryType::Regular, 0, 0o755, busybox.len());
            builder.append_data(&mut file, "busybox", &busybox[..]).unwrap();
            let tar = body(builder.into_inner().unwrap());
            world.backend().stream_in(&handle, query("", "/opt"), tar).await.expect("stream in");
            let args = vec!["grep".into(), "CapEff".into(), "/proc/self/status".into()];
            let spec =
                ProcessSpec { path: "/opt/busybox".into(), args, user: "vcap".into(), ..Default::default() };
            let ended = end(world.backend().run(&handle, spec).await.expect("run")).await;
            assert_eq!(ended.text().split_whitespace().last(), Some("0000000000002000"));
        })
    });
}

#[test]
fn an_owner_that_the_container_has_no_id_for_is_an_error_that_names_the_file() {
    check(linux_with(|config| config.ids.per_container = Some(65_536)), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            let tar = one(header(EntryType::Regular, 70_000, 0o644, 1), "far", b"x");
            let streamed = world.backend().stream_in(&handle, query("", "/tmp"), body(tar.clone())).await;
            assert_fails_with(streamed, "error streaming in");
            let streamed = world.backend().stream_in(&handle, query("", "/tmp"), body(tar.clone())).await;
            assert_fails_with(streamed, "\"far\" to user 70000 and group 70000");
            // Who is not root owns what it unpacks, whoever the archive says.
            world.backend().stream_in(&handle, query("vcap", "/tmp/of"), body(tar)).await.expect("stream in");
            assert_eq!(run(world, &handle, "stat -c %u /tmp/of/far").await.0, "1000\n");
        })
    });
}

#[test]
fn a_file_that_grows_while_it_comes_out_makes_no_broken_tar() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "echo x > /tmp/grows; echo ready; while true; do echo more >> /tmp/grows; done";
            let process = world.run(&handle, &["sh", "-c", script]).await;
            let begun = std::time::Instant::now();
            while run(world, &handle, "wc -c < /tmp/grows")
                .await
                .0
                .trim()
                .parse()
                .is_ok_and(|size: u64| size < 100)
            {
                assert!(begun.elapsed() < tests::patience::patience(30));
            }
            for _ in 0..20 {
                let stream = world.backend().stream_out(&handle, query("", "/tmp/grows")).await;
                let files = untar(&collect(stream.expect("stream out")).await.expect("all of it"));
                assert!(files["grows"].0.as_ref().is_some_and(|content| content.starts_with(b"x\nmore\n")));
            }
            process.control.signal(protocol::Signal::Kill).await.expect("kill");
            assert_eq!(process.exit.await, Ok(137));
        })
    });
}
