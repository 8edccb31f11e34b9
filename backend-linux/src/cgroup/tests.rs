//! On the real kernel, in groups of a tag of their own, which are gone afterwards.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use protocol::{CpuLimits, Limits, MemoryLimits, PidLimits};

use super::{
    hierarchies::{Hierarchies, Hierarchy},
    *,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Groups of one test; whatever is left of them goes with this.
struct Own(Cgroups);

impl std::ops::Deref for Own {
    type Target = Cgroups;

    fn deref(&self) -> &Cgroups {
        &self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let cleaned = self.0.cleanup(PATIENCE);
        for base in self.0.all_bases() {
            assert!(!base.exists(), "{} is left: {cleaned:?}", base.display());
        }
    }
}

/// None, with the reason on stderr, where groups cannot be made.
fn own() -> Option<Own> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "cgroup tests need root");
        eprintln!("skipped: cgroup tests need root");
        return None;
    }
    let tag = format!("test{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    Some(Own(Cgroups::detect(&tag, &[], &[]).unwrap()))
}

/// A process that entered the groups by itself, as on v1 (and, for the test, on v2), and says when it has.
fn enter(entry: &CgroupEntry, then: &str) -> Child {
    let files = entry.v1_tasks.iter().cloned().chain(entry.v2_dir.iter().map(|dir| dir.join("cgroup.procs")));
    let script = format!("for f; do echo 0 >\"$f\" || exit 9; done; echo in; {then}");
    let mut child =
        Command::new("sh").args(["-c", &script, "sh"]).args(files).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "in\n");
    child
}

fn limits() -> Limits {
    Limits {
        memory: MemoryLimits { limit_in_bytes: 64 << 20 },
        cpu: CpuLimits { limit_in_shares: 512, weight: 0 },
        pid: PidLimits { max: 20 },
        ..Limits::default()
    }
}

#[test]
fn limits_are_applied_as_they_are_reported() {
    let Some(cgroups) = own() else { return };
    cgroups.create("box", &limits(), Devices::Listed).unwrap();
    assert_eq!(cgroups.applied("box", &limits()).unwrap(), limits());
    cgroups.create("free", &Limits::default(), Devices::Listed).unwrap();
    assert_eq!(cgroups.applied("free", &Limits::default()).unwrap(), Limits::default());
}

#[test]
fn processes_are_counted_killed_and_their_groups_removed() {
    let Some(cgroups) = own() else { return };
    cgroups.create("box", &limits(), Devices::Listed).unwrap();
    let mut child = enter(&cgroups.entry("box", Leaf::Main), "exec sleep 1000");
    assert_eq!(cgroups.processes("box").unwrap(), [child.id()]);
    // The kernel adds a processor's time up when it takes the process off it, or at a tick: maybe not yet.
    let since = Instant::now();
    while cgroups.metrics("box").unwrap().1.usage_ns == 0 {
        assert!(since.elapsed() < PATIENCE, "the shell's time is never counted");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (memory, _, pid) = cgroups.metrics("box").unwrap();
    assert_eq!((pid.current, pid.max), (1, 20));
    assert!(memory.total_usage_toward_limit < 64 << 20, "{memory:?}");
    assert_eq!(cgroups.oom_kills("box").unwrap(), 0);

    let busy = cgroups.remove("box", Duration::ZERO).unwrap_err();
    assert!(matches!(busy, Error::Remove { processes: 1, .. }), "{busy:?}");

    cgroups.kill("box").unwrap();
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    cgroups.remove("box", PATIENCE).unwrap();
    assert!(cgroups.processes("box").unwrap().is_empty());
    cgroups.remove("box", Duration::ZERO).unwrap();
}

#[test]
fn a_group_of_a_kernel_that_cannot_kill_it_at_once_is_killed_one_by_one() {
    let base = tempfile::tempdir().unwrap();
    let cgroups = Cgroups {
        v1: vec![],
        v2: Some(V2 { controllers: vec![], base: base.path().to_owned() }),
        devices: devices::DeviceList::None,
        policy: LimitPolicy::default(),
        io: vec![],
        shared: vec![],
        made: vec![],
        missing: vec![],
    };
    cgroups.kill("gone").unwrap();
    // As on v2 before Linux 5.14: a group with members, in a leaf, and without `cgroup.kill`.
    let leaf = base.path().join(name::directory("box")).join(Leaf::Main.directory());
    std::fs::create_dir_all(&leaf).unwrap();
    std::fs::write(leaf.parent().unwrap().join("cgroup.procs"), "").unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::write(leaf.join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
    let killed = cgroups.kill("box");
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() && since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    killed.unwrap();
    assert_eq!(ended.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)), Some(9));
}

