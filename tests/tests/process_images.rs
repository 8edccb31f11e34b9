//! Processes with an image of their own, on a real kernel: what they have to themselves, and what they share.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant},
};

use protocol::{
    Backend, BindMount, BindMountMode, BindMountOrigin, ContainerSpec, ImageRef, ProcessSpec, TtySpec,
};
use tests::{
    columns::{Behaviour, check},
    files::tar_of,
    killable::{Killable, can_make_containers},
    linux::{linux, linux_with},
    patience::patience,
    world::{World, end},
};

static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(30));

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

/// An image with the host's busybox, users of its own, and what else is asked for.
fn image(directory: &Path, more: &[(&str, &[u8])]) -> String {
    let root = directory.join("image");
    for name in ["bin", "etc"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.expect("busybox"), root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "ls", "stat", "sleep", "id", "tty", "touch", "mount", "grep", "env", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nguest:x:500:500::/home/guest:/bin/sh\n")
        .unwrap();
    for (name, content) in more {
        fs::write(root.join(name), content).unwrap();
    }
    root.display().to_string()
}

fn spec(image: &str, script: &str) -> ProcessSpec {
    ProcessSpec {
        image: ImageRef { uri: image.to_owned(), ..ImageRef::default() },
        ..ProcessSpec::new("sh", ["-c", script])
    }
}

async fn ended(world: &World, handle: &str, spec: ProcessSpec) -> (String, i32) {
    let ended = end(world.backend().run(handle, spec).await.expect("run")).await;
    (ended.text(), ended.status)
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < *PATIENCE, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn it_sees_the_cgroups_that_its_container_sees() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let handle = world.create().await;
            let script = "grep ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d ' ' -f 4-6 | sort";
            let of_container =
                ended(world, &handle, ProcessSpec { image: ImageRef::default(), ..spec(&image, script) });
            let of_container = of_container.await;
            assert!(of_container.0.contains("/ /sys/fs/cgroup ro,"), "{of_container:?}");
            assert_eq!(ended(world, &handle, spec(&image, script)).await, of_container);
        })
    });
}

#[test]
fn it_has_the_images_files_and_users_and_starts_in_its_root() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[("mark", b"of the image")]);
            let handle = world.create_with(|spec| spec.env = vec!["FROM=container".to_owned()]).await;
            world.stream_in(&handle, "", "/", &[("mark", b"of the container")]).await;
            let script = "cat /mark; pwd; echo $FROM; touch /written && stat -c %u /written /mark";
            let of_image = ended(world, &handle, spec(&image, script)).await;
            assert_eq!(of_image, ("of the image/\ncontainer\n0\n0\n".to_owned(), 0));
            let guest = ProcessSpec { user: "guest".to_owned(), ..spec(&image, "id -u; pwd; echo $HOME") };
            assert_eq!(ended(world, &handle, guest).await.0, "500\n/\n/home/guest\n");
            let in_container = world.run_to_end(&handle, &["sh", "-c", "cat /mark; ls /written"]).await;
            assert_eq!(in_container.text(), "of the container");
            assert!(!Path::new(&image).join("written").exists(), "images are shared");
            let again = ended(world, &handle, spec(&image, "ls /written")).await;
            assert_ne!(again.1, 0, "each process has a write layer of its own");
        })
    });
}

#[test]
fn it_shares_every_namespace_but_that_of_mounts_and_the_files_that_the_server_made() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let handle = world.create().await;
            for name in ["pid", "net", "ipc", "uts", "user", "cgroup", "mnt"] {
                let script = format!("readlink /proc/self/ns/{name}");
                let of_image = ended(world, &handle, spec(&image, &format!("busybox {script}"))).await.0;
                let of_container = world.run_to_end(&handle, &["sh", "-c", &script]).await.text();
                assert_eq!(of_image == of_container, name != "mnt", "{name}: {of_image} {of_container}");
            }
            for path in ["/etc/hosts", "/etc/resolv.conf"] {
                let write = ended(world, &handle, spec(&image, &format!("echo one >> {path}"))).await;
                assert_eq!(write.1, 0, "{write:?}");
                let of_container = world.run_to_end(&handle, &["cat", path]).await.text();
                assert!(of_container.ends_with("one\n"), "{path}: {of_container}");
            }
            let shm = ended(world, &handle, spec(&image, "echo x > /dev/shm/shared")).await;
            assert_eq!(shm.1, 0, "{shm:?}");
            assert_eq!(world.run_to_end(&handle, &["cat", "/dev/shm/shared"]).await.text(), "x\n");
        })
    });
}

