//! All that a container is shown: its mounts and devices, to the letter, and nothing of the host. On the Linux backend,
//! in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

use protocol::{ProcessSpec, TtySpec};
use tests::{
    columns::{Behaviour, check},
    linux::linux,
    world::{World, end},
};

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

fn sh(script: &str) -> ProcessSpec {
    let args = vec!["-c".to_owned(), script.to_owned()];
    ProcessSpec { path: "/bin/sh".into(), args, ..ProcessSpec::default() }
}

/// The output of a script that succeeds.
async fn see(world: &World, handle: &str, script: &str) -> String {
    let ended = end(world.backend().run(handle, sh(script)).await.expect("run")).await;
    assert_eq!(ended.status, 0, "{script}: {}", ended.text());
    ended.text()
}

async fn container(world: &World, privileged: bool) -> String {
    world.create_with(|spec| spec.privileged = privileged).await
}

/// Place, type and options of every mount, in the order of places.
fn mounts(mountinfo: &str) -> Vec<String> {
    let mut mounts: Vec<_> = mountinfo
        .lines()
        .map(|line| {
            let (mount, file_system) = line.split_once(" - ").expect("a separator");
            let mount: Vec<_> = mount.split(' ').collect();
            let kind = file_system.split(' ').next().expect("a type");
            // After the options come those about propagation: none.
            assert_eq!(mount.len(), 6, "a mount that others propagate to or from: {line}");
            format!("{} {kind} {}", mount[4], mount[5])
        })
        .collect();
    mounts.sort();
    mounts
}

const QUIET: &str = "nosuid,nodev,noexec,relatime";

/// What is mounted in every container.
fn expected(privileged: bool) -> Vec<String> {
    let mut mounts = vec![
        "/ overlay rw,nodev,relatime".to_owned(),
        "/dev tmpfs rw,nosuid,noexec,relatime".to_owned(),
        "/dev/pts devpts rw,nosuid,noexec,relatime".to_owned(),
        format!("/dev/mqueue mqueue rw,{QUIET}"),
        format!("/dev/shm tmpfs rw,{QUIET}"),
        format!("/etc/hosts tmpfs rw,{QUIET}"),
        format!("/etc/resolv.conf tmpfs rw,{QUIET}"),
        format!("/proc proc rw,{QUIET}"),
        format!("/sys sysfs ro,{QUIET}"),
    ];
    let of_the_host = |path: &String| Path::new(path).exists();
    for name in ["kcore", "keys", "timer_list", "timer_stats", "latency_stats", "sched_debug"] {
        let masked = Some(format!("/proc/{name}")).filter(of_the_host);
        mounts.extend(masked.map(|path| format!("{path} tmpfs rw,nosuid,noexec,relatime")));
    }
    for path in ["/proc/scsi", "/proc/acpi", "/sys/firmware", "/sys/devices/virtual/powercap"] {
        let masked = Some(path.to_owned()).filter(of_the_host);
        mounts.extend(masked.map(|path| format!("{path} tmpfs ro,relatime")));
    }
    for name in ["bus", "fs", "irq", "sys", "sysrq-trigger"] {
        let read_only = Some(format!("/proc/{name}")).filter(of_the_host);
        mounts.extend(read_only.map(|path| format!("{path} proc ro,{QUIET}")));
    }
    mounts.extend(cgroups(privileged));
    mounts.sort();
    mounts
}

/// Cgroups as a container sees them: version 2 where the host has it alone, else each hierarchy of version 1 with a
/// controller that containers use. Privileged ones see none.
fn cgroups(privileged: bool) -> Vec<String> {
    if privileged {
        return Vec::new();
    }
    let v1 = v1_hierarchies();
    if v1.is_empty() {
        return vec![format!("/sys/fs/cgroup cgroup2 ro,{QUIET}")];
    }
    let hierarchies = v1.iter().map(|name| format!("/sys/fs/cgroup/{name} cgroup ro,{QUIET}"));
    [format!("/sys/fs/cgroup tmpfs ro,{QUIET}")].into_iter().chain(hierarchies).collect()
}

