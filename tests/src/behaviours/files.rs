//! Files go in and come out as tars.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::stream;
use protocol::{ByteStream, FilesQuery, ProcessSpec, Result};

use crate::{
    files::{body, tar_of},
    world::{World, assert_fails_with, command_spec},
};

const FAILED_IN: &str = "error streaming in";

async fn stream_in(world: &World, handle: &str, user: &str, path: &str, tar: ByteStream) -> Result<()> {
    world.backend().stream_in(handle, FilesQuery { user: user.into(), path: path.into() }, tar).await
}

/// An error of `stream_in` begins with what clients look for.
#[track_caller]
fn assert_refused(result: Result<()>, part: &str) {
    let text = result.expect_err(part).to_string();
    assert!(text.starts_with(FAILED_IN) && text.contains(part), "{text}");
}

/// Content and mode.
pub async fn what_went_in_comes_out(world: &World) {
    let handle = world.create().await;
    let large = vec![7; 300_000];
    world.stream_in(&handle, "", "/tmp/in", &[("a", b"alpha"), ("sub/b", &large), ("empty", b"")]).await;
    let files = world.stream_out(&handle, "/tmp/in/").await;
    assert_eq!(files["a"], (Some(b"alpha".to_vec()), 0o640));
    assert!(files["sub/b"] == (Some(large), 0o640), "sub/b came out changed");
    assert_eq!(files["empty"], (Some(vec![]), 0o640));
    assert_eq!(files["sub"].0, None);
}

/// At once.
pub async fn a_program_sees_what_went_in(world: &World) {
    let handle = world.create().await;
    world.stream_in(&handle, "", "/tmp/in", &[("sub/file", b"content")]).await;
    assert_eq!(world.run_to_end(&handle, &["cat", "/tmp/in/sub/file"]).await.text(), "content");
}

/// A file alone.
pub async fn what_a_program_wrote_comes_out(world: &World) {
    let handle = world.create().await;
    let ended = world.run_to_end(&handle, &["sh", "-c", "echo one > /tmp/file; echo two >> /tmp/file"]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    let files = world.stream_out(&handle, "/tmp/file").await;
    assert_eq!(files["file"].0.as_deref(), Some(&b"one\ntwo\n"[..]));
}

async fn owner(world: &World, handle: &str, path: &str) -> String {
    world.run_to_end(handle, &["stat", "-c", "%u:%g", path]).await.text()
}

/// The one who streams them in, whoever owns them in the tar.
pub async fn files_belong_to_the_user(world: &World) {
    let handle = world.create().await;
    let user = world.traits().user.clone();
    world.stream_in(&handle, &user.name, "/tmp/theirs", &[("sub/f", b"x")]).await;
    world.stream_in(&handle, "", "/tmp/roots", &[("f", b"x")]).await;
    let theirs = format!("{}:{}\n", user.id, user.id);
    assert_eq!(owner(world, &handle, "/tmp/theirs/sub/f").await, theirs);
    assert_eq!(owner(world, &handle, "/tmp/theirs/sub").await, theirs);
    assert_eq!(owner(world, &handle, "/tmp/roots/f").await, "0:0\n");
    let spec = ProcessSpec { user: user.name.clone(), ..command_spec(&["cat", "/tmp/theirs/sub/f"]) };
    assert_eq!(world.run_spec_to_end(&handle, spec).await.text(), "x");
}

/// All that were missing.
pub async fn parents_are_made_and_belong_to_the_user(world: &World) {
    let handle = world.create().await;
    let user = world.traits().user.clone();
    world.stream_in(&handle, &user.name, "/tmp/p/q/r", &[("f", b"x")]).await;
    for path in ["/tmp/p", "/tmp/p/q", "/tmp/p/q/r"] {
        assert_eq!(owner(world, &handle, path).await, format!("{}:{}\n", user.id, user.id), "{path}");
    }
}

/// In both directions.
pub async fn paths_are_relative_to_home(world: &World) {
    let handle = world.create().await;
    let user = world.traits().user.name.as_str();
    world.stream_in(&handle, user, "sub", &[("f", b"home")]).await;
    world.stream_in(&handle, user, "", &[("g", b"home")]).await;
    for path in [format!("/home/{user}/sub/f"), format!("/home/{user}/g")] {
        assert_eq!(world.run_to_end(&handle, &["cat", &path]).await.text(), "home", "{path}");
    }
    world.stream_in(&handle, "", "of-root", &[("f", b"root")]).await;
    assert_eq!(world.stream_out(&handle, "of-root/f").await["f"].0.as_deref(), Some(&b"root"[..]));
}

/// Told by its first bytes.
pub async fn a_gzipped_tar_goes_in(world: &World) {
    let handle = world.create().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar_of(&[("f", b"zipped")])).expect("gzip in memory");
    let gzipped = body(gzip.finish().expect("gzip in memory"));
    stream_in(world, &handle, "", "/tmp/in", gzipped).await.expect("stream in");
    assert_eq!(world.run_to_end(&handle, &["cat", "/tmp/in/f"]).await.text(), "zipped");
}

