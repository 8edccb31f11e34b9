//! A server that was given a part of the cgroups: as a unit of systemd is, and as a container is.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use protocol::{Backend, ContainerSpec, Limits, MemoryLimits, PidLimits, ProcessSpec};
use rustix::fs::{XattrFlags, setxattr};
use tests::{
    killable::{Killable, binary, can_make_containers},
    patience::patience,
};

/// What containers use; where v2 has them, they are in one hierarchy.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "devices", "pids"];
const MEMORY_BYTES: u64 = 48 << 20;

/// Where hierarchies that containers use are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    match is_v2() {
        true => vec![top],
        false => CONTROLLERS.iter().map(|name| top.join(name)).collect(),
    }
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A group in each hierarchy, which is somebody else's: it must be there, and empty, at the end.
struct Given {
    name: String,
}

impl Given {
    fn make() -> Given {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let given = Given { name: format!("delegated-{}-{number}", std::process::id()) };
        if is_v2() {
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids").unwrap();
        }
        given.directories().iter().for_each(|directory| fs::create_dir(directory).unwrap());
        given
    }

    /// The same with the mark that systemd puts on what a unit may divide.
    fn marked() -> Given {
        let given = Given::make();
        for directory in given.directories() {
            setxattr(&directory, "trusted.delegate", b"1", XattrFlags::empty()).unwrap();
        }
        given
    }

    fn directories(&self) -> Vec<PathBuf> {
        hierarchies().iter().map(|mount| mount.join(&self.name)).collect()
    }

    /// A script for whoever starts the server, inside these groups or the one `below` them; its arguments are the
    /// server's command line.
    fn wrapper(&self, below: &str, script: &str) -> String {
        let enter: String = self
            .directories()
            .iter()
            .map(|directory| {
                let group = directory.join(below).display().to_string();
                // On v2 nothing can be started beside a group with controllers, but in the leaf where the server is.
                format!(
                    "mkdir -p {group}
                     echo 0 2>/dev/null > {group}/cgroup.procs || echo 0 > {group}/garden-server/cgroup.procs\n"
                )
            })
            .collect();
        format!("set -e\n{enter}{script}\nexec \"$@\"")
    }

    /// The groups below these, in one hierarchy or all.
    fn below(&self) -> Vec<PathBuf> {
        let children = |directory: PathBuf| {
            let entries = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
            entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        self.directories().into_iter().flat_map(children).collect()
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        let removed: Vec<_> = self.directories().iter().map(fs::remove_dir).collect();
        if !std::thread::panicking() {
            removed.into_iter().for_each(|removed| removed.expect("a group that was given, left as it was"));
        }
    }
}

fn sh(script: &str) -> ProcessSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    ProcessSpec { path: "/bin/sh".to_owned(), args, ..ProcessSpec::default() }
}

fn limited(handle: &str) -> ContainerSpec {
    let memory = MemoryLimits { limit_in_bytes: MEMORY_BYTES };
    let limits = Limits { memory, pid: PidLimits { max: 64 }, ..Limits::default() };
    ContainerSpec { handle: handle.to_owned(), limits, ..ContainerSpec::default() }
}

/// Makes a container in a server that was given `given`, and sees its groups there, its limits in force, and that they
/// go with it.
async fn lives_below(server: &mut Killable, given: &Given) {
    let client = server.start(None).await;
    client.create(limited("box")).await.expect("create");
    for directory in given.directories() {
        let group = directory.join(server.base_group()).join("c-box");
        assert!(group.is_dir(), "no {}", group.display());
    }
    for mount in hierarchies() {
        assert!(!mount.join(server.base_group()).exists(), "a group of ours in {}", mount.display());
    }
    assert_eq!(client.memory_limits("box").await.expect("limits").limit_in_bytes, MEMORY_BYTES);
    let script = "x=$(head -c 100663296 /dev/zero | tr '\\0' x); echo ${#x}";
    let process = client.run("box", sh(script)).await.expect("run");
    assert_ne!(process.exit.await.expect("exit"), 0, "the memory limit holds nobody");
    let info = client.info("box").await.expect("info");
    assert!(info.events.iter().flatten().any(|event| event == "Out of memory"), "{:?}", info.events);
    client.destroy("box").await.expect("destroy");
    for directory in given.directories() {
        assert!(
            !directory.join(server.base_group()).join("c-box").exists(),
            "left in {}",
            directory.display()
        );
    }
}

fn test(run: impl AsyncFnOnce()) {
    if can_make_containers() {
        tokio::runtime::Runtime::new().unwrap().block_on(run());
    }
}