/// The names of the host's hierarchies of version 1.
fn v1_hierarchies() -> Vec<String> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let hierarchies = mountinfo.lines().filter_map(|line| {
        let (mount, _options) = line.split_once(" - cgroup cgroup ")?;
        Some(mount.split(' ').nth(4).unwrap().rsplit('/').next().unwrap().to_owned())
    });
    hierarchies.collect()
}

#[test]
fn a_container_has_the_mounts_of_the_contract_and_no_others() {
    on_linux(|world| {
        Box::pin(async move {
            for privileged in [false, true] {
                let handle = container(world, privileged).await;
                for process in ["self", "1"] {
                    let seen = see(world, &handle, &format!("cat /proc/{process}/mountinfo")).await;
                    assert_eq!(mounts(&seen), expected(privileged), "privileged: {privileged}, {process}");
                }
                let empty = "find /proc/scsi /proc/acpi /sys/firmware /sys/devices/virtual/powercap -mindepth 1 \
                             2> /dev/null | wc -l";
                assert_eq!(see(world, &handle, empty).await.trim(), "0");
            }
        })
    });
}

#[test]
fn a_container_sees_its_own_cgroups_of_version_1_and_cannot_change_them() {
    on_linux(|world| {
        Box::pin(async move {
            let hierarchies = v1_hierarchies();
            if hierarchies.is_empty() {
                return world.skip("this host has no cgroup v1");
            }
            let limit = 96 << 20;
            let handle = world.create_with(|spec| spec.limits.memory.limit_in_bytes = limit).await;
            let seen = see(world, &handle, "ls /sys/fs/cgroup").await;
            let listed: BTreeSet<&str> = seen.lines().collect();
            assert!(hierarchies.iter().all(|name| listed.contains(name.as_str())), "{seen}");
            // Its own part is all there is: by the list of its groups, by what is mounted, and by what that says.
            let own = "grep -v '^0:' /proc/self/cgroup | cut -d : -f 3 | sort -u";
            assert_eq!(see(world, &handle, own).await, "/\n");
            let roots = "grep ' - cgroup ' /proc/self/mountinfo | cut -d ' ' -f 4 | sort -u";
            assert_eq!(see(world, &handle, roots).await, "/\n");
            let read = "cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes; grep -cx $$ cgroup.procs";
            assert_eq!(see(world, &handle, read).await, format!("{limit}\n1\n"));
            // Also where containers have no limits, and share a group: others' processes are not seen there.
            let _other = world.run(&world.create().await, &["sleep", "1000"]).await;
            for name in &hierarchies {
                let groups =
                    format!("cd /sys/fs/cgroup/{name}; ls -d */ 2>/dev/null; grep -cx $$ cgroup.procs");
                assert_eq!(see(world, &handle, &groups).await, "1\n", "{name}");
                let others = format!(
                    "for pid in $(cat /sys/fs/cgroup/{name}/cgroup.procs); do
                         [ -e /proc/$pid ] || echo $pid; done | wc -l"
                );
                // `cat` itself, which has ended by then.
                assert_eq!(see(world, &handle, &others).await, "1\n", "{name}");
            }
            let change =
                "cd /sys/fs/cgroup/memory; { echo 1G > memory.limit_in_bytes || mkdir below; } 2>&1; true";
            let refused = see(world, &handle, change).await;
            assert_eq!(refused.matches("Read-only file system").count(), 2, "{refused}");
        })
    });
}

