//! Sentences of docs/BEHAVIOUR.md that only a look at the host itself can hold: on the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use protocol::{BindMount, BindMountMode, BindMountOrigin, FilesQuery, ProcessSpec};
use tests::{
    columns::{Behaviour, check},
    files::{body, collect, tar_of, untar},
    linux::{linux, linux_with},
    patience::patience,
    world::{World, assert_fails_with, end},
};

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

/// Runs a script to its end: its output, and its status.
async fn run(world: &World, handle: &str, user: &str, script: &str) -> (String, i32) {
    let args = vec!["-c".to_owned(), script.to_owned()];
    let user = user.to_owned();
    let spec = ProcessSpec { path: "/bin/sh".into(), args, user, dir: "/".into(), ..ProcessSpec::default() };
    let ended = end(world.backend().run(handle, spec).await.expect("run")).await;
    (ended.text(), ended.status)
}

fn names_in(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_unprivileged_container_has_all_namespaces_of_its_own_and_the_default_map() {
    on_linux(|world| {
        Box::pin(async move {
            let handles = [world.create().await, world.create().await];
            for name in ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user"] {
                let mut seen = BTreeSet::new();
                seen.insert(fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string());
                for handle in &handles {
                    let script = format!("readlink /proc/self/ns/{name}");
                    let one = run(world, handle, "", &script).await.0;
                    let other = run(world, handle, "vcap", &script).await.0;
                    assert_eq!(one, other, "{name}: two processes of a container are in the same one");
                    seen.insert(one.trim().to_owned());
                }
                assert_eq!(seen.len(), 3, "{name}: {seen:?}");
            }
            for map in ["uid_map", "gid_map"] {
                let (text, _) = run(world, &handles[0], "", &format!("cat /proc/self/{map}")).await;
                let words: Vec<_> = text.split_whitespace().collect();
                assert_eq!(words, ["0", "4294967294", "1", "1", "1", "4294967293"], "{map}");
            }
        })
    });
}

#[test]
fn privileged_capabilities_are_the_hosts_within_the_default_ones() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create_with(|spec| spec.privileged = true).await;
            let own = fs::read_to_string("/proc/self/status").unwrap();
            let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a bounding set");
            let host = u64::from_str_radix(bounding.trim(), 16).unwrap();
            let script = "grep Cap /proc/self/status | cut -f 2 | tr '\\n' ' '";
            let line = |inheritable: u64, own: u64, bounding: u64| {
                format!("{:016x} {own:016x} {own:016x} {bounding:016x} {:016x} ", inheritable & host, 0)
            };
            let root = 0x3f_ffff_ffff & host;
            assert_eq!(run(world, &handle, "", script).await.0, line(root, root, root));
            assert_eq!(run(world, &handle, "vcap", script).await.0, line(0, 0, 0xa824_25fb & host));
        })
    });
}

#[test]
fn the_root_file_system_has_no_devices() {
    on_linux(|world| {
        Box::pin(async move {
            for privileged in [false, true] {
                let handle = world.create_with(|spec| spec.privileged = privileged).await;
                let (options, _) =
                    run(world, &handle, "", "grep ' / / ' /proc/self/mountinfo | cut -d ' ' -f 6").await;
                assert!(options.trim().split(',').any(|option| option == "nodev"), "{options}");
            }
        })
    });
}

#[test]
fn privileged_containers_can_be_switched_off() {
    check(linux_with(|config| config.disable_privileged_containers = true), |world| {
        Box::pin(async move {
            let mut spec = world.spec();
            spec.privileged = true;
            assert_fails_with(world.backend().create(spec).await, "privileged");
            world.create().await;
        })
    });
}

#[test]
fn as_many_containers_are_promised_as_the_pool_can_bear() {
    // Sixteen subnets, and an option that allows more.
    for option in [0, 100] {
        check(linux_with(|config| config.max_containers = option), |world| {
            Box::pin(async move {
                let capacity = world.backend().capacity().await.expect("capacity");
                assert_eq!(capacity.max_containers, 16);
                for _ in 0..capacity.max_containers {
                    world.create().await;
                }
                assert_fails_with(world.backend().create(world.spec()).await, "max containers reached");
            })
        });
    }
}

