//! Attempts to break out by way of processes: the supervisor, its program, children on their way in, descriptors, /proc.
//!
//! Each attack is seen to succeed without what stops it, and then refused. docs/DEFENCES.md lists them all.

// Only debug builds can leave a defence out.
#![cfg(debug_assertions)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    env, fs,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    process::Command,
};

use backend_linux::{Defence, Defences};
use protocol::{FilesQuery, ProcessSpec};
use rustix::{
    fs::{Mode, OFlags, open},
    io::{FdFlags, fcntl_setfd},
};
use tests::{
    attack::{attack, attack_on_host, script, shown, supervisor_of, victim},
    columns::{Behaviour, check},
    files::collect,
    killable::binary,
    linux::{linux, linux_with},
    world::{World, end},
};

const REFUSED: &str = "EPERM: Operation not permitted";

fn without(defences: &'static [Defence], behaviour: Behaviour) {
    check(linux_with(|config| config.defences = Defences::without_all(defences)), behaviour);
}

/// A file of the host that no container has: this test's own program.
fn host_file() -> String {
    env::current_exe().unwrap().display().to_string()
}

/// Executes what its supervisor is made of, and changes that file while it does. The container is privileged, as root
/// was the host's where this was found: in others the file is not even theirs.
async fn change_the_supervisors_program(world: &World) {
    let handle = victim(world, |spec| spec.privileged = true).await;
    // What executes this is still a copy of the supervisor.
    let process = world.run(&handle, &["/proc/self/exe"]).await;
    let change = "for process in /proc/[0-9]*; do
            [ $process != /proc/1 ] && readlink $process/exe | grep -q garden-init || continue
            (echo overwritten > $process/exe); chmod 4711 $process/exe && echo changed
        done";
    let said = script(world, &handle, change).await;
    assert!(said.contains("changed"), "{said}");
    world.backend().destroy(&handle).await.expect("destroy");
    let _ = process.exit.await;
}