#[test]
fn a_fork_bomb_is_held_and_killed() {
    let Some(cgroups) = own() else { return };
    cgroups.create("bomb", &limits(), Devices::Listed).unwrap();
    let bomb = "b() { b | b & }; while :; do b 2>/dev/null; done";
    let mut child = enter(&cgroups.entry("bomb", Leaf::Main), bomb);
    cgroups.kill("bomb").unwrap();
    child.wait().unwrap();
    cgroups.remove("bomb", PATIENCE).unwrap();
}

#[test]
fn what_is_about_to_be_killed_makes_no_more_processes() {
    let Some(cgroups) = own() else { return };
    let statuses = ["free", "held"].map(|name| {
        cgroups.create(name, &Limits::default(), Devices::Listed).unwrap();
        let directory = name::directory(name);
        let Some(Place::V1(base) | Place::V2(base)) = cgroups.place("pids") else { panic!("no pids") };
        let group = base.join(&directory);
        // A group below is the sign to go on, which a shell sees without another process.
        let fork = format!("until [ -d '{}' ]; do :; done; (:); exit 0", group.join("go").display());
        let mut child = enter(&cgroups.entry(name, Leaf::Main), &fork);
        if name == "held" {
            cgroups.refuse_forks(&directory).unwrap();
        }
        std::fs::create_dir(group.join("go")).unwrap();
        child.wait().unwrap().code()
    });
    assert_eq!(statuses[0], Some(0));
    assert_ne!(statuses[1], Some(0), "it made another process");
}

#[test]
fn a_process_over_its_memory_is_killed_and_counted() {
    let Some(cgroups) = own() else { return };
    cgroups.create("fat", &limits(), Devices::Listed).unwrap();
    let mut child = enter(
        &cgroups.entry("fat", Leaf::Main),
        "head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null",
    );
    child.wait().unwrap();
    // The kernel may take another process of the group before the first is gone.
    assert!(cgroups.oom_kills("fat").unwrap() >= 1);
}

#[test]
fn a_sweep_removes_what_nobody_owns() {
    let Some(cgroups) = own() else { return };
    cgroups.create("mine", &limits(), Devices::Listed).unwrap();
    cgroups.create("a stray, odd one", &limits(), Devices::Listed).unwrap();
    let mut child = enter(&cgroups.entry("a stray, odd one", Leaf::Init), "exec sleep 1000");
    let reaper = std::thread::spawn(move || child.wait());
    assert_eq!(cgroups.sweep(["mine"], &[], PATIENCE).unwrap().len(), 1);
    reaper.join().unwrap().unwrap();
    assert!(cgroups.metrics("mine").is_ok());
    assert!(matches!(cgroups.metrics("a stray, odd one"), Err(Error::Read { .. })));
}

