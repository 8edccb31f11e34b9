//! Ids of its own for each container, seen from the host: on the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use backend_linux::{Config, HostIds};
use garden_client::Client;
use protocol::{Backend, BindMount, BindMountMode, BindMountOrigin, ContainerSpec, ProcessSpec};
use tests::{
    columns::{Behaviour, check},
    killable::{Killable, can_make_containers},
    linux::{linux, linux_with},
    world::{World, assert_fails_with, end},
};

const COUNT: u32 = 65_536;

fn ranges(config: &mut Config) {
    config.ids.per_container = Some(COUNT);
}

fn with_ranges(behaviour: Behaviour) {
    check(linux_with(ranges), behaviour);
}

/// Runs a script to its end: its output, and its status.
async fn run(world: &World, handle: &str, user: &str, script: &str) -> (String, i32) {
    let args = vec!["-c".to_owned(), script.to_owned()];
    let spec = ProcessSpec { path: "/bin/sh".into(), args, user: user.into(), ..ProcessSpec::default() };
    let ended = end(world.backend().run(handle, spec).await.expect("run")).await;
    (ended.text(), ended.status)
}

/// The host's ids of its user 0 and its group 0, and how many follow.
async fn own_ids(world: &World, handle: &str) -> [u32; 3] {
    let (text, _) = run(world, handle, "", "cat /proc/self/uid_map /proc/self/gid_map").await;
    let words: Vec<u32> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [0, user, count, 0, group, count_of_groups] = words[..] else { panic!("two maps of a line: {text}") };
    assert_eq!(count, count_of_groups);
    [user, group, count]
}

fn bind(source: &Path, destination: &str, mode: BindMountMode) -> BindMount {
    let (src_path, dst_path) = (source.display().to_string(), destination.to_owned());
    BindMount { src_path, dst_path, mode, origin: BindMountOrigin::Host }
}

async fn sharing(world: &World, directory: &Path) -> String {
    let bind_mounts = vec![bind(directory, "/shared", BindMountMode::ReadWrite)];
    world.create_with(|spec: &mut ContainerSpec| spec.bind_mounts = bind_mounts).await
}

/// A directory that everybody may write to.
fn shared_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    directory
}

/// A process that waits in the container, as the host numbers it and its user.
async fn sleeper(world: &World, handle: &str, seconds: &str) -> (protocol::Process, u32, u32) {
    let process = world.run(handle, &["sleep", seconds]).await;
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let pids: Vec<u32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    let wanted = format!("sleep\0{seconds}\0");
    let is_it =
        |pid: &&u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted.as_bytes());
    let pid = *pids.iter().find(is_it).expect("the process on the host");
    (process, pid, fs::metadata(format!("/proc/{pid}")).unwrap().uid())
}

#[test]
fn each_container_has_ids_of_its_own_for_processes_and_files() {
    with_ranges(|world| {
        Box::pin(async move {
            let mut owners = BTreeSet::new();
            for n in 0..3 {
                let handle = world.create().await;
                let [user, group, count] = own_ids(world, &handle).await;
                assert_eq!((group, count), (user, COUNT));
                assert!(user >= 1_879_048_192 && (user - 1_879_048_192).is_multiple_of(COUNT), "{user}");
                let seconds = format!("{}.{n}", 600_000 + std::process::id());
                let (process, pid, owner) = sleeper(world, &handle, &seconds).await;
                assert_eq!(owner, user, "process {pid}");
                process.control.signal(protocol::Signal::Kill).await.expect("kill");
                assert_eq!(process.exit.await, Ok(137));
                assert!(owners.insert(user));
                // All that belongs to root in the container, and nothing to nobody.
                let script = "stat -c '%u:%g %n' / /bin /etc/hosts /etc/resolv.conf /dev /dev/null /dev/pts /dev/pts/ptmx \
                              /dev/shm /tmp /proc/1; touch /root/x && stat -c '%u:%g' /root/x /proc/self/fd/1";
                let (text, status) = run(world, &handle, "", script).await;
                assert_eq!(status, 0, "{text}");
                assert!(text.lines().all(|line| line.starts_with("0:0")), "{text}");
                let as_user = run(world, &handle, "vcap", "touch ~/x && stat -c %u:%g ~/x").await;
                assert_eq!(as_user, ("1000:1000\n".to_owned(), 0));
            }
        })
    });
}

