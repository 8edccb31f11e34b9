//! Where some controllers are in hierarchies of version 1 and others in that of version 2.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use protocol::{Backend, ContainerSpec, Limits, MemoryLimits, PidLimits, ProcessSpec};
use tests::{
    killable::{Killable, can_make_containers},
    patience::patience,
};

const MEMORY_BYTES: u64 = 48 << 20;

#[test]
fn each_controller_is_used_where_it_is() {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || !can_make_containers() {
        println!("skipped: not a host with version 2 alone, which could be made a mixed one, or not root");
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut server = Killable::new();
        let mut mounts = String::new();
        for controller in ["devices", "cpuacct"] {
            let mount = server.path(controller);
            fs::create_dir(&mount).unwrap();
            mounts += &format!("mount -t cgroup -o {controller} none {};", mount.display());
        }
        let script = format!("{mounts} exec \"$@\"");
        server = server.started_by(&["unshare", "--mount", "sh", "-c", &script, "sh"]);
        let client = server.start(None).await;
        let memory = MemoryLimits { limit_in_bytes: MEMORY_BYTES };
        let limits = Limits { memory, pid: PidLimits { max: 64 }, ..Limits::default() };
        client
            .create(ContainerSpec { handle: "box".into(), limits, ..ContainerSpec::default() })
            .await
            .expect("create");
        let read =
            |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        // Version 1 is mounted where the server is, only.
        let on_v1 = |controller: &str| {
            let mount = server.path(controller);
            let seen = Path::new("/proc").join(server.pid().to_string()).join("root");
            let group = seen.join(mount.strip_prefix("/").unwrap()).join(server.base_group()).join("c-box");
            group.join(format!("{controller}.{}", if controller == "devices" { "list" } else { "usage" }))
        };
        let devices = read(on_v1("devices"));
        assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:* rwm"), "{devices}");
        let on_v2 = Path::new("/sys/fs/cgroup").join(server.base_group()).join("c-box");
        assert_eq!(read(on_v2.join("memory.max")).trim(), MEMORY_BYTES.to_string());
        assert_eq!(read(on_v2.join("pids.max")).trim(), "64");
        let process = client
            .run("box", ProcessSpec::new("sh", ["-c", "x=0; while [ $x -lt 20000 ]; do x=$((x + 1)); done"]))
            .await;
        assert_eq!(process.expect("run").exit.await.expect("exit"), 0);
        let counted: u64 = read(on_v1("cpuacct")).trim().parse().unwrap();
        let told = client.metrics("box").await.expect("metrics").cpu.usage_ns;
        assert!(0 < counted && counted <= told, "it only grows: {counted}, then {told}");
        client.destroy("box").await.expect("destroy");
        assert_eq!(server.clean_up().await, Vec::<String>::new());
        // A hierarchy goes with its last group and its last mount, in the kernel's own time.
        let begun = Instant::now();
        let left = || read("/proc/self/cgroup".into()).lines().any(|line| !line.starts_with("0::"));
        while left() {
            assert!(begun.elapsed() < patience(10), "{}", read("/proc/self/cgroup".into()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
