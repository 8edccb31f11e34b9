//! Attacks out of a container: the program that tries them, beside the container's own shell.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use protocol::{BindMount, BindMountMode, BindMountOrigin, ContainerSpec};

use tempfile::TempDir;

use crate::{
    killable::{binary, supervisors},
    world::World,
};

/// What the images have of busybox.
const APPLETS: [&str; 14] =
    ["sh", "cat", "dd", "echo", "grep", "ln", "ls", "mkdir", "mount", "mv", "readlink", "rm", "stat", "wc"];

/// What of the host to show in a container, read-only.
pub fn shown(source: &str, target: &str) -> BindMount {
    BindMount {
        src_path: source.into(),
        dst_path: target.into(),
        mode: BindMountMode::ReadOnly,
        origin: BindMountOrigin::Host,
    }
}

/// An image of busybox alone, with neither /proc nor /sys nor /dev, and with what `spoil` makes of it: its path, for as
/// long as the directory lives.
pub fn image(spoil: impl FnOnce(&Path)) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let bin = directory.path().join("bin");
    fs::create_dir(&bin).expect("make /bin");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.expect("busybox"), bin.join("busybox")).expect("copy busybox");
    for name in APPLETS {
        symlink("busybox", bin.join(name)).expect("link an applet");
    }
    // Whoever makes an image may well be able to read it.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("open the image to all");
    spoil(directory.path());
    let path = directory.path().display().to_string();
    (directory, path)
}

/// A new container that has the program of the attacks.
pub async fn victim(world: &World, change: impl FnOnce(&mut ContainerSpec)) -> String {
    let program = binary("attack").display().to_string();
    world
        .create_with(|spec| {
            spec.bind_mounts.push(shown(&program, "/attack"));
            change(spec);
        })
        .await
}

/// What an attack says from within a container.
pub async fn attack(world: &World, handle: &str, arguments: &[&str]) -> String {
    let command: Vec<&str> = ["/attack"].iter().chain(arguments).copied().collect();
    let ended = world.run_to_end(handle, &command).await;
    assert_eq!(ended.status, 0, "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    ended.text().trim().to_owned()
}

/// What a script says within a container, errors too.
pub async fn script(world: &World, handle: &str, script: &str) -> String {
    let script = format!("exec 2>&1\n{script}");
    world.run_to_end(handle, &["sh", "-c", &script]).await.text().trim().to_owned()
}

/// What an attack says on the host, where nothing stops it.
pub fn attack_on_host(arguments: &[&str]) -> String {
    let output = Command::new(binary("attack")).args(arguments).output().expect("the program of the attacks");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The process id of a container's supervisor.
pub fn supervisor_of(handle: &str) -> String {
    // The container's pid 1 is a copy of it, name and all.
    let is_pid_1 = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    let found = supervisors(handle);
    let mut pids = found.iter().filter_map(|line| line.split(' ').next()).filter(|pid| !is_pid_1(pid));
    pids.next().expect("the container's supervisor").to_owned()
}
