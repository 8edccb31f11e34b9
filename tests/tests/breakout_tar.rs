//! Attempts to break out by way of what is streamed in and out.
//!
//! Each attack is seen to succeed without what stops it, and then refused. docs/DEFENCES.md lists them all.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use backend_linux::rootfs::untar::{End, Options, Owner, Resolve, untar};
use protocol::FilesQuery;
use tests::{
    attack::script,
    columns::check,
    files::{body, collect, tar_of},
    linux::linux,
    world::World,
};

/// How often a race is run at least, and for how long at most.
const ROUNDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(100);

/// A directory of the host with a file in it. Its name says where it is, so that a behaviour finds it. In a container
/// there may be another one at the same path.
struct Outside(&'static str);

impl Outside {
    fn make(name: &'static str) -> Outside {
        fs::create_dir(outside(name)).unwrap();
        fs::write(outside(name).join("secret"), "the host's").unwrap();
        Outside(name)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(outside(self.0));
    }
}

fn outside(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("garden-{name}-{}", std::process::id()))
}

/// Whether it is another than it was.
fn changed(name: &str) -> bool {
    let secret = outside(name).join("secret");
    let files = fs::read_dir(outside(name)).unwrap().count();
    files != 1
        || fs::metadata(&secret).unwrap().nlink() != 1
        || fs::read_to_string(secret).unwrap() != "the host's"
}

/// The tests' directories.
const NAMES: &str = "outside-names";
const RACES: &str = "outside-races";

/// What one entry of an archive says, whatever that leads to.
struct Entry<'a> {
    kind: tar::EntryType,
    name: &'a str,
    link: &'a str,
    content: &'a str,
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        // Not by `set_path`, which refuses what this is about.
        header.as_gnu_mut().unwrap().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.content.len() as u64);
        header.set_mode(0o666);
        header.set_cksum();
        builder.append(&header, entry.content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Archives each of which changes the host's directory if it is unpacked without care in a directory of the host.
fn hostile_archives(directory: &Path) -> Vec<(&'static str, Vec<u8>)> {
    use tar::EntryType::{Link, Regular, Symlink};
    let outside = outside(NAMES);
    let planted = outside.join("planted").display().to_string();
    let secret = outside.join("secret").display().to_string();
    let up = format!("{}{planted}", "../".repeat(directory.components().count()).trim_end_matches('/'));
    let (folder, planted_through) = (outside.display().to_string(), "link/planted");
    let file = |name| Entry { kind: Regular, name, link: "", content: "planted" };
    let hardlink = [Entry { kind: Link, name: "hard", link: &secret, content: "" }];
    let link = [Entry { kind: Symlink, name: "link", link: &folder, content: "" }, file(planted_through)];
    vec![
        ("absolute", archive(&[file(&planted)])),
        ("dots", archive(&[file(&up)])),
        ("hardlink", archive(&hardlink)),
        ("symbolic link", archive(&link)),
    ]
}

#[test]
fn names_and_links_of_an_archive_lead_nowhere_outside() {
    // Unpacked on the host by a program that trusts it: each does what it is meant to.
    for index in 0..4 {
        let made = Outside::make(NAMES);
        let directory = tempfile::tempdir_in(outside(NAMES).parent().unwrap()).unwrap();
        let (what, archive) = hostile_archives(directory.path()).swap_remove(index);
        let file = directory.path().join("archive");
        fs::write(&file, archive).unwrap();
        let mut trusting = Command::new("tar");
        trusting.args(["-x", "-P", "-h", "--keep-directory-symlink", "-f"]).arg(&file);
        trusting.arg("-C").arg(directory.path()).stderr(Stdio::null());
        trusting.status().expect("tar");
        assert!(changed(NAMES), "{what}");
        drop(made);
    }
    let _outside = Outside::make(NAMES);
    check(linux(), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            let folder = outside(NAMES).display().to_string();
            script(world, &handle, &format!("mkdir -p {folder}")).await;
            for (what, archive) in hostile_archives(Path::new("/tmp/in")) {
                let query = FilesQuery { path: "/tmp/in".into(), ..FilesQuery::default() };
                let result = world.backend().stream_in(&handle, query, body(archive)).await;
                assert!(!changed(NAMES), "{what}: {result:?}");
                // Links do lead on, but as they do for every process of the container.
                assert_eq!(result.is_ok(), what == "symbolic link", "{what}: {result:?}");
            }
            let planted = outside(NAMES).join("planted").display().to_string();
            assert_eq!(script(world, &handle, &format!("cat {planted}")).await, "planted");
        })
    });
}