/// `dir`: its name comes first in every path.
pub async fn without_a_slash_out_comes_the_directory(world: &World) {
    let handle = world.create().await;
    world.stream_in(&handle, "", "/tmp/dir", &[("sub/f", b"x")]).await;
    let files = world.stream_out(&handle, "/tmp/dir").await;
    assert_eq!(files.keys().collect::<Vec<_>>(), ["dir", "dir/sub", "dir/sub/f"]);
}

/// `dir/`: paths begin inside of it.
pub async fn with_a_slash_out_come_its_contents(world: &World) {
    let handle = world.create().await;
    world.stream_in(&handle, "", "/tmp/dir", &[("sub/f", b"x")]).await;
    let files = world.stream_out(&handle, "/tmp/dir/").await;
    let paths: Vec<_> = files.keys().filter(|path| *path != ".").collect();
    assert_eq!(paths, ["sub", "sub/f"]);
}

/// In a file's content and in a header.
pub async fn a_tar_cut_short_is_refused(world: &World) {
    let handle = world.create().await;
    let tar = tar_of(&[("first", &[1; 2000]), ("second", &[2; 5000])]);
    for cut_at in [100, 512 + 700, 512 + 2048 + 200, 512 + 2048 + 512 + 4000] {
        let result = stream_in(world, &handle, "", "/tmp/cut", body(tar[..cut_at].to_vec())).await;
        assert_refused(result, "");
    }
    assert_eq!(world.run_to_end(&handle, &["true"]).await.status, 0);
}

/// Also when it is longer than a block.
pub async fn what_is_no_tar_is_refused(world: &World) {
    let handle = world.create().await;
    for garbage in [b"hello world".to_vec(), b"not a tar ".repeat(300)] {
        assert_refused(stream_in(world, &handle, "", "/tmp/in", body(garbage)).await, "");
    }
}

/// The sender's own error, in the middle of a file.
pub async fn a_body_that_breaks_off_is_refused(world: &World) {
    let handle = world.create().await;
    let begun = Bytes::from(tar_of(&[("f", &[7; 5000])])).slice(..3000);
    let broken: ByteStream = Box::pin(stream::iter([Ok(begun), Err(io::Error::other("sender broke off"))]));
    stream_in(world, &handle, "", "/tmp/in", broken).await.expect_err("half a body");
    assert_eq!(world.run_to_end(&handle, &["true"]).await.status, 0);
}

/// Into a directory of somebody else's, and over a file of somebody else's.
pub async fn a_user_without_permission_is_refused(world: &World) {
    let handle = world.create().await;
    let user = world.traits().user.name.as_str();
    for file in ["theirs", "passwd", "sub/theirs"] {
        let result = stream_in(world, &handle, user, "/etc", body(tar_of(&[(file, b"x")]))).await;
        assert_refused(result, "Permission denied");
    }
    assert_ne!(world.run_to_end(&handle, &["cat", "/etc/theirs"]).await.status, 0);
    assert_ne!(world.run_to_end(&handle, &["cat", "/etc/passwd"]).await.text(), "x");
}