#[test]
fn a_group_that_an_earlier_life_left_is_not_used_again() {
    let Some(cgroups) = own() else { return };
    cgroups.create("box", &limits(), Devices::Listed).unwrap();
    cgroups.create("box", &Limits::default(), Devices::Listed).unwrap();
    assert_eq!(cgroups.applied("box", &Limits::default()).unwrap(), Limits::default());
    let mut child = enter(&cgroups.entry("box", Leaf::Main), "exec sleep 1000");
    let error = cgroups.create("box", &limits(), Devices::Listed).unwrap_err();
    assert!(matches!(error, Error::Create { .. }), "{error:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_value_that_the_kernel_refuses_is_named_and_leaves_nothing() {
    let Some(cgroups) = own() else { return };
    let group = cgroups.place("pids").map(|(Place::V1(base) | Place::V2(base))| base.join("x")).unwrap();
    std::fs::create_dir(&group).unwrap();
    let error = group::write(&group.join("pids.max"), "lots").unwrap_err();
    assert!(error.to_string().contains("pids.max") && error.to_string().contains("lots"), "{error}");
}

#[test]
fn a_program_keeps_a_v2_group_to_the_list_of_devices() {
    let Some(_root) = own() else { return };
    let [mounts, own] =
        ["mountinfo", "cgroup"].map(|file| std::fs::read(format!("/proc/self/{file}")).unwrap());
    let Some(Hierarchy { mount, .. }) = Hierarchies::parse(&mounts, &own).v2 else {
        eprintln!("skipped: no v2 hierarchy is mounted");
        return;
    };
    let group = mount.join(format!("garden-test-devices-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    let base = group.parent().unwrap().to_owned();
    let list = devices::DeviceList::new(None, true, &[]);
    let cgroups = Cgroups {
        v1: vec![],
        shared: vec![],
        v2: Some(V2 { controllers: vec![], base }),
        devices: list,
        policy: super::LimitPolicy::default(),
        io: vec![],
        made: vec![],
        missing: vec![],
    };
    let directory = group.file_name().unwrap().to_str().unwrap();
    let entry = CgroupEntry { v1_tasks: vec![], v2_dir: Some(group.clone()) };
    // The kernel's log, which root may write to, and which is not in the list.
    let opens = || {
        let open = ": >/dev/null </dev/zero || exit 8; exec 3>/dev/kmsg || exit 7";
        enter(&entry, open).wait().unwrap().code()
    };
    let before = opens();
    cgroups.restrict_devices(directory).unwrap();
    let after = opens();
    std::fs::remove_dir(&group).unwrap();
    // What exec cannot open ends a shell, with a status of its own choice.
    assert_eq!(
        (before, after.is_some_and(|status| status != 0 && status != 8)),
        (Some(0), true),
        "{after:?}"
    );
}

#[test]
fn who_only_looked_leaves_no_group_and_takes_none_away() {
    let Some(cgroups) = own() else { return };
    let bases: Vec<PathBuf> = cgroups.all_bases().map(Path::to_owned).collect();
    let tag = bases[0].file_name().unwrap().to_str().unwrap().strip_prefix("garden-").unwrap().to_owned();
    Cgroups::detect(&tag, &[], &[]).unwrap().forget();
    assert!(bases.iter().all(|base| base.exists()), "they were there before: {bases:?}");
    let looked = Cgroups::detect(&format!("{tag}-look"), &[], &[]).unwrap();
    let made: Vec<PathBuf> = looked.all_bases().map(Path::to_owned).collect();
    assert!(made.iter().all(|base| base.exists()), "{made:?}");
    looked.forget();
    assert!(made.iter().all(|base| !base.exists()), "{made:?}");
}

#[test]
fn limits_of_the_disk_come_and_go_while_there_are_containers() {
    let Some(cgroups) = own() else { return };
    cgroups.create("before", &limits(), Devices::Listed).unwrap();
    let base = cgroups.bases().next().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let detect = || Cgroups::detect(base.strip_prefix("garden-").unwrap(), &[], &[]).unwrap();
    let io = IoLimits { reads_per_second: 1000, ..IoLimits::default() };
    let limited =
        match detect().with_policy(LimitPolicy { io, ..LimitPolicy::default() }, &std::env::temp_dir()) {
            Ok(limited) => limited,
            Err(error) => return eprintln!("skipped: {error}"),
        };
    limited.create("after", &limits(), Devices::Listed).unwrap();
    let process = ProcessGroup::new("before", "process", false);
    let entry = limited.create_for_process(&process, &Limits::default(), Devices::All).unwrap();
    assert!(entry.v1_tasks.iter().all(|tasks| tasks.exists()), "{entry:?}");
    let unlimited = detect();
    unlimited.remove_of_process(&process, PATIENCE).unwrap();
    for name in ["before", "after"] {
        unlimited.remove(name, PATIENCE).unwrap();
        assert!(limited.bases().all(|base| !base.join(name::directory(name)).exists()), "{name} is left");
    }
}
