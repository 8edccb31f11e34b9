//! What the processes of a container are kept from by themselves, whatever they see: system calls, capabilities, setuid
//! programs. On the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use backend_linux::{Defence, Defences};
use protocol::{ContainerSpec, ProcessSpec};
use tests::{
    columns::check,
    linux::{linux, linux_with},
    system_calls::{Abi, Call, answers, program},
    world::{World, end},
};

const EPERM: i64 = -1;
const EBADF: i64 = -9;
const EFAULT: i64 = -14;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;
const ESRCH: i64 = -3;

/// What a call must answer.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Is(i64),
    /// The kernel made the call: how it went depends on the host.
    Made,
}
use Wanted::{Is, Made};

fn x86_64(number: u32, arguments: [u64; 3]) -> Call {
    Call { abi: Abi::X86_64, number, arguments }
}

fn i386(number: u32, arguments: [u64; 3]) -> Call {
    Call { abi: Abi::I386, number, arguments }
}

/// Puts a file in and makes it executable.
async fn install(world: &World, handle: &str, name: &str, mode: &str, file: &[u8]) {
    world.stream_in(handle, "", "/usr/local", &[(name, file)]).await;
    let changed = world.run_to_end(handle, &["chmod", mode, &format!("/usr/local/{name}")]).await;
    assert_eq!(changed.status, 0, "{changed:?}");
}

/// What these calls answer in a container.
async fn make_calls(world: &World, handle: &str, user: &str, calls: &[Call]) -> Vec<i64> {
    install(world, handle, "calls", "755", &program(calls)).await;
    let spec = ProcessSpec { path: "/usr/local/calls".into(), user: user.into(), ..ProcessSpec::default() };
    let ended = world.run_spec_to_end(handle, spec).await;
    assert_eq!(ended.status, 0, "{ended:?}");
    let answers = answers(&ended.stdout);
    assert_eq!(answers.len(), calls.len());
    answers
}

/// Whether this kernel takes 32-bit calls at all: one that does not kills who makes them.
async fn has_i386(world: &World) -> bool {
    let handle = world.create_with(|spec| spec.privileged = true).await;
    install(world, &handle, "getpid", "755", &program(&[i386(20, [0; 3])])).await;
    let ended = world.run_to_end(&handle, &["/usr/local/getpid"]).await;
    world.backend().destroy(&handle).await.expect("destroy");
    ended.status == 0
}

async fn assert_answers(world: &World, spec: ContainerSpec, calls: &[(&str, Call, Wanted)]) {
    let handle = world.backend().create(spec).await.expect("create");
    let i386 = has_i386(world).await;
    if !i386 {
        println!("this kernel takes no 32-bit calls: they are left out");
    }
    let calls: Vec<_> = calls.iter().filter(|(_, call, _)| i386 || call.abi == Abi::X86_64).collect();
    let made: Vec<Call> = calls.iter().map(|(_, call, _)| *call).collect();
    for user in ["", "vcap"] {
        let answers = make_calls(world, &handle, user, &made).await;
        for ((name, call, wanted), answer) in calls.iter().zip(answers) {
            let right = match wanted {
                Is(wanted) => answer == *wanted,
                Made => answer != EPERM && answer != ENOSYS,
            };
            assert!(right, "{name} as user {user:?}: {answer} is not {wanted:?} ({call:x?})");
        }
    }
}

const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_FS: u64 = 0x200;
const CLONE_SIGHAND: u64 = 0x800;
const X32: u32 = 0x4000_0000;