/// In both directions.
pub async fn an_unknown_user_is_refused(world: &World) {
    let handle = world.create().await;
    let wanted = "unable to find user stranger: no matching entries in passwd file";
    assert_refused(stream_in(world, &handle, "stranger", "/tmp", body(tar_of(&[("f", b"x")]))).await, wanted);
    let query = FilesQuery { user: "stranger".into(), path: "/tmp".into() };
    assert_fails_with(world.backend().stream_out(&handle, query).await.map(drop), wanted);
}

/// Before the first byte, so that no empty tar looks like success.
pub async fn a_missing_path_is_refused(world: &World) {
    let handle = world.create().await;
    for path in ["/no/such/path", "/tmp/missing", "/tmp/missing/"] {
        let query = FilesQuery { user: String::new(), path: path.into() };
        let result = world.backend().stream_out(&handle, query).await;
        assert_fails_with(result.map(drop), path.trim_end_matches('/'));
    }
}

/// Nothing of it lands anywhere.
pub async fn a_tar_that_leads_out_of_its_place_is_refused(world: &World) {
    let handle = world.create().await;
    for path in ["../escaped", "a/../../escaped", "../../../../../../tmp/escaped"] {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let tar = [header.as_bytes().as_slice(), &[0; 1024]].concat();
        assert_refused(stream_in(world, &handle, "", "/tmp/in/here", body(tar)).await, "");
    }
    for path in ["/tmp/escaped", "/tmp/in/escaped", "/tmp/in/here/a/escaped"] {
        assert_ne!(world.run_to_end(&handle, &["cat", path]).await.status, 0, "{path}");
    }
}

/// Absolute or upwards: as a process in the container would follow it.
pub async fn links_are_followed_inside_the_container(world: &World) {
    let handle = world.create().await;
    let mut builder = tar::Builder::new(Vec::new());
    for (name, target) in [("absolute", "/tmp/place"), ("upwards", "../../../../../../tmp/place")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_link(&mut header, name, target).expect("a tar in memory");
    }
    let links = builder.into_inner().expect("a tar in memory");
    stream_in(world, &handle, "", "/tmp/links", body(links)).await.expect("stream links in");
    world.stream_in(&handle, "", "/tmp/place", &[("there", b"x")]).await;
    for link in ["absolute", "upwards"] {
        let content = format!("through {link}");
        world.stream_in(&handle, "", &format!("/tmp/links/{link}"), &[("f", content.as_bytes())]).await;
        assert_eq!(world.run_to_end(&handle, &["cat", "/tmp/place/f"]).await.text(), content);
        let files = world.stream_out(&handle, &format!("/tmp/links/{link}/")).await;
        assert_eq!(files["f"].0.as_deref(), Some(content.as_bytes()), "{link}");
    }
}

/// What one writes over a file of the image, too.
pub async fn containers_do_not_share_what_they_write(world: &World) {
    let (one, other) = (world.create().await, world.create().await);
    let passwd = world.run_to_end(&other, &["cat", "/etc/passwd"]).await;
    world.stream_in(&one, "", "/etc", &[("passwd", b"spoilt"), ("new", b"x")]).await;
    assert_eq!(world.run_to_end(&one, &["cat", "/etc/passwd"]).await.text(), "spoilt");
    assert_eq!(world.run_to_end(&other, &["cat", "/etc/passwd"]).await, passwd);
    assert_ne!(world.run_to_end(&other, &["cat", "/etc/new"]).await.status, 0);
    assert_eq!(world.run_to_end(&world.create().await, &["cat", "/etc/passwd"]).await, passwd);
}