#[test]
fn it_sees_nothing_of_the_host_and_has_no_power_over_its_mounts() {
    for ranges in [None, Some(65536)] {
        check(linux_with(|config| config.ids.per_container = ranges), |world| {
            Box::pin(async move {
                let directory = tempfile::tempdir().unwrap();
                let image = image(directory.path(), &[]);
                for privileged in [false, true] {
                    let handle = world.create_with(|spec| spec.privileged = privileged).await;
                    let table = |text: String| -> Vec<String> {
                        let line = |line: &str| {
                            let mut fields = line.split(' ');
                            let (place, options) = (fields.nth(4).unwrap(), fields.next().unwrap());
                            let kind = line.split(" - ").nth(1).unwrap().split(' ').next().unwrap();
                            format!("{place} {options} {kind}")
                        };
                        let mut lines: Vec<String> = text.lines().map(line).collect();
                        lines.sort();
                        lines
                    };
                    let of_image = ended(world, &handle, spec(&image, "cat /proc/self/mountinfo")).await.0;
                    let own = world.run_to_end(&handle, &["cat", "/proc/self/mountinfo"]).await.text();
                    assert_eq!(table(of_image), table(own), "privileged: {privileged}");
                    let denied = ended(world, &handle, spec(&image, "echo 1 > /proc/sys/kernel/panic")).await;
                    assert_ne!(denied.1, 0, "privileged: {privileged}: {denied:?}");
                    let inner =
                        "mount -t tmpfs none /etc; echo $?; grep -E 'Seccomp:|CapBnd' /proc/self/status";
                    let of_image = ended(world, &handle, spec(&image, inner)).await.0;
                    let of_container = world.run_to_end(&handle, &["sh", "-c", inner]).await.text();
                    let last = |text: &str| text.lines().rev().take(2).collect::<Vec<_>>().join(" ");
                    assert_eq!(last(&of_image), last(&of_container), "privileged: {privileged}");
                    assert!(!of_image.starts_with("0\n") || privileged, "{of_image}");
                }
            })
        });
    }
}

#[test]
fn it_has_bind_mounts_of_the_host_and_of_the_container() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let shown = directory.path().join("shown");
            fs::create_dir(&shown).unwrap();
            fs::write(shown.join("file"), "of the host").unwrap();
            let handle = world.create().await;
            world.stream_in(&handle, "", "/", &[("mine", b"of the container")]).await;
            let bind = |src: PathBuf, dst: &str, mode, origin| BindMount {
                src_path: src.display().to_string(),
                dst_path: dst.to_owned(),
                mode,
                origin,
            };
            let mut with_binds =
                spec(&image, "cat /host/file /a/b/mine; echo x > /host/file || echo y > /a/b/mine");
            with_binds.bind_mounts = vec![
                bind(shown.clone(), "/host", BindMountMode::ReadOnly, BindMountOrigin::Host),
                bind("/mine".into(), "/a/b/mine", BindMountMode::ReadWrite, BindMountOrigin::Container),
            ];
            let (text, status) = ended(world, &handle, with_binds).await;
            assert!(text.starts_with("of the hostof the container"), "{text}");
            assert_eq!(status, 0, "{text}");
            assert_eq!(world.run_to_end(&handle, &["cat", "/mine"]).await.text(), "y\n");
            for (path, origin) in
                [("/not/there", BindMountOrigin::Host), ("/not/there", BindMountOrigin::Container)]
            {
                let mut missing = spec(&image, "true");
                missing.bind_mounts = vec![bind(path.into(), "/x", BindMountMode::ReadOnly, origin)];
                let error = world.backend().run(&handle, missing).await.expect_err("a missing source");
                assert!(error.to_string().contains("/not/there"), "{error}");
            }
        })
    });
}

#[test]
fn an_image_that_is_not_there_or_hostile_is_an_error_and_leaves_nothing() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let handle = world.create().await;
            let id = "the-process".to_owned();
            for uri in ["/not/there", "docker:///nothing"] {
                let spec = ProcessSpec { id: id.clone(), ..spec(uri, "true") };
                world.backend().run(&handle, spec).await.expect_err("no such image");
            }
            let bad = image(directory.path(), &[]);
            std::os::unix::fs::symlink("/etc", Path::new(&bad).join("proc")).unwrap();
            let hostile = ProcessSpec { id: id.clone(), ..spec(&bad, "true") };
            let error = world.backend().run(&handle, hostile).await.expect_err("/proc is a link");
            assert!(error.to_string().contains("/proc of the image is a symbolic link"), "{error}");
            fs::remove_file(Path::new(&bad).join("proc")).unwrap();
            // The id, and the place of its write layer, are free again.
            let good = ProcessSpec { id, ..spec(&bad, "echo fine") };
            assert_eq!(ended(world, &handle, good).await, ("fine\n".to_owned(), 0));
        })
    });
}

#[test]
fn it_can_have_a_terminal_that_it_finds_by_name() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let handle = world.create().await;
            let mut spec = spec(&image, "tty");
            spec.tty = Some(TtySpec::default());
            let (text, status) = ended(world, &handle, spec).await;
            assert!(text.starts_with("/dev/pts/"), "{text}");
            assert_eq!(status, 0);
        })
    });
}