/// Has a process of the container make `/tmp/place` a directory and a link by turns, until it is killed. The link leads
/// to a path that is a directory of the container's, and another one of the host's.
async fn keep_swapping(world: &World, handle: &str) -> protocol::Process {
    let outside = outside(RACES).display().to_string();
    let swap = format!(
        "mkdir -p {outside} && echo \"the container's\" > {outside}/secret && cd /tmp && mkdir directory &&
        ln -s {outside} link && ln -s {outside} place && touch swapping
        while :; do
            mv -T place link; mv -T directory place
            mv -T place directory; mv -T link place
        done"
    );
    let process = world.run(handle, &["sh", "-c", &swap]).await;
    let wait = "n=0; until [ -e /tmp/swapping ] || [ $n = 300 ]; do sleep 0.1; n=$((n + 1)); done";
    script(world, handle, wait).await;
    process
}

async fn stop(process: protocol::Process) {
    process.control.signal(protocol::Signal::Kill).await.expect("kill");
    process.exit.await.expect("an exit status");
}

#[test]
fn links_that_come_and_go_while_files_are_streamed_lead_nowhere_outside() {
    let _outside = Outside::make(RACES);
    // Where the link is, whoever works with the host's root goes to the host's directory: the race is lost.
    let directory = tempfile::tempdir().unwrap();
    symlink(outside(RACES), directory.path().join("place")).unwrap();
    let unpack = |resolve| {
        let options = Options { owner: Owner::Caller, resolve, end: End::MustBeMarked };
        let root = File::open(directory.path()).unwrap();
        untar(tar_of(&[("place/planted", b"planted")]).as_slice(), root.as_fd(), &options)
    };
    assert!(unpack(Resolve::Beneath).is_err() && !changed(RACES));
    unpack(Resolve::ThroughLinks).unwrap();
    assert!(changed(RACES));
    fs::remove_file(outside(RACES).join("planted")).unwrap();

    check(linux(), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            let swapping = keep_swapping(world, &handle).await;
            let begun = Instant::now();
            let (mut rounds, mut went_out, mut went_in) = (0, false, false);
            // Whether a link is there at a time is a matter of luck: until some went through it in both directions.
            while rounds < ROUNDS || !went_out || !went_in {
                assert!(begun.elapsed() < PATIENCE, "never through the link: out {went_out}, in {went_in}");
                let query = FilesQuery { path: "/tmp/place".into(), ..FilesQuery::default() };
                let tar = body(tar_of(&[("planted", b"planted")]));
                let _ = world.backend().stream_in(&handle, query, tar).await;
                let query = FilesQuery { path: "/tmp/place/secret".into(), ..FilesQuery::default() };
                if let Ok(stream) = world.backend().stream_out(&handle, query).await
                    && let Ok(tar) = collect(stream).await
                {
                    let has = |text: &[u8]| tar.windows(text.len()).any(|bytes| bytes == text);
                    assert!(!has(b"the host's"), "the host's file came out");
                    went_out |= has(b"the container's");
                }
                let planted = outside(RACES).join("planted").display().to_string();
                went_in = went_in || script(world, &handle, &format!("cat {planted}")).await == "planted";
                rounds += 1;
            }
            stop(swapping).await;
            assert!(!changed(RACES));
        })
    });
}