#[test]
fn groups_go_below_what_was_delegated_and_it_is_left_as_it_was() {
    test(async || {
        let given = Given::marked();
        let mut server = Killable::new().started_by(&["sh", "-c", &given.wrapper("", ""), "sh"]);
        lives_below(&mut server, &given).await;
        assert_eq!(server.clean_up().await, Vec::<String>::new());
        assert_eq!(given.below(), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_server_that_is_started_elsewhere_finds_its_containers_and_removes_them() {
    test(async || {
        let given = Given::marked();
        let mut server = Killable::new().started_by(&["sh", "-c", &given.wrapper("", ""), "sh"]);
        let client = server.start(None).await;
        client.create(limited("box")).await.expect("create");
        let left = client.run("box", sh("exec sleep 1000")).await.expect("run");
        // Below the unit's group, as systemd starts a server again whose containers are left; then by hand.
        for wrapper in [Some(given.wrapper("server", "")), None] {
            server.kill();
            server = match &wrapper {
                Some(wrapper) => server.started_by(&["sh", "-c", wrapper, "sh"]),
                None => server.started_by(&[]),
            };
            let client = server.start(None).await;
            let metrics = client.metrics("box").await.expect("metrics");
            assert!(metrics.pid.current >= 1 && metrics.pid.max == 64, "{:?}", metrics.pid);
            let process = client.run("box", sh("exit 7")).await.expect("run");
            assert_eq!(process.exit.await.expect("exit"), 7);
            assert!(client.attach("box", &left.id).await.is_ok());
            assert!(
                given
                    .directories()
                    .iter()
                    .all(|group| group.join(server.base_group()).join("c-box").exists())
            );
        }
        // Not by a client: whoever cleans up was started in yet another place.
        assert_eq!(server.clean_up().await, Vec::<String>::new());
        given.directories().iter().for_each(|group| drop(fs::remove_dir(group.join("server"))));
        assert_eq!(given.below(), Vec::<PathBuf>::new());
    });
}

#[test]
fn with_no_container_left_a_server_that_is_started_elsewhere_leaves_nothing_where_it_was() {
    test(async || {
        let given = Given::marked();
        let mut server = Killable::new().started_by(&["sh", "-c", &given.wrapper("", ""), "sh"]);
        server.start(None).await;
        assert!(given.below().iter().any(|group| group.ends_with(server.base_group())));
        server.kill();
        server = server.started_by(&[]);
        server.start(None).await;
        assert_eq!(given.below(), Vec::<PathBuf>::new());
        assert_eq!(server.clean_up().await, Vec::<String>::new());
    });
}

#[test]
fn where_the_root_is_read_only_groups_go_below_the_servers_own() {
    test(async || {
        let given = Given::make();
        let server = Killable::new();
        let script = format!("exec unshare --mount sh -c '{} exec \"$@\"' sh \"$@\"", read_only(&given, ""));
        let mut server = server.started_by(&["sh", "-c", &given.wrapper("", &script), "sh"]);
        lives_below(&mut server, &given).await;
        // On v2 it is in a leaf of it by now; so is whoever starts the next one there.
        let again = given.wrapper(if is_v2() { "garden-server" } else { "" }, &script);
        server.kill();
        let mut server = server.started_by(&["sh", "-c", &again, "sh"]);
        lives_below(&mut server, &given).await;
        assert_eq!(server.clean_up().await, Vec::<String>::new());
        assert_eq!(given.below(), Vec::<PathBuf>::new());
    });
}

/// Commands that leave nothing writable of the cgroups but `given`, and that not in the hierarchy of `without`.
fn read_only(given: &Given, without: &str) -> String {
    let lines = hierarchies().into_iter().zip(given.directories()).map(|(mount, own)| {
        let (mount, own) = (mount.display(), own.display());
        let keep = match mount.to_string().ends_with(without) && !without.is_empty() {
            true => String::new(),
            false => format!("mount --bind {own} {own};"),
        };
        format!("{keep} mount -o remount,bind,ro {mount};")
    });
    lines.collect()
}

#[test]
fn in_a_container_groups_go_below_what_it_sees() {
    test(async || {
        let given = Given::make();
        // What the host has mounted, as far as the container is to see it.
        let part: String = hierarchies()
            .into_iter()
            .zip(given.directories())
            .map(|(mount, own)| format!("mount --bind {} {};", own.display(), mount.display()))
            .collect();
        // The same in a cgroup namespace.
        let whole: String = hierarchies()
            .into_iter()
            .map(|mount| {
                let kind = match is_v2() {
                    true => "cgroup2".to_owned(),
                    false => format!("cgroup -o {}", mount.file_name().unwrap().display()),
                };
                format!("umount {0} && mount -t {kind} none {0};", mount.display())
            })
            .collect();
        for (namespaces, mounts) in [("--mount", part), ("--mount --cgroup", whole)] {
            // The container's own first process, which is in the way on v2.
            let script = format!("exec unshare {namespaces} sh -c '{mounts} exec \"$@\"' sh \"$@\"");
            let mut first = Command::new("sh");
            first.args(["-c", &given.wrapper("", &script), "sh", "sleep", "1000"]);
            let mut first = first.spawn().unwrap();
            let begun = Instant::now();
            while fs::read_to_string(format!("/proc/{}/comm", first.id())).unwrap().trim() != "sleep" {
                assert!(begun.elapsed() < patience(10), "no container");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let script = format!("exec nsenter --target {} {namespaces} \"$@\"", first.id());
            let mut server = Killable::new().started_by(&["sh", "-c", &given.wrapper("", &script), "sh"]);
            lives_below(&mut server, &given).await;
            server.kill();
            lives_below(&mut server, &given).await;
            assert_eq!(server.clean_up().await, Vec::<String>::new(), "{namespaces}");
            assert_eq!(given.below(), Vec::<PathBuf>::new(), "{namespaces}");
            assert!(first.try_wait().unwrap().is_none(), "the container's first process has ended");
            first.kill().unwrap();
            first.wait().unwrap();
        }
    });
}

#[test]
fn a_controller_that_was_not_delegated_is_said_at_the_start_and_the_rest_goes_on() {
    test(async || {
        let given = Given::make();
        let script = match is_v2() {
            true => {
                // The group around hands on all but one.
                let own = given.directories()[0].join("inner");
                let (given, own) = (given.directories()[0].clone(), own.display());
                let given = given.display();
                format!(
                    "mkdir -p {own}
                     echo 0 2>/dev/null > {own}/cgroup.procs || echo 0 > {own}/garden-server/cgroup.procs
                     echo +cpu +memory > {given}/cgroup.subtree_control
                     exec unshare --mount sh -c 'mount --bind {own} /sys/fs/cgroup; exec \"$@\"' sh \"$@\""
                )
            }
            false => {
                format!("exec unshare --mount sh -c '{} exec \"$@\"' sh \"$@\"", read_only(&given, "pids"))
            }
        };
        // Nothing can be started beside the inner group later.
        let below = if is_v2() { "start" } else { "" };
        let mut server = Killable::new().started_by(&["sh", "-c", &given.wrapper(below, &script), "sh"]);
        let client = server.start(None).await;
        let log = server.log();
        let told =
            log.lines().find(|line| line.contains("cgroup controllers that this server cannot have here"));
        assert!(told.is_some_and(|line| line.contains("[\"pids\"]")), "{log}");
        client.create(ContainerSpec { limits: Limits::default(), ..limited("box") }).await.expect("create");
        let process = client.run("box", sh("exit 7")).await.expect("run");
        assert_eq!(process.exit.await.expect("exit"), 7);
        client.destroy("box").await.expect("destroy");
        assert_eq!(server.clean_up().await, Vec::<String>::new());
        if is_v2() {
            for below in ["inner", "start"] {
                fs::remove_dir(given.directories()[0].join(below)).expect("a group as it was");
            }
        }
        assert_eq!(given.below(), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_look_at_the_host_leaves_what_was_delegated_as_it_was() {
    test(async || {
        let given = Given::marked();
        let check = |given: &Given, script: &str| {
            let output = Command::new("sh")
                .args(["-c", &given.wrapper("", script), "sh"])
                .arg(binary("garden-server"))
                .args(["check", "--backend", "linux", "--tag", "zz"])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let told = check(&given, "");
        assert!(told.contains("ok      cgroup controllers\n"), "{told}");
        assert_eq!(given.below(), Vec::<PathBuf>::new());
        let mounts: String = hierarchies()
            .iter()
            .map(|mount| format!("mount -o remount,bind,ro {};", mount.display()))
            .collect();
        let told = check(&given, &format!("exec unshare --mount sh -c '{mounts} exec \"$@\"' sh \"$@\""));
        assert!(told.contains("MISSING no cgroup can be made"), "{told}");
        let left = Command::new("find").args(["/sys/fs/cgroup", "-name", "garden-zz"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "left by a look that failed");
        assert_eq!(given.below(), Vec::<PathBuf>::new());
    });
}
