//! Limits on a real kernel: what exceeds one fails, and does not where there is none.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use backend_linux::{IoLimits, LimitPolicy};
use protocol::{CpuLimits, Limits, MemoryLimits, PidLimits, ProcessLimits, ProcessSpec};
use tests::{
    columns::{Behaviour, check},
    killable::{binary, can_make_containers},
    linux::{linux, linux_with},
    world::World,
};

const MIB: u64 = 1 << 20;

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

async fn create(world: &World, limits: Limits) -> String {
    world.create_with(|spec| spec.limits = limits).await
}

async fn sh(world: &World, handle: &str, script: &str) -> (String, i32) {
    let ended = world.run_to_end(handle, &["sh", "-c", script]).await;
    (ended.text(), ended.status)
}

/// The container's files of that name, in whatever hierarchies have them.
fn files_of(handle: &str, name: &str) -> Vec<PathBuf> {
    fn look(directory: &Path, group: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                match entry.file_name() == group {
                    true => found.push(entry.path()),
                    false => look(&entry.path(), group, found),
                }
            }
        }
    }
    let mut groups = Vec::new();
    look(Path::new("/sys/fs/cgroup"), &format!("c-{handle}"), &mut groups);
    groups.into_iter().map(|group| group.join(name)).filter(|file| file.exists()).collect()
}

fn contents(handle: &str, name: &str) -> Vec<String> {
    files_of(handle, name).iter().map(|file| fs::read_to_string(file).unwrap().trim().to_owned()).collect()
}

#[test]
fn memory_beyond_the_limit_kills_and_the_same_process_lives_without_a_limit() {
    on_linux(|world| {
        Box::pin(async move {
            let script = "x=$(head -c 50331648 /dev/zero | tr '\\0' x); echo ${#x}";
            for (limit_in_bytes, lives) in [(32 * MIB, false), (256 * MIB, true), (0, true)] {
                let limits = Limits { memory: MemoryLimits { limit_in_bytes }, ..Limits::default() };
                let handle = create(world, limits).await;
                assert_eq!(world.backend().memory_limits(&handle).await.unwrap(), limits.memory);
                let (text, status) = sh(world, &handle, script).await;
                assert_eq!(text == "50331648\n" && status == 0, lives, "{limit_in_bytes}: {text} {status}");
                world.backend().destroy(&handle).await.expect("destroy");
            }
        })
    });
}

#[test]
fn no_more_processes_than_the_limit_and_as_many_as_one_likes_without() {
    on_linux(|world| {
        Box::pin(async move {
            let script =
                "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i + 1)); done 2>&1; echo all; kill $(jobs -p)";
            for (max, all) in [(20, false), (100, true), (0, true)] {
                let handle = create(world, Limits { pid: PidLimits { max }, ..Limits::default() }).await;
                let (text, _) = sh(world, &handle, script).await;
                assert_eq!(text.ends_with("all\n") && !text.contains("fork"), all, "{max}: {text}");
                world.backend().destroy(&handle).await.expect("destroy");
            }
        })
    });
}

#[test]
fn the_memory_limit_counts_swap_unless_the_operator_wants_it_otherwise() {
    for swap_is_free in [false, true] {
        let world =
            linux_with(|config| config.limit_policy = LimitPolicy { swap_is_free, ..LimitPolicy::default() });
        let behaviour: Behaviour = if swap_is_free { without_swap_limit } else { with_swap_limit };
        check(world, behaviour);
    }
}

fn with_swap_limit(world: &World) -> futures_util::future::BoxFuture<'_, ()> {
    Box::pin(swap(world, false))
}

fn without_swap_limit(world: &World) -> futures_util::future::BoxFuture<'_, ()> {
    Box::pin(swap(world, true))
}

async fn swap(world: &World, is_free: bool) {
    let memory = MemoryLimits { limit_in_bytes: 64 * MIB };
    let handle = create(world, Limits { memory, ..Limits::default() }).await;
    for with_swap in contents(&handle, "memory.memsw.limit_in_bytes") {
        assert_eq!(with_swap == memory.limit_in_bytes.to_string(), !is_free, "{with_swap}");
    }
    for swap in contents(&handle, "memory.swap.max") {
        assert_eq!(swap == "0", !is_free, "{swap}");
    }
    assert_eq!(world.backend().memory_limits(&handle).await.unwrap(), memory);
}

#[test]
fn shares_have_a_ceiling_where_the_operator_sets_one_and_none_else() {
    for cpu_quota_per_share_us in [0, 100] {
        let policy = LimitPolicy { cpu_quota_per_share_us, ..LimitPolicy::default() };
        let behaviour: Behaviour = if cpu_quota_per_share_us == 0 { without_ceiling } else { with_ceiling };
        check(linux_with(|config| config.limit_policy = policy), behaviour);
    }
}