#[test]
fn dev_has_the_devices_of_the_contract_and_no_others() {
    on_linux(|world| {
        Box::pin(async move {
            for privileged in [false, true] {
                let handle = container(world, privileged).await;
                let script = "cd /dev; for name in $(ls -A); do
                    if [ -L $name ]; then echo $name link $(readlink $name)
                    else stat -c '%n %F %a %t:%T %u:%g' $name; fi; done";
                let seen = see(world, &handle, script).await;
                let device =
                    |name: &str, number: &str| format!("{name} character special file 666 {number} 0:0");
                let mut wanted = vec![
                    device("full", "1:7"),
                    device("null", "1:3"),
                    device("random", "1:8"),
                    device("tty", "5:0"),
                    device("urandom", "1:9"),
                    device("zero", "1:5"),
                    "fd link /proc/self/fd".to_owned(),
                    // Made with the IPC namespace, before there were ids for it.
                    format!("mqueue directory 1777 0:0 {}", if privileged { "0:0" } else { "65534:65534" }),
                    "ptmx link pts/ptmx".to_owned(),
                    "pts directory 755 0:0 0:0".to_owned(),
                    "shm directory 1777 0:0 0:0".to_owned(),
                    "stderr link /proc/self/fd/2".to_owned(),
                    "stdin link /proc/self/fd/0".to_owned(),
                    "stdout link /proc/self/fd/1".to_owned(),
                ];
                if privileged && Path::new("/dev/fuse").exists() {
                    wanted.push(device("fuse", "a:e5"));
                }
                wanted.sort();
                let mut seen: Vec<_> = seen.lines().map(str::to_owned).collect();
                seen.sort();
                assert_eq!(seen, wanted, "privileged: {privileged}");
            }
        })
    });
}

#[test]
fn no_path_leads_to_the_hosts_files() {
    on_linux(|world| {
        Box::pin(async move {
            let secret = tempfile::NamedTempFile::new().expect("a file of the host");
            let path = secret.path().display().to_string();
            for privileged in [false, true] {
                let handle = container(world, privileged).await;
                let up = "../".repeat(100);
                for root in [
                    "/",
                    &up,
                    "/proc/self/root/",
                    "/proc/self/cwd/../",
                    "/proc/1/root/../../",
                    "/proc/1/cwd/",
                ] {
                    let script = format!("cd /; ls {root}{path} 2>&1; true");
                    let seen = see(world, &handle, &script).await;
                    assert!(
                        seen.contains("No such file") || seen.contains("Permission denied"),
                        "{root} leads to the host: {seen}"
                    );
                }
                let script = "cd /; for i in $(seq 100); do cd ..; done; stat -c %d:%i . /";
                let seen = see(world, &handle, script).await;
                let places: Vec<_> = seen.lines().collect();
                assert_eq!(places[0], places[1]);
            }
        })
    });
}

#[test]
fn processes_and_pid_1_have_only_what_is_theirs_open() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = container(world, false).await;
            // One by one, as who reads the directory has that open, too.
            let own = "for fd in $(seq 0 999); do [ -L /proc/$$/fd/$fd ] && echo -n \"$fd \"; done; true";
            for tty in [None, Some(TtySpec::default())] {
                let spec = ProcessSpec { tty, ..sh(own) };
                let ended = end(world.backend().run(&handle, spec).await.expect("run")).await;
                assert_eq!(ended.text().trim(), "0 1 2");
            }
            // What pid 1 has open, only the host can see: it cannot be traced from inside.
            for place in ["fd/", "cwd/", "root/", "map_files/"] {
                let seen = see(world, &handle, &format!("ls /proc/1/{place} 2>&1; true")).await;
                assert!(seen.contains("Permission denied") && seen.lines().count() == 1, "{place}: {seen}");
            }
            assert_eq!(see(world, &handle, "cat /proc/1/comm").await, "garden-init\n");
            let told =
                see(world, &handle, "cat /proc/1/cmdline /proc/1/environ 2> /dev/null | tr '\\0' ' '; true")
                    .await;
            assert!(!told.contains('/') && !told.contains('='), "no path or variable of the host: {told}");
            let pid = pid_1_of(world, &handle).await;
            let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
                .collect();
            assert!(open.iter().all(|file| file == "/dev/null"), "{open:?}");
            assert!(open.len() <= 3, "{open:?}");
        })
    });
}

/// The host's number of a container's pid 1.
async fn pid_1_of(world: &World, handle: &str) -> u32 {
    let namespace = see(world, handle, "readlink /proc/self/ns/pid").await;
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        let link = fs::read_link(format!("/proc/{pid}/ns/pid")).map(|link| link.display().to_string());
        link.is_ok_and(|link| link == namespace.trim())
            && fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
                line.ends_with("\t1")
            })
    };
    pids.into_iter().find(is_it).expect("pid 1 on the host")
}
