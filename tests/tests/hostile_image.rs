//! What an image, or what runs from it, may try while and after a container is made: on the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, os::unix::fs::symlink};

use futures_util::StreamExt;
use protocol::{BindMount, BindMountMode, BindMountOrigin, ContainerSpec, Limits, MemoryLimits, ProcessSpec};
use tests::{
    attack::image,
    columns::{Behaviour, check},
    linux::linux,
    world::World,
};

fn on_linux(behaviour: Behaviour) {
    check(linux(), behaviour);
}

/// Runs a script to its end: its output, and its status.
async fn run(world: &World, handle: &str, script: &str) -> (String, i32) {
    let args = vec!["-c".to_owned(), script.to_owned()];
    let spec = ProcessSpec { path: "/bin/sh".to_owned(), args, ..ProcessSpec::default() };
    let process = world.backend().run(handle, spec).await.expect("run");
    let mut stream = process.stdout.open();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.expect("output"));
    }
    (String::from_utf8_lossy(&bytes).into_owned(), process.exit.await.expect("exit status"))
}

/// What every container must find in its /proc, /sys and /dev, whatever its image.
const SOUND: &str = "
    fail() { echo \"$1\"; exit 1; }
    for place in /proc:proc /sys:sysfs /dev:tmpfs /dev/pts:devpts /dev/shm:tmpfs /dev/mqueue:mqueue; do
        set -- ${place%:*} ${place#*:}
        [ $(grep -c \" $1 .* - $2 \" /proc/self/mountinfo) = 1 ] || fail \"no $2 at $1\"
    done
    grep -q ' /sys ro,' /proc/self/mountinfo || fail '/sys is not read-only'
    [ -z \"$(cat /proc/keys /proc/timer_list)\" ] || fail 'not masked'
    [ -z \"$(ls -A /sys/firmware)\" ] || fail '/sys/firmware is not masked'
    panic=$(cat /proc/sys/kernel/panic)
    (echo $panic > /proc/sys/kernel/panic) 2> /dev/null && fail '/proc/sys is not read-only'
    (echo h > /proc/sysrq-trigger) 2> /dev/null && fail '/proc/sysrq-trigger is not read-only'
    grep -q ' /proc/sys ro,' /proc/self/mountinfo || fail '/proc/sys is no read-only mount'
    exit 0";

#[test]
fn an_image_without_directories_for_mounts_gets_them() {
    on_linux(|world| {
        Box::pin(async move {
            let (_directory, rootfs) = image(|_| {});
            for privileged in [false, true] {
                let spec = ContainerSpec { rootfs: rootfs.clone(), privileged, ..ContainerSpec::default() };
                let handle = world.backend().create(spec).await.expect("create");
                assert_eq!(run(world, &handle, SOUND).await, (String::new(), 0), "privileged: {privileged}");
                let tmp = run(world, &handle, "stat -c '%a %u' /tmp; cat /etc/hosts").await.0;
                assert!(tmp.starts_with("1777 0\n127.0.0.1 localhost\n"), "{tmp}");
                world.backend().destroy(&handle).await.expect("destroy");
            }
        })
    });
}

#[test]
fn an_image_whose_proc_sys_or_dev_is_no_directory_is_refused_by_name() {
    on_linux(|world| {
        Box::pin(async move {
            for name in ["proc", "sys", "dev"] {
                for target in ["/../boot/../proc/self/root/p", "/../etc", "../../etc", "nowhere", "bin", ""] {
                    let (_directory, rootfs) = image(|image| {
                        fs::create_dir(image.join("p")).unwrap();
                        match target {
                            "" => fs::write(image.join(name), "a file").unwrap(),
                            target => symlink(target, image.join(name)).unwrap(),
                        }
                    });
                    for privileged in [false, true] {
                        let rootfs = rootfs.clone();
                        let spec = ContainerSpec { rootfs, privileged, ..ContainerSpec::default() };
                        let error = world.backend().create(spec).await.expect_err(target).to_string();
                        assert!(error.contains(&format!("/{name} of the image")), "{target}: {error}");
                        assert!(error.contains("must be a directory"), "{target}: {error}");
                    }
                }
            }
        })
    });
}

#[test]
fn an_image_whose_etc_leads_elsewhere_stays_in_the_container_or_is_refused() {
    on_linux(|world| {
        Box::pin(async move {
            let host = tempfile::tempdir().expect("a directory");
            let outside = host.path().join("etc");
            fs::create_dir(&outside).unwrap();
            let through_host = format!("/..{}", outside.display());
            // Where /etc leads, and what the error says if it is one.
            let cases = [
                ("elsewhere", None),
                ("/elsewhere/missing", None),
                ("../../../elsewhere", None),
                (&through_host, None),
                ("", Some("/etc in the container: Not a directory")),
                ("etc", Some("/etc in the container: Too many levels of symbolic links")),
                ("/proc/self/cwd/elsewhere", Some("/etc in the container: Too many levels")),
                ("/proc/self", Some("/etc")),
                ("/proc/sys", Some("/etc/hosts in the container")),
            ];
            for (target, refused) in cases {
                let (_directory, rootfs) = image(|image| {
                    fs::create_dir(image.join("elsewhere")).unwrap();
                    match target {
                        "" => fs::write(image.join("etc"), "a file").unwrap(),
                        target => symlink(target, image.join("etc")).unwrap(),
                    }
                });
                let spec = ContainerSpec { rootfs, ..ContainerSpec::default() };
                match (world.backend().create(spec).await, refused) {
                    (Ok(handle), None) => {
                        let (hosts, status) = run(world, &handle, "cat /etc/hosts").await;
                        assert!(
                            status == 0 && hosts.starts_with("127.0.0.1 localhost\n"),
                            "{target}: {hosts}"
                        );
                        assert_eq!(run(world, &handle, SOUND).await, (String::new(), 0), "{target}");
                        world.backend().destroy(&handle).await.expect("destroy");
                    }
                    (Err(error), Some(refused)) => {
                        assert!(error.to_string().contains(refused), "{target}: {error}");
                    }
                    (created, _) => panic!("{target}: {created:?}"),
                }
            }
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made on the host");
        })
    });
}

#[test]
fn a_bind_mount_of_the_containers_own_proc_is_masked_too() {
    on_linux(|world| {
        Box::pin(async move {
            let bind = |src: &str, dst: &str| BindMount {
                src_path: src.into(),
                dst_path: dst.into(),
                mode: BindMountMode::ReadWrite,
                origin: BindMountOrigin::Container,
            };
            let bind_mounts = vec![bind("/proc", "/made/for/it"), bind("/etc/passwd", "/made/file")];
            let spec = ContainerSpec { bind_mounts, privileged: true, ..ContainerSpec::default() };
            let handle = world.backend().create(spec).await.expect("create");
            let script = "cat /made/for/it/keys; grep -c root: /made/file
                panic=$(cat /made/for/it/sys/kernel/panic)
                (echo $panic > /made/for/it/sys/kernel/panic) 2> /dev/null && echo writable; exit 0";
            assert_eq!(run(world, &handle, script).await, ("1\n".to_owned(), 0));
        })
    });
}

#[test]
fn the_files_that_the_server_made_cannot_fill_its_disk() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.backend().create(ContainerSpec::default()).await.expect("create");
            // Root of the container can write them, as far as there is room.
            let script = "for file in /etc/hosts /etc/resolv.conf; do
                    echo >> $file && stat -c '%u %g %a' $file
                    dd if=/dev/zero of=$file bs=64k count=64 2> /dev/null
                    [ $(stat -c %s $file) -le 1048576 ] || echo $file is larger
                done";
            assert_eq!(run(world, &handle, script).await, ("0 0 644\n0 0 644\n".to_owned(), 0));
        })
    });
}

#[test]
fn a_container_cannot_take_every_terminal_of_the_host() {
    on_linux(|world| {
        Box::pin(async move {
            let handle = world.backend().create(ContainerSpec::default()).await.expect("create");
            let script = "for i in $(seq 1050); do sleep 1000 3<>/dev/ptmx & done 2> /dev/null
                count() { ls /dev/pts | grep -c '[0-9]'; }
                n=0
                while [ $(count) -lt 1024 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
                sleep 0.5
                count
                (exec 3<>/dev/ptmx) 2> /dev/null && echo one more
                exit 0";
            assert_eq!(run(world, &handle, script).await, ("1024\n".to_owned(), 0));
            fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").expect("a terminal of the host");
            world.backend().destroy(&handle).await.expect("destroy");
        })
    });
}

#[test]
fn a_memory_limit_that_not_even_init_fits_in_is_named() {
    on_linux(|world| {
        Box::pin(async move {
            // Where init dies depends on how far it gets.
            for pages in [1, 2, 3, 5, 7, 9, 11, 13] {
                for privileged in [false, true] {
                    let memory = MemoryLimits { limit_in_bytes: pages * 4096 };
                    let limits = Limits { memory, ..Limits::default() };
                    let spec = ContainerSpec { limits, privileged, ..ContainerSpec::default() };
                    let error = match world.backend().create(spec).await {
                        // What the server had prepared is not the container's to pay for.
                        Ok(handle) if pages > 5 => {
                            world.backend().destroy(&handle).await.expect("destroy");
                            continue;
                        }
                        created => created.expect_err("too little memory").to_string(),
                    };
                    assert!(error.contains("is its memory limit too small?"), "{pages} pages: {error}");
                }
            }
        })
    });
}