#[test]
fn a_bind_mount_shows_root_of_the_host_as_the_containers_and_keeps_ids_on_the_disk() {
    with_ranges(|world| {
        Box::pin(async move {
            let directory = shared_directory();
            fs::write(directory.path().join("of-root"), "x").unwrap();
            fs::write(directory.path().join("of-1000"), "x").unwrap();
            chown(directory.path().join("of-1000"), Some(1000), Some(1000)).unwrap();
            let handle = sharing(world, directory.path()).await;
            let script = "cd /shared && stat -c '%u:%g' of-root of-1000 && echo y > of-root && touch new";
            assert_eq!(run(world, &handle, "", script).await, ("0:0\n1000:1000\n".to_owned(), 0));
            assert_eq!(run(world, &handle, "vcap", "touch /shared/users").await.1, 0);
            assert_eq!(fs::read_to_string(directory.path().join("of-root")).unwrap(), "y\n");
            let owner = |name: &str| fs::metadata(directory.path().join(name)).unwrap().uid();
            assert_eq!([owner("of-root"), owner("new"), owner("users")], [0, 0, 1000]);
        })
    });
}

#[test]
fn a_mount_that_cannot_be_shown_with_other_ids_is_named() {
    with_ranges(|world| {
        Box::pin(async move {
            let mut spec = world.spec();
            spec.bind_mounts = vec![bind(Path::new("/proc/self"), "/x", BindMountMode::ReadOnly)];
            assert_fails_with(
                world.backend().create(spec).await,
                "cannot be shown with the container's own ids",
            );
            let mut spec = world.spec();
            spec.bind_mounts = vec![bind(Path::new("/"), "/x", BindMountMode::ReadOnly)];
            let error =
                world.backend().create(spec).await.expect_err("the host's /proc below it").to_string();
            assert!(error.contains("bind mount of \"/\": what is mounted at \"/"), "{error}");
            assert!(!error.contains("mounted at \"/\" "), "the mount below is named: {error}");
        })
    });
}

/// Whether who has the ids of one container's root on the host, and nothing else between, reads a file of another
/// container's root, and sends its process a signal.
async fn attacks(world: &World) -> [bool; 2] {
    let directory = shared_directory();
    let victim = sharing(world, directory.path()).await;
    let attacker = world.create().await;
    let seconds = |n| format!("{}.{n}", 600_000 + std::process::id());
    let (process, pid, owner) = sleeper(world, &victim, &seconds(7)).await;
    let (other, _, user) = sleeper(world, &attacker, &seconds(8)).await;
    let file = directory.path().join("secret");
    fs::write(&file, "of the victim").unwrap();
    chown(&file, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let as_attacker = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).uid(user).gid(user).output();
        output.expect("a program of the host").status.success()
    };
    let seen = [
        as_attacker("cat", &[file.to_str().expect("a path")]),
        as_attacker("kill", &["-CONT", &pid.to_string()]),
    ];
    for process in [process, other] {
        process.control.signal(protocol::Signal::Kill).await.expect("kill");
        assert_eq!(process.exit.await, Ok(137));
    }
    seen
}

#[test]
fn who_got_out_of_its_container_reads_and_signals_what_is_anothers_if_both_have_the_same_ids() {
    check(linux(), |world| Box::pin(async move { assert_eq!(attacks(world).await, [true; 2]) }));
}

#[test]
fn who_got_out_of_its_container_cannot_touch_what_has_other_ids() {
    with_ranges(|world| Box::pin(async move { assert_eq!(attacks(world).await, [false; 2]) }));
}