#[test]
fn many_at_once_each_have_their_own() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let handle = world.create().await;
            let runs = (0..20).map(|number| {
                let script = format!("echo {number} > /mine; cat /mine");
                ended(world, &handle, spec(&image, &script))
            });
            let all = futures_util::future::join_all(runs).await;
            for (number, one) in all.into_iter().enumerate() {
                assert_eq!(one, (format!("{number}\n"), 0));
            }
        })
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_the_server_and_what_it_had_goes_with_it() {
    if !can_make_containers() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path(), &[]);
    let mut server = Killable::new();
    let client = server.start(None).await;
    let handle = client.create(ContainerSpec::default()).await.expect("create");
    let layers = || {
        let write = fs::read_dir(server.path("store/write")).unwrap().flatten();
        let processes =
            write.flat_map(|layer| fs::read_dir(layer.path().join("processes")).into_iter().flatten());
        processes.flatten().count()
    };
    assert_eq!(layers(), 0);
    let mut waiting = spec(&image, "echo ready; while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 7");
    waiting.id = "waiting".to_owned();
    let process = client.run(&handle, waiting).await.expect("run");
    assert_eq!(layers(), 1);
    drop(process);
    server.kill();
    let client = server.start(None).await;
    let process = client.attach(&handle, "waiting").await.expect("attach");
    let go = ProcessSpec::new("touch", ["/dev/shm/go"]);
    end(client.run(&handle, go).await.expect("run")).await;
    assert_eq!(process.exit.await.expect("exit"), 7);
    let layers = || {
        let write = fs::read_dir(server.path("store/write")).unwrap().flatten();
        let processes =
            write.flat_map(|layer| fs::read_dir(layer.path().join("processes")).into_iter().flatten());
        processes.flatten().count()
    };
    until("the write layer is gone", || (layers() == 0).then_some(())).await;

    let forever = spec(&image, "sleep 1000");
    client.run(&handle, forever).await.expect("run");
    client.destroy(&handle).await.expect("destroy");
    assert_eq!(server.left_behind().await, Vec::<String>::new());
    server.clean_up().await;
}

#[test]
fn root_of_the_container_does_not_choose_what_covers_files_of_proc() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let script = "grep ' /proc/keys ' /proc/self/mountinfo";
            for prank in ["true", "rm /dev/null; ln -s /proc/keys /dev/null", "rm /dev/null"] {
                let handle = world.create().await;
                assert_eq!(world.run_to_end(&handle, &["sh", "-c", prank]).await.status, 0, "{prank}");
                let (mounts, status) = ended(world, &handle, spec(&image, script)).await;
                assert!(mounts.contains(" /null /proc/keys ") && status == 0, "{prank}: {mounts}");
            }
        })
    });
}

#[test]
fn files_go_to_the_containers_root_only() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let handle = world.create().await;
            let script = "echo ready; while [ ! -e /dev/shm/go ]; do sleep 0.05; done; ls /late";
            let process = world.backend().run(&handle, spec(&image, script)).await.expect("run");
            let query = protocol::FilesQuery { path: "/".into(), user: String::new() };
            let tar = tests::files::body(tar_of(&[("late", b"x")]));
            world.backend().stream_in(&handle, query, tar).await.expect("stream in");
            world.run_to_end(&handle, &["touch", "/dev/shm/go"]).await;
            assert_ne!(end(process).await.status, 0, "the process does not see them");
            assert_eq!(world.run_to_end(&handle, &["cat", "/late"]).await.text(), "x");
        })
    });
}

#[test]
fn its_metrics_tell_soon_what_it_has_written_and_its_containers_do_not() {
    on_linux(|world| {
        Box::pin(async move {
            let directory = tempfile::tempdir().unwrap();
            let image = image(directory.path(), &[]);
            let written = fs::metadata(directory.path().join("image/bin/busybox")).unwrap().len();
            let handle = world.create().await;
            let script = "cat /bin/busybox > /copy; exec sleep 1000";
            let process = world.backend().run(&handle, spec(&image, script)).await.expect("run");
            let begun = Instant::now();
            loop {
                let metrics = world.backend().bulk_metrics(&[process.id.clone(), handle.clone()]).await;
                let metrics = metrics.expect("metrics").0;
                let disk = metrics[&process.id].metrics.disk;
                if disk.exclusive_bytes_used >= written {
                    assert!(disk.exclusive_bytes_used < written + (1 << 20), "{disk:?} of {written}");
                    assert!(1 <= disk.exclusive_inodes_used && disk.exclusive_inodes_used < 20, "{disk:?}");
                    assert!(disk.total_bytes_used >= disk.exclusive_bytes_used + written, "{disk:?}");
                    assert!(metrics[&handle].metrics.disk.exclusive_bytes_used < written);
                    return;
                }
                assert!(begun.elapsed() < *PATIENCE, "{disk:?} of {written}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    });
}