/// The mode of the host's file after the attack. Nobody can write to it while it is executed, but as the supervisor
/// executes it for as long as there is a container, this says that it was within reach.
fn mode_after_attack(defences: Defences) -> u32 {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("garden-init");
    // By another process: a child that another thread forks meanwhile would have the copy open for writing, and no such
    // file can be executed.
    assert!(Command::new("cp").arg(binary("garden-init")).arg(&program).status().expect("cp").success());
    let before = fs::read(&program).unwrap();
    let config = |config: &mut backend_linux::Config| {
        config.init_binary = Some(program.clone());
        config.defences = defences;
    };
    check(linux_with(config), |world| Box::pin(change_the_supervisors_program(world)));
    assert!(fs::read(&program).unwrap() == before, "overwritten");
    fs::metadata(&program).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_supervisors_program_is_no_file_that_a_container_can_reach() {
    assert_eq!(mode_after_attack(Defences::without(Defence::SealedInit)), 0o4711);
    assert_eq!(mode_after_attack(Defences::default()), 0o755);
}

#[test]
fn who_has_not_executed_a_program_yet_is_neither_traced_nor_looked_at() {
    // Pid 1 is what a child on its way in is for a moment: a copy of the supervisor that has become root inside.
    const LOOK: &str = "readlink /proc/1/exe; ls /proc/1/fd/ && ls /proc/1/root/etc";
    without(&[Defence::NotDumpable], |world| {
        Box::pin(async move {
            let handle = victim(world, |_| ()).await;
            assert_eq!(attack(world, &handle, &["ptrace", "1"]).await, "traced");
            let said = script(world, &handle, LOOK).await;
            assert!(said.contains("garden-init") && said.contains("passwd"), "{said}");
        })
    });
    check(linux(), |world| {
        Box::pin(async move {
            let handle = victim(world, |_| ()).await;
            assert_eq!(attack(world, &handle, &["ptrace", "1"]).await, REFUSED);
            let said = script(world, &handle, LOOK).await;
            assert!(said.contains("Permission denied") && !said.contains("garden-init"), "{said}");
        })
    });
}

#[test]
fn the_supervisor_is_out_of_reach_of_tracing_and_signals() {
    check(linux(), |world| {
        Box::pin(async move {
            for privileged in [false, true] {
                let handle = victim(world, |spec| spec.privileged = privileged).await;
                let supervisor = supervisor_of(&handle);
                // What separates them is a pid namespace: in the same one root may.
                assert_eq!(attack_on_host(&["ptrace", &supervisor]), "traced");
                assert_eq!(attack(world, &handle, &["ptrace", &supervisor]).await, "ESRCH: No such process");
                // Everyone whom root inside can name; pid 1 takes no signal from its own namespace.
                let kill = "sleep 1000 & kill -KILL -1; wait $!; [ $? = 137 ] && echo only its own";
                let said = script(world, &handle, kill).await;
                assert!(said.ends_with("only its own"), "{said}");
                assert_eq!(supervisor_of(&handle), supervisor);
                assert_eq!(script(world, &handle, "echo $PPID; echo alive").await, "0\nalive");
            }
        })
    });
}

#[test]
fn a_proc_of_the_hosts_leads_an_unprivileged_container_nowhere() {
    // An operator's mistake, or an older kernel's: the supervisor is in sight. The user namespace stands in the way;
    // a privileged container has none.
    check(linux(), |world| {
        Box::pin(async move {
            for privileged in [true, false] {
                let handle = victim(world, |spec| {
                    spec.privileged = privileged;
                    spec.bind_mounts.push(shown("/proc", "/shown"));
                })
                .await;
                let process = format!("/shown/{}", supervisor_of(&handle));
                let namespace = format!("{process}/ns/mnt");
                for way in ["root", "cwd"] {
                    let look = format!("ls {process}/{way}{}", host_file());
                    let said = script(world, &handle, &look).await;
                    assert_eq!(said.contains("Permission denied"), !privileged, "{way}: {said}");
                }
                let fds = script(world, &handle, &format!("ls {process}/fd/")).await;
                assert_eq!(fds.contains("Permission denied"), !privileged, "{fds}");
                let said = attack(world, &handle, &["setns", &namespace, "/proc/self/mountinfo"]).await;
                assert_eq!(said.contains("entered"), privileged, "{said}");
            }
        })
    });
}

/// Ways to the host by descriptors that processes inherited: of the program itself, of its working directory before it
/// is executed (CVE-2024-21626), and of who takes files out.
struct Leaks {
    by_program: bool,
    by_directory: bool,
    by_stream: bool,
    /// What setns says to each of them.
    entered: String,
}

async fn leaks(world: &World, privileged: bool) -> Leaks {
    let handle = victim(world, |spec| spec.privileged = privileged).await;
    let file = host_file();
    let look = format!("for fd in /proc/self/fd/*; do [ -e $fd{file} ] && echo $fd; done; true");
    let by_program = !script(world, &handle, &look).await.is_empty();
    let (mut by_directory, mut by_stream) = (false, false);
    for fd in 3..64 {
        let path = format!("/proc/self/fd/{fd}");
        let look =
            ProcessSpec { dir: path.clone(), ..ProcessSpec::new("ls", [file.trim_start_matches('/')]) };
        if let Ok(process) = world.backend().run(&handle, look).await {
            by_directory |= end(process).await.status == 0;
        }
        let query = FilesQuery { path: format!("{path}{file}"), ..FilesQuery::default() };
        if let Ok(out) = world.backend().stream_out(&handle, query).await {
            by_stream |= collect(out).await.is_ok_and(|tar| !tar.is_empty());
        }
    }
    let mut entered = Vec::new();
    for fd in script(world, &handle, "for fd in /proc/self/fd/*; do echo $fd; done").await.lines() {
        if !["0", "1", "2"].iter().any(|own| fd.ends_with(&format!("/{own}"))) {
            entered.push(attack(world, &handle, &["setns", fd, "/proc/self/mountinfo"]).await);
        }
    }
    Leaks { by_program, by_directory, by_stream, entered: entered.join("\n") }
}

#[test]
fn descriptors_that_the_server_was_started_with_do_not_reach_a_container() {
    // As a shell leaves them: open across an exec (CVE-2016-9962, CVE-2024-21626).
    let root = open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let namespace = open("/proc/self/ns/mnt", OFlags::RDONLY, Mode::empty()).unwrap();
    for fd in [&root, &namespace] {
        fcntl_setfd(fd, FdFlags::empty()).unwrap();
        assert!(fd.as_raw_fd() > 2);
    }
    without(&[Defence::ClosedDescriptors], |world| {
        Box::pin(async move {
            for privileged in [false, true] {
                let leaks = leaks(world, privileged).await;
                assert!(leaks.by_program && leaks.by_directory && leaks.by_stream);
                assert_eq!(leaks.entered.contains("entered"), privileged, "{}", leaks.entered);
            }
        })
    });
    check(linux(), |world| {
        Box::pin(async move {
            for privileged in [false, true] {
                let leaks = leaks(world, privileged).await;
                assert!(!leaks.by_program && !leaks.by_directory && !leaks.by_stream);
                assert!(!leaks.entered.contains("entered"), "{}", leaks.entered);
            }
        })
    });
}