fn with_ceiling(world: &World) -> futures_util::future::BoxFuture<'_, ()> {
    Box::pin(ceiling(world, "51200", "51200 100000"))
}

fn without_ceiling(world: &World) -> futures_util::future::BoxFuture<'_, ()> {
    Box::pin(ceiling(world, "-1", "max 100000"))
}

async fn ceiling(world: &World, on_v1: &str, on_v2: &str) {
    let cpu = CpuLimits { limit_in_shares: 512, ..CpuLimits::default() };
    let handle = create(world, Limits { cpu, ..Limits::default() }).await;
    let (v1, v2) = (contents(&handle, "cpu.cfs_quota_us"), contents(&handle, "cpu.max"));
    assert!(!v1.is_empty() || !v2.is_empty(), "no cpu controller");
    assert!(v1.iter().all(|quota| quota == on_v1), "{v1:?}");
    assert!(v2.iter().all(|quota| quota == on_v2), "{v2:?}");
    assert_eq!(world.backend().cpu_limits(&handle).await.unwrap(), cpu);
}

#[test]
fn what_a_container_does_with_the_disk_has_the_limits_that_the_operator_sets() {
    let behaviour: Behaviour = |world| {
        Box::pin(async move {
            let handle = create(world, Limits::default()).await;
            for (file, wanted) in [
                ("blkio.throttle.read_bps_device", "33554432"),
                ("blkio.throttle.write_bps_device", "1048576"),
                ("blkio.throttle.read_iops_device", "3000"),
                ("blkio.throttle.write_iops_device", "4000"),
                ("io.max", "rbps=33554432 wbps=1048576 riops=3000 wiops=4000"),
            ] {
                let found = contents(&handle, file);
                let is_there =
                    found.iter().all(|line| line.split_once(' ').is_some_and(|line| line.1 == wanted));
                assert!(is_there, "{file}: {found:?}");
            }
            let limited =
                ["blkio.throttle.write_bps_device", "io.max"].map(|file| contents(&handle, file).len());
            assert_eq!(limited.iter().sum::<usize>(), 1, "{limited:?}");
            // At the least: there is no telling how much longer.
            let begun = Instant::now();
            let write = "dd if=/dev/zero of=/much bs=256K count=12 oflag=direct 2>&1";
            let (told, status) = sh(world, &handle, write).await;
            assert_eq!(status, 0, "{told}");
            assert!(begun.elapsed() > Duration::from_secs(1), "3 MiB in {:?}", begun.elapsed());
            // Whether it has a group inside the container's or beside it.
            for limits in [None, Some(ProcessLimits::default())] {
                let spec = ProcessSpec { limits, ..ProcessSpec::new("true", Vec::<String>::new()) };
                assert_eq!(world.run_spec_to_end(&handle, spec).await.status, 0);
            }
        })
    };
    let io = IoLimits {
        weight: 0,
        read_bytes_per_second: 32 * MIB,
        write_bytes_per_second: MIB,
        reads_per_second: 3000,
        writes_per_second: 4000,
    };
    check(linux_with(|config| config.limit_policy = LimitPolicy { io, ..LimitPolicy::default() }), behaviour);
}

#[test]
fn a_limit_of_the_disk_that_cannot_be_had_is_refused_by_its_name() {
    if !can_make_containers() {
        return;
    }
    let told = |options: &[&str]| {
        let mut command = Command::new(binary("garden-server"));
        let output =
            command.args(["check", "--backend", "linux", "--tag", "zy"]).args(options).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let in_memory = ["--store", "/dev/shm/garden-zy", "--container-io-max-write-bps", "1048576"];
    let refused = told(&in_memory);
    let wanted = "MISSING --container-io-max-write-bps cannot be had here: /dev/shm/garden-zy is on no disk";
    assert!(refused.contains(wanted), "{refused}");
    assert!(!told(&in_memory[..2]).contains("cannot be had"), "nothing was asked for");

    // A weight is there or not as the kernel has it.
    let option = "--default-container-blockio-weight";
    if told(&[option, "500"]).contains(&format!("MISSING {option} cannot be had here")) {
        println!("this kernel has no weights of disks");
        return;
    }
    let behaviour: Behaviour = |world| {
        Box::pin(async move {
            let handle = create(world, Limits::default()).await;
            let files = [
                ("blkio.weight", "500"),
                ("blkio.bfq.weight", "500"),
                ("io.weight", "default 4950"),
                ("io.bfq.weight", "default 500"),
            ];
            let found = files.iter().find_map(|(file, wanted)| {
                contents(&handle, file).into_iter().next().map(|found| (found, *wanted))
            });
            let (found, wanted) = found.expect("a weight");
            assert_eq!(found.lines().next(), Some(wanted));
        })
    };
    let io = IoLimits { weight: 500, ..IoLimits::default() };
    check(linux_with(|config| config.limit_policy = LimitPolicy { io, ..LimitPolicy::default() }), behaviour);
}