#[test]
fn system_calls_that_are_not_on_the_list_have_the_errno_that_they_should() {
    check(linux(), |world| {
        Box::pin(async move {
            let calls = [
                ("unshare", x86_64(272, [CLONE_NEWUSER, 0, 0]), Is(EPERM)),
                ("mount", x86_64(165, [0; 3]), Is(EPERM)),
                ("setns", x86_64(308, [u64::MAX, 0, 0]), Is(EPERM)),
                ("add_key", x86_64(248, [0; 3]), Is(EPERM)),
                ("keyctl", x86_64(250, [9999, 0, 0]), Is(EPERM)),
                ("bpf", x86_64(321, [9999, 0, 0]), Is(EPERM)),
                ("userfaultfd", x86_64(323, [0x7fff_ffff, 0, 0]), Is(EPERM)),
                ("io_uring_setup", x86_64(425, [0; 3]), Is(EPERM)),
                ("open_by_handle_at", x86_64(304, [u64::MAX, 0, 0]), Is(EPERM)),
                ("pidfd_getfd", x86_64(438, [u64::MAX, 0, 0]), Is(EPERM)),
                ("a number that no call has, below others", x86_64(400, [0; 3]), Is(EPERM)),
                ("a number above all", x86_64(5000, [0; 3]), Is(ENOSYS)),
                ("clone3", x86_64(435, [0; 3]), Is(ENOSYS)),
                ("clone with a namespace", x86_64(56, [CLONE_NEWUSER | CLONE_FS, 0, 0]), Is(EPERM)),
                ("clone without", x86_64(56, [CLONE_SIGHAND, 0, 0]), Is(EINVAL)),
                ("AF_VSOCK", x86_64(41, [40, 1, 0]), Is(EPERM)),
                ("AF_VSOCK beside what the kernel ignores", x86_64(41, [40 | 1 << 32, 1, 0]), Is(EPERM)),
                ("AF_ALG", x86_64(41, [38, 5, 0]), Is(EPERM)),
                ("AF_UNIX", x86_64(41, [1, 1, 0]), Made),
                ("personality, not to randomise", x86_64(135, [0x4_0000, 0, 0]), Is(EPERM)),
                ("personality, asked", x86_64(135, [0xffff_ffff, 0, 0]), Made),
                ("personality of 32 bits", x86_64(135, [8, 0, 0]), Made),
                ("chroot", x86_64(161, [0; 3]), Is(EFAULT)),
                ("ptrace", x86_64(101, [9999, 9_999_999, 0]), Is(ESRCH)),
                ("close", x86_64(3, [999, 0, 0]), Is(EBADF)),
                ("unshare of x32", x86_64(X32 + 272, [CLONE_NEWUSER, 0, 0]), Is(EPERM)),
                ("mount of x32", x86_64(X32 + 165, [0; 3]), Is(EPERM)),
                ("ptrace of x86_64 as x32", x86_64(X32 + 101, [0; 3]), Is(EPERM)),
                ("unshare of i386", i386(310, [CLONE_NEWUSER, 0, 0]), Is(EPERM)),
                ("mount of i386", i386(21, [0; 3]), Is(EPERM)),
                ("add_key of i386", i386(286, [0; 3]), Is(EPERM)),
                ("clone of i386 with a namespace", i386(120, [CLONE_NEWUSER | CLONE_FS, 0, 0]), Is(EPERM)),
                ("clone of i386 without", i386(120, [CLONE_SIGHAND, 0, 0]), Is(EINVAL)),
                ("clone3 of i386", i386(435, [0; 3]), Is(ENOSYS)),
                ("AF_VSOCK of i386", i386(359, [40, 1, 0]), Is(EPERM)),
                ("personality of i386", i386(136, [0x4_0000, 0, 0]), Is(EPERM)),
                ("a number above all of i386", i386(5000, [0; 3]), Is(ENOSYS)),
                ("chroot of i386", i386(61, [0; 3]), Is(EFAULT)),
                ("socketcall", i386(102, [0; 3]), Is(EINVAL)),
                ("getresuid of i386, in place of x86_64's mount", i386(165, [0; 3]), Is(EFAULT)),
            ];
            assert_answers(world, world.spec(), &calls).await;
        })
    });
}

/// The same calls do what they do. So it is the filter that refuses them above.
#[test]
fn without_the_filter_the_kernel_takes_what_it_refuses() {
    check(linux_with(|config| config.defences = Defences::without(Defence::Seccomp)), |world| {
        Box::pin(async move {
            let calls = [
                ("setns", x86_64(308, [u64::MAX, 0, 0]), Is(EBADF)),
                ("add_key", x86_64(248, [0; 3]), Is(EFAULT)),
                ("keyctl", x86_64(250, [9999, 0, 0]), Made),
                ("a number that no call has, below others", x86_64(400, [0; 3]), Is(ENOSYS)),
                ("clone3", x86_64(435, [0; 3]), Is(EINVAL)),
                ("clone with a namespace", x86_64(56, [CLONE_NEWUSER | CLONE_FS, 0, 0]), Is(EINVAL)),
                ("personality, not to randomise", x86_64(135, [0x4_0000, 0, 0]), Made),
                ("setns of i386", i386(346, [u64::MAX, 0, 0]), Is(EBADF)),
                ("mount of i386", i386(21, [0; 3]), Is(EFAULT)),
                ("clone of i386 with a namespace", i386(120, [CLONE_NEWUSER | CLONE_FS, 0, 0]), Is(EINVAL)),
                ("personality of i386", i386(136, [0x4_0000, 0, 0]), Made),
                ("unshare", x86_64(272, [CLONE_NEWUSER, 0, 0]), Is(0)),
            ];
            assert_answers(world, world.spec(), &calls).await;
        })
    });
}

const SECCOMP: &str = "sed -n 's/^Seccomp:[^0-9]*//p'";

/// What /proc says of pid 1, of root's processes and of a user's.
async fn seccomp_modes(world: &World, privileged: bool) -> String {
    let handle = world.create_with(|spec| spec.privileged = privileged).await;
    let mut modes = String::new();
    for (user, process) in [("", "1"), ("", "self"), ("vcap", "self")] {
        let script = format!("{SECCOMP} /proc/{process}/status");
        let args = vec!["-c".into(), script];
        let spec = ProcessSpec { path: "sh".into(), args, user: user.into(), ..ProcessSpec::default() };
        modes.push_str(world.run_spec_to_end(&handle, spec).await.text().trim());
    }
    modes
}