#[test]
fn a_container_keeps_its_ids_when_the_server_is_killed_and_nobody_else_gets_them() {
    if !can_make_containers() {
        println!("skipped: only root can make containers");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let three = (3 * COUNT).to_string();
        let options = ["--ids-per-container", "65536", "--uid-map-length", &three];
        let mut server = Killable::new().with_options(&options);
        let client = server.start(None).await;
        let create = async |client: &Client, handle: &str| {
            let spec = ContainerSpec { handle: handle.into(), ..ContainerSpec::default() };
            client.create(spec).await.map(drop)
        };
        let map = async |client: &Client, handle: &str| {
            let args = vec!["/proc/self/uid_map".to_owned()];
            let spec = ProcessSpec { path: "cat".into(), args, ..ProcessSpec::default() };
            client.run_and_collect(handle, spec).await.expect("run").stdout
        };
        for handle in ["a", "b"] {
            create(&client, handle).await.expect("create");
        }
        let kept = map(&client, "b").await;
        client.destroy("a").await.expect("destroy");
        server.kill();
        let client = server.start(None).await;
        assert_eq!(map(&client, "b").await, kept);
        for handle in ["c", "d"] {
            create(&client, handle).await.expect("create");
        }
        assert_fails_with(create(&client, "e").await, "max containers reached");
        let maps = BTreeSet::from([kept, map(&client, "c").await, map(&client, "d").await]);
        assert_eq!(maps.len(), 3, "{maps:?}");
        for handle in ["b", "c", "d"] {
            client.destroy(handle).await.expect("destroy");
        }
        drop(client);
        server.kill();
        assert_eq!(server.clean_up().await, Vec::<String>::new());
    });
}

#[test]
fn a_user_or_group_beyond_the_range_is_named() {
    with_ranges(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            for (user, wanted) in [
                ("65536", "user 65536: the container has no user id 65536, only 0 to 65535"),
                ("root:70000", "user root: the container has no group id 70000, only 0 to 65535"),
            ] {
                let spec = ProcessSpec { path: "true".into(), user: user.into(), ..ProcessSpec::default() };
                assert_fails_with(world.backend().run(&handle, spec).await, wanted);
                let query = protocol::FilesQuery { user: user.into(), path: "/".into() };
                let answer = world.backend().stream_in(&handle, query, tests::files::body(Vec::new())).await;
                assert_fails_with(answer, wanted);
            }
            assert_eq!(run(world, &handle, "65535:65535", "id -u; id -g").await.0, "65535\n65535\n");
        })
    });
}

#[test]
fn there_are_no_more_containers_than_ranges_and_a_range_comes_back() {
    let few = |config: &mut Config| {
        config.ids.per_container = Some(COUNT);
        config.ids.users = HostIds { start: Some(1_000_000), length: 2 * COUNT };
        config.ids.groups = HostIds { start: Some(2_000_000), length: 3 * COUNT };
    };
    check(linux_with(few), |world| {
        Box::pin(async move {
            assert_eq!(world.backend().capacity().await.expect("capacity").max_containers, 2);
            let handles = [world.create().await, world.create().await];
            let [user, group, _] = own_ids(world, &handles[1]).await;
            let all = [[1_000_000, 2_000_000], [1_000_000 + COUNT, 2_000_000 + COUNT]];
            assert!(all.contains(&[user, group]), "{user} {group}");
            assert_fails_with(world.backend().create(world.spec()).await, "max containers reached");
            world.backend().destroy(&handles[1]).await.expect("destroy");
            let again = world.create().await;
            assert_eq!(own_ids(world, &again).await, [user, group, COUNT]);
        })
    });
}

#[test]
fn the_one_mapping_for_all_has_the_shape_that_the_operator_gave_it() {
    let shaped = |config: &mut Config| {
        config.ids.users = HostIds { start: Some(100_000), length: 5000 };
        config.ids.groups = HostIds { start: Some(200_000), length: 6000 };
    };
    check(linux_with(shaped), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            let (text, _) = run(world, &handle, "", "cat /proc/self/uid_map /proc/self/gid_map").await;
            let words: Vec<_> = text.split_whitespace().collect();
            let users = ["0", "4294967294", "1", "1", "100000", "5000"];
            let groups = ["0", "4294967294", "1", "1", "200000", "6000"];
            assert_eq!(words, [users, groups].concat());
            let script = "touch ~/x && stat -c %u:%g ~/x";
            assert_eq!(run(world, &handle, "vcap", script).await, ("1000:1000\n".to_owned(), 0));
        })
    });
}
