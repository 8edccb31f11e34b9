//! Attempts to break out by way of files: mounts, /proc/sys, cgroups, what is streamed in and out.
//!
//! Each attack is seen to succeed without what stops it, and then refused. docs/DEFENCES.md lists them all.

// Only debug builds can leave a defence out.
#![cfg(debug_assertions)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use backend_linux::{Config, Defence, Defences};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::{BindMountMode, ImageRef, ProcessSpec};
use tests::{
    attack::{image, script, shown, victim},
    columns::check,
    linux::{linux, linux_with},
    world::{World, end},
};

/// A file system of the host's.
struct Mounted(PathBuf);

impl Mounted {
    /// Shared with whoever has a copy of it, as systemd makes all, or private.
    fn new(path: PathBuf, propagation: MsFlags) -> Mounted {
        fs::create_dir(&path).unwrap();
        mount(Some("test"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let mounted = Mounted(path);
        mount(None::<&str>, &mounted.0, None::<&str>, propagation, None::<&str>).unwrap();
        mounted
    }

    /// One on which both sides are going to mount something.
    fn shared() -> Mounted {
        let shared = Mounted::new(shared_path(), MsFlags::MS_SHARED);
        for name in ["from-host", "from-container"] {
            fs::create_dir(shared.0.join(name)).unwrap();
        }
        shared
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // With all that is mounted on it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

fn own_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("garden-breakout-{name}-{}", std::process::id()))
}

/// The same for a whole process: that is how a behaviour finds it.
fn shared_path() -> PathBuf {
    own_path("shared")
}

/// Whether a later mount of the host appears inside, and one of the container on the host.
async fn mounts_that_appear(world: &World) -> (bool, bool) {
    // Others may not mount at all.
    let handle = victim(world, |spec| {
        spec.privileged = true;
        let mut bind = shown(&shared_path().display().to_string(), "/shown");
        bind.mode = BindMountMode::ReadWrite;
        spec.bind_mounts.push(bind);
    })
    .await;
    let late = shared_path().join("from-host");
    mount(Some("late"), &late, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let inside =
        script(world, &handle, "mount -t tmpfs late /shown/from-container && cat /proc/self/mountinfo").await;
    let outside = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(inside.contains(" /shown/from-container "), "{inside}");
    let own = format!(" {} ", shared_path().join("from-container").display());
    (inside.contains(" /shown/from-host "), outside.contains(&own))
}

#[test]
fn what_is_mounted_later_appears_on_its_own_side_only() {
    let shared = Mounted::shared();
    // Where the host's mounts are shared, what the supervisor mounts there on the way would appear on the host as well.
    let private = Mounted::new(own_path("private"), MsFlags::MS_PRIVATE);
    let without = |config: &mut Config| {
        config.depot = private.0.join("depot");
        config.store = private.0.join("store");
        config.defences = Defences::without(Defence::PrivateMounts);
    };
    check(linux_with(without), |world| {
        Box::pin(async move { assert_eq!(mounts_that_appear(world).await, (true, true)) })
    });
    drop(shared);
    let _shared = Mounted::shared();
    check(linux(), |world| {
        Box::pin(async move { assert_eq!(mounts_that_appear(world).await, (false, false)) })
    });
}

/// Writes to files that act on the host what they hold already; the sysrq is only opened. Not every kernel has all.
const WRITE_HOST_SETTINGS: &str = "cd /proc/sys
    for file in kernel/core_pattern kernel/modprobe vm/overcommit_memory; do
        [ -e $file ] || continue
        value=$(cat $file)
        (echo \"$value\" > $file) 2> /dev/null && echo written || echo refused
    done
    [ -e /proc/sysrq-trigger ] || exit 0
    (: >> /proc/sysrq-trigger) 2> /dev/null && echo written || echo refused";

async fn settings_written(world: &World, privileged: bool) -> bool {
    let handle = victim(world, |spec| spec.privileged = privileged).await;
    let said = script(world, &handle, WRITE_HOST_SETTINGS).await;
    assert!(said.lines().count() >= 2, "{said}");
    assert!(said.lines().all(|line| Some(line) == said.lines().next()), "not all alike: {said}");
    said.starts_with("written")
}

#[test]
fn core_pattern_and_other_settings_of_the_host_are_read_only() {
    check(linux_with(|config| config.defences = Defences::without(Defence::ReadOnlyPaths)), |world| {
        Box::pin(async move {
            assert!(settings_written(world, true).await);
            assert!(!settings_written(world, false).await, "the user namespace is in the way, too");
        })
    });
    check(linux(), |world| {
        Box::pin(async move {
            assert!(!settings_written(world, true).await);
            assert!(!settings_written(world, false).await);
        })
    });
}

/// What files of /proc and /sys tell about the host, keys of other users among it. Not every kernel has all.
const ASK_ABOUT_HOST: &str = "cat /proc/keys /proc/timer_list /proc/sched_debug; ls -A /sys/firmware";

async fn told_about_host(world: &World, privileged: bool) -> String {
    let handle = victim(world, |spec| spec.privileged = privileged).await;
    script(world, &handle, &format!("({ASK_ABOUT_HOST}) 2> /dev/null")).await
}

#[test]
fn what_proc_and_sys_tell_about_the_host_is_covered() {
    check(linux_with(|config| config.defences = Defences::without(Defence::MaskedPaths)), |world| {
        Box::pin(async move { assert_ne!(told_about_host(world, true).await, "") })
    });
    check(linux(), |world| {
        Box::pin(async move {
            for privileged in [false, true] {
                assert_eq!(told_about_host(world, privileged).await, "");
            }
        })
    });
}

/// Mounts a hierarchy of cgroups of its own, and changes what belongs to the server there: the limits of its group.
const CHANGE_OWN_CGROUP: &str = "mkdir /tmp/groups
    mount -t cgroup -o pids cgroup /tmp/groups 2> /dev/null || mount -t cgroup2 cgroup /tmp/groups || exit
    echo mounted
    for file in /tmp/groups/cgroup.procs /tmp/groups/pids.max; do
        ( : >> $file) 2> /dev/null && echo writable
    done";

#[test]
fn a_container_does_not_mount_cgroups_to_change_its_own() {
    // Nobody but root of the host may write there. The filter and the capabilities are in the way before.
    check(linux(), |world| {
        Box::pin(async move {
            let handle = victim(world, |spec| spec.privileged = true).await;
            let said = script(world, &handle, CHANGE_OWN_CGROUP).await;
            assert!(said.contains("mounted\nwritable"), "{said}");
            let handle = victim(world, |_| ()).await;
            let said = script(world, &handle, CHANGE_OWN_CGROUP).await;
            assert!(!said.contains("mounted"), "{said}");
        })
    });
    let without = |config: &mut Config| {
        config.defences = Defences::without_all(&[Defence::Seccomp, Defence::Capabilities]);
    };
    check(linux_with(without), |world| {
        Box::pin(async move {
            let handle = victim(world, |_| ()).await;
            let said = script(world, &handle, CHANGE_OWN_CGROUP).await;
            assert!(said.contains("mounted") && !said.contains("writable"), "{said}");
        })
    });
}

#[test]
fn a_process_with_an_image_of_its_own_is_not_shown_what_is_covered_in_the_container() {
    check(linux(), |world| {
        Box::pin(async move {
            // The server's files are shown to such processes too: root of the container has put something else in
            // their place.
            let covered =
                "[ $(ls -A /sys/firmware | wc -l) = 0 ] && grep -c ' /proc/sys ro,' /proc/self/mountinfo";
            let (_directory, image) = image(|_| ());
            let handle = victim(world, |spec| spec.rootfs.clone_from(&image)).await;
            assert_eq!(script(world, &handle, covered).await, "1");
            let replace =
                "mv /etc /old && mkdir /etc && ln -s /proc /etc/hosts && ln -s /sys /etc/resolv.conf
                echo replaced";
            assert_eq!(script(world, &handle, replace).await, "replaced");
            let look = "ls -d /etc/hosts/1; ls -d /etc/resolv.conf/kernel; cat /etc/hosts/keys; echo looked";
            let spec = ProcessSpec {
                image: ImageRef { uri: image, ..ImageRef::default() },
                ..ProcessSpec::new("sh", ["-c", look])
            };
            let looked = world.backend().run(&handle, spec).await;
            // Refused, or without them.
            if let Ok(process) = looked {
                assert_eq!(end(process).await.text(), "looked\n");
            }
        })
    });
}
