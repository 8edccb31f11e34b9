//! Devices of the host: what a container may do with them. On the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use protocol::{BindMount, BindMountMode, BindMountOrigin, ContainerSpec, ProcessLimits, ProcessSpec};
use tests::{columns::check, linux::linux_with, world::World};

/// Opens the host's kernel log, a device that every host has and no container should, for writing. Writes nothing.
const OPEN: &str = "(exec 3>$NODE) 2>/tmp/why && echo open || cat /tmp/why";

const REFUSED: &str = "Operation not permitted";

/// What an unprivileged container says of a node of the kernel log, which the host has shown to it with a mode that
/// lets everybody write.
async fn open_shown_log(world: &World) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut made = Command::new("mknod");
    made.args(["-m", "0666"]).arg(directory.path().join("log")).args(["c", "1", "11"]);
    assert!(made.status().expect("mknod").success());
    let shown = BindMount {
        src_path: directory.path().display().to_string(),
        dst_path: "/shown".into(),
        mode: BindMountMode::ReadWrite,
        origin: BindMountOrigin::Host,
    };
    let handle = world.create_with(|spec| spec.bind_mounts = vec![shown]).await;
    // What every container has, it has still.
    let own = "set -e; for d in null zero full random urandom; do head -c 1 /dev/$d >/tmp/byte; done;
        echo x > /dev/null; cat /dev/tty 2>&1 | grep -q 'No such device'; : < /dev/ptmx; echo own";
    let own = world.run_to_end(&handle, &["sh", "-c", own]).await;
    assert_eq!(own.text(), "own\n", "{}", String::from_utf8_lossy(&own.stderr));
    let open = format!("NODE=/shown/log; {OPEN}");
    ordinary_and_apart(world, &handle, &open).await
}

/// What a script says, which is the same for a process of the container and for one in a cgroup of its own.
async fn ordinary_and_apart(world: &World, handle: &str, script: &str) -> String {
    let spec = ProcessSpec::new("sh", ["-c", script]);
    let ordinary = world.run_spec_to_end(handle, spec.clone()).await.text();
    let apart = ProcessSpec { limits: Some(ProcessLimits::default()), ..spec };
    assert_eq!(world.run_spec_to_end(handle, apart).await.text(), ordinary);
    ordinary
}

#[test]
#[cfg(debug_assertions)]
fn without_the_list_of_devices_the_hosts_kernel_log_is_open() {
    use backend_linux::{Defence, Defences};
    let world = linux_with(|config| config.defences = Defences::without(Defence::Devices));
    check(world, |world| Box::pin(async move { assert_eq!(open_shown_log(world).await, "open\n") }));
}

#[test]
fn a_device_cannot_be_used_even_where_its_node_is_at_hand() {
    check(linux_with(|_| ()), |world| {
        Box::pin(async move {
            let said = open_shown_log(world).await;
            assert!(said.contains(REFUSED), "{said}");
        })
    });
}

#[test]
fn a_device_that_the_operator_allows_can_be_used_for_what_is_allowed() {
    let world = linux_with(|config| config.device_rules = vec!["c 1:11 w".parse().expect("a rule")]);
    check(world, |world| Box::pin(async move { assert_eq!(open_shown_log(world).await, "open\n") }));
    let world = linux_with(|config| config.device_rules = vec!["c 1:11 rm".parse().expect("a rule")]);
    check(world, |world| {
        Box::pin(async move {
            let said = open_shown_log(world).await;
            assert!(said.contains(REFUSED), "{said}");
        })
    });
}

#[test]
fn a_privileged_container_makes_and_uses_any_device() {
    check(linux_with(|_| ()), |world| {
        Box::pin(async move {
            let spec = ContainerSpec { privileged: true, ..world.spec() };
            let handle = world.backend().create(spec).await.expect("create");
            let make = format!("NODE=/dev/log; rm -f $NODE; mknod $NODE c 1 11 && {OPEN}");
            assert_eq!(ordinary_and_apart(world, &handle, &make).await, "open\n");
        })
    });
}