#[test]
fn bind_mounts_show_the_hosts_files_read_only_or_not() {
    on_linux(|world| {
        Box::pin(async move {
            let host = tempfile::tempdir().expect("a directory");
            fs::set_permissions(host.path(), PermissionsExt::from_mode(0o777)).unwrap();
            fs::write(host.path().join("file"), "of the host").unwrap();
            let bind = |destination: &str, mode, origin| BindMount {
                src_path: match origin {
                    BindMountOrigin::Host => host.path().display().to_string(),
                    BindMountOrigin::Container => "/etc".into(),
                },
                dst_path: destination.into(),
                mode,
                origin,
            };
            let (default, writable) = (BindMountMode::default(), BindMountMode::ReadWrite);
            let handle = world
                .create_with(|spec| {
                    spec.bind_mounts = vec![
                        bind("/made/for/reading", default, BindMountOrigin::Host),
                        bind("/made/for/writing", writable, BindMountOrigin::Host),
                        bind("/made/inside", default, BindMountOrigin::Container),
                    ];
                })
                .await;
            let script =
                "cat /made/for/reading/file; (echo x > /made/for/reading/new) 2> /dev/null && echo written
                (echo x > /made/inside/new) 2> /dev/null && echo written
                grep -c ^root: /made/inside/passwd; echo back > /made/for/writing/back";
            assert_eq!(run(world, &handle, "vcap", script).await, ("of the host1\n".to_owned(), 0));
            assert_eq!(fs::read_to_string(host.path().join("back")).unwrap(), "back\n");
            // Not idmapped: the host sees the ids that the container sees, but root's.
            let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(host.path().join("back")).unwrap());
            assert_eq!(owner, 1000);
            for origin in [BindMountOrigin::Host, BindMountOrigin::Container] {
                let mut spec = world.spec();
                spec.bind_mounts =
                    vec![BindMount { src_path: "/no/such/source".into(), ..bind("/x", default, origin) }];
                assert_fails_with(world.backend().create(spec).await, "/no/such/source");
            }
            world.backend().destroy(&handle).await.expect("destroy");
            assert_eq!(names_in(host.path()).len(), 2, "what is bind-mounted stays");
        })
    });
}

#[test]
fn users_are_not_read_through_a_link_out_of_the_root() {
    on_linux(|world| {
        Box::pin(async move {
            let host = tempfile::tempdir().expect("a directory");
            fs::set_permissions(host.path(), PermissionsExt::from_mode(0o755)).unwrap();
            let passwd = host.path().join("passwd");
            fs::write(&passwd, "mallory:x:0:0::/:/bin/sh\n").unwrap();
            let handle = world.create().await;
            let upwards = format!("/../../../../../..{}", passwd.display());
            for target in [passwd.display().to_string(), upwards, format!("/proc/1/root{}", passwd.display())]
            {
                let (_, linked) = run(world, &handle, "", &format!("ln -sf {target} /etc/passwd")).await;
                assert_eq!(linked, 0);
                let spec =
                    ProcessSpec { path: "id".into(), user: "mallory".into(), ..ProcessSpec::default() };
                world.backend().run(&handle, spec).await.expect_err(&target);
                let query = FilesQuery { user: "mallory".into(), path: "/tmp".into() };
                world.backend().stream_out(&handle, query).await.map(drop).expect_err(&target);
            }
        })
    });
}

#[test]
fn no_link_and_no_race_leads_files_out_of_the_container() {
    on_linux(|world| {
        Box::pin(async move {
            let host = tempfile::tempdir().expect("a directory");
            fs::set_permissions(host.path(), PermissionsExt::from_mode(0o777)).unwrap();
            fs::write(host.path().join("secret"), "the host's").unwrap();
            let outside = host.path().display().to_string();
            let handle = world.create().await;
            // A path that is a directory now and a link out of the container then.
            let script = format!(
                "mkdir -p /tmp/d /tmp/real; echo ready
                while [ ! -e /tmp/stop ]; do
                    mv /tmp/d /tmp/away 2> /dev/null; ln -s {outside} /tmp/d; rm /tmp/d; mv /tmp/away /tmp/d
                done"
            );
            let args = vec!["-c".to_owned(), script];
            let flipping = ProcessSpec { path: "/bin/sh".into(), args, ..ProcessSpec::default() };
            let flipping = world.backend().run(&handle, flipping).await.expect("run");
            let mut stdout = flipping.stdout.open();
            futures_util::StreamExt::next(&mut stdout).await.expect("a word").expect("a word");
            let read = AtomicBool::new(false);
            for n in 0..60 {
                let query = |path: &str| FilesQuery { user: String::new(), path: path.into() };
                // Into what it happens to be: it may fail, and may not land on the host.
                let tar = body(tar_of(&[("sub/evil", b"evil")]));
                let _ = world.backend().stream_in(&handle, query(&format!("/tmp/d/n{n}")), tar).await;
                for path in ["/tmp/d/", "/tmp/d/secret", "/tmp/d"] {
                    let Ok(stream) = world.backend().stream_out(&handle, query(path)).await else { continue };
                    let Ok(tar) = collect(stream).await else { continue };
                    read.store(true, Ordering::Relaxed);
                    assert!(!untar(&tar).contains_key("secret"), "{path} was read on the host");
                }
            }
            assert!(read.load(Ordering::Relaxed), "no file ever came out: the race was none");
            assert_eq!(names_in(host.path()), ["secret"]);
            assert_eq!(run(world, &handle, "", "touch /tmp/stop").await.1, 0);
            assert_eq!(flipping.exit.await, Ok(0));
        })
    });
}