#[test]
fn every_process_of_an_unprivileged_container_is_in_filter_mode() {
    check(linux(), |world| {
        Box::pin(async move {
            assert_eq!(seccomp_modes(world, false).await, "222");
            assert_eq!(seccomp_modes(world, true).await, "000", "privileged ones have no filter");
        })
    });
}

#[test]
fn making_a_user_namespace_is_not_permitted() {
    check(linux(), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            let ended = world.run_to_end(&handle, &["unshare", "--user", "true"]).await;
            assert_ne!(ended.status, 0);
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(said.contains("Operation not permitted"), "{said}");
        })
    });
    check(linux_with(|config| config.defences = Defences::without(Defence::Seccomp)), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            let ended = world.run_to_end(&handle, &["unshare", "--user", "true"]).await;
            assert_eq!(ended.status, 0, "{ended:?}");
        })
    });
}

#[test]
fn who_takes_files_in_is_in_filter_mode() {
    check(linux(), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            // A tar that does not come to its end before the test does.
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let endless = futures_util::stream::once(async {
                let _ = stopped.await;
                Ok(bytes::Bytes::new())
            });
            let query = protocol::FilesQuery { path: "/tmp".into(), ..Default::default() };
            let (backend, name) = (world.shared(), handle.clone());
            let taking =
                tokio::spawn(async move { backend.stream_in(&name, query, Box::pin(endless)).await });
            // It says 0 until it has come in: that is waited for, within the time that a behaviour has.
            let script = format!(
                "while :; do for p in /proc/[0-9]*; do
                    [ $p != /proc/1 ] && [ \"$(cat $p/comm)\" = garden-init ] || continue
                    [ \"$({SECCOMP} $p/status)\" = 2 ] && exit 0
                done 2> /dev/null; sleep 0.05; done"
            );
            let script = ["timeout", "30", "sh", "-c", &script];
            assert_eq!(world.run_to_end(&handle, &script).await.status, 0, "in filter mode");
            drop(stop);
            let _ = taking.await.expect("a task");
        })
    });
}

/// Inheritable, permitted, effective, bounding, ambient.
async fn capabilities(world: &World, handle: &str, user: &str, process: &str) -> Vec<u64> {
    let script = format!("grep Cap /proc/{process}/status | cut -f 2");
    let args = vec!["-c".into(), script];
    let spec = ProcessSpec { path: "sh".into(), args, user: user.into(), ..ProcessSpec::default() };
    let text = end(world.backend().run(handle, spec).await.expect("run")).await.text();
    text.lines().map(|line| u64::from_str_radix(line, 16).expect("a set")).collect()
}

#[test]
fn the_inheritable_capabilities_can_be_cleared() {
    for cleared in [false, true] {
        check(
            linux_with(move |config| config.hardening.clear_inheritable_capabilities = cleared),
            if cleared { without_inheritable } else { with_inheritable },
        );
    }
}

const MASK: u64 = 0xa804_25fb;

fn with_inheritable(world: &World) -> futures_util::future::BoxFuture<'_, ()> {
    Box::pin(inheritable_is(world, MASK))
}

fn without_inheritable(world: &World) -> futures_util::future::BoxFuture<'_, ()> {
    Box::pin(inheritable_is(world, 0))
}

async fn inheritable_is(world: &World, inheritable: u64) {
    let handle = world.create().await;
    assert_eq!(capabilities(world, &handle, "", "1").await, [inheritable, MASK, MASK, MASK, 0]);
    assert_eq!(capabilities(world, &handle, "", "self").await, [inheritable, MASK, MASK, MASK, 0]);
    assert_eq!(capabilities(world, &handle, "vcap", "self").await, [inheritable, 0, 0, MASK, 0]);
}

/// The effective user of a program of root's that is setuid, when the user vcap executes it.
async fn effective_user(world: &World, privileged: bool) -> i64 {
    let handle = world.create_with(|spec| spec.privileged = privileged).await;
    install(world, &handle, "setuid", "4755", &program(&[x86_64(107, [0; 3])])).await;
    let spec =
        ProcessSpec { path: "/usr/local/setuid".into(), user: "vcap".into(), ..ProcessSpec::default() };
    answers(&world.run_spec_to_end(&handle, spec).await.stdout)[0]
}

#[test]
fn setuid_programs_raise_nobody_where_new_privileges_are_forbidden() {
    check(linux(), |world| {
        Box::pin(async move {
            assert_eq!(effective_user(world, false).await, 0);
        })
    });
    check(linux_with(|config| config.hardening.no_new_privileges = true), |world| {
        Box::pin(async move {
            assert_eq!(effective_user(world, false).await, 1000);
            assert_eq!(effective_user(world, true).await, 0, "privileged containers are left alone");
            assert_eq!(seccomp_modes(world, false).await, "222", "and the filter is there all the same");
        })
    });
}