#[test]
fn disk_usage_is_in_the_metrics_soon() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            let script = "dd if=/dev/zero of=/tmp/much bs=1M count=5 2> /dev/null";
            assert_eq!(run(world, &handle, "", script).await.1, 0);
            let begun = Instant::now();
            loop {
                let disk = world.backend().metrics(&handle).await.expect("metrics").disk;
                if disk.exclusive_bytes_used >= 5 << 20 {
                    assert!(
                        disk.exclusive_inodes_used >= 1 && disk.exclusive_bytes_used < 6 << 20,
                        "{disk:?}"
                    );
                    // All of the image, which is a busybox with links to it, and little else.
                    let script = "set -- $(du -sk /bin); echo $1; find /bin | wc -l";
                    let (text, _) = run(world, &handle, "", script).await;
                    let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
                    let [kib, inodes] = numbers[..] else { panic!("{text}") };
                    let of_image = disk.total_bytes_used - disk.exclusive_bytes_used;
                    assert!((kib..kib + 1024).contains(&(of_image >> 10)), "{disk:?}, {text}");
                    assert!(disk.total_inodes_used - disk.exclusive_inodes_used > inodes, "{disk:?}, {text}");
                    return;
                }
                assert!(begun.elapsed() < patience(30), "{disk:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    });
}

/// A process that the kernel has stopped in such a way that not even SIGKILL ends it, as one that waits for a disk.
struct Frozen {
    group: PathBuf,
}

impl Frozen {
    /// None where the host has no way to do that: on cgroup v2 a frozen process can be killed.
    fn new(argument: &str) -> Option<Frozen> {
        let freezer = Path::new("/sys/fs/cgroup/freezer");
        if !freezer.join("cgroup.procs").exists() {
            return None;
        }
        let group = freezer.join(format!("garden-test-{argument}"));
        fs::create_dir(&group).unwrap();
        let frozen = Frozen { group };
        let pids = names_in(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok());
        let has_argument = |pid: &String| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        };
        let pids: Vec<String> = pids.filter(has_argument).collect();
        assert_eq!(pids.len(), 1, "{pids:?}");
        fs::write(frozen.group.join("cgroup.procs"), &pids[0]).unwrap();
        fs::write(frozen.group.join("freezer.state"), "FROZEN").unwrap();
        Some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.group.join("freezer.state"), "THAWED");
        let begun = Instant::now();
        while fs::remove_dir(&self.group).is_err() && begun.elapsed() < patience(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_process_that_cannot_die_hangs_no_destroy_which_can_be_repeated() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.create().await;
            // An argument that no other process of this host has.
            let argument = format!("{}.25", 500_000 + std::process::id());
            let process = world.run(&handle, &["sleep", &argument]).await;
            let Some(frozen) = Frozen::new(&argument) else {
                return world.skip("this host has no cgroup v1 freezer, whose processes cannot be killed");
            };
            let begun = Instant::now();
            let error = world.backend().destroy(&handle).await.expect_err("a process that cannot die");
            assert!(begun.elapsed() < patience(60), "{:?}", begun.elapsed());
            assert!(error.to_string().contains(&handle), "{error}");
            assert!(world.all_handles().await.contains(&handle), "what is not gone is listed");
            drop(frozen);
            world.backend().destroy(&handle).await.expect("destroy, now that it can die");
            assert!(!world.all_handles().await.contains(&handle));
            // Its exit status went with the supervisor, or was told before.
            let _ = process.exit.await;
        })
    });
}

#[test]
fn cpu_entitlement_is_what_the_shares_are_worth() {
    check(linux_with(|config| config.cpu_entitlement_per_share_percent = Some(0.5)), |world| {
        Box::pin(async move {
            let handle = world.create_with(|spec| spec.limits.cpu.limit_in_shares = 100).await;
            let metrics = world.backend().metrics(&handle).await.expect("metrics");
            // A hundred shares of half a per cent each.
            let wanted = metrics.age.as_nanos() as u64 / 2;
            assert!(metrics.cpu_entitlement_ns.abs_diff(wanted) <= 1, "{metrics:?}");
            let handle = world.create().await;
            assert_eq!(world.backend().metrics(&handle).await.expect("metrics").cpu_entitlement_ns, 0);
        })
    });
}
