//! Which system calls the processes of an unprivileged container may make.
//!
//! The list has the effect of the default one of Docker (profiles/seccomp 0.2.3) for containers with the default
//! capabilities. Rules on arguments are held against the half of a register that the kernel looks at: a family of
//! sockets, or a personality, is 32 bits wide to it, whatever else the register holds.

use super::compiler::{Answer, Arguments};

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// Calls that are allowed whatever their arguments.
pub const ALLOWED: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset \
    chdir chmod chown chown32 chroot clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 \
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait \
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat \
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown \
    fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 \
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents \
    getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid \
    getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 \
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill \
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat \
    listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise \
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 \
    mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv \
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause \
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl \
    pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 \
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom \
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 \
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 sendfile \
    sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 \
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt \
    setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 \
    sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink \
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun \
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask \
    uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid \
    waitpid write writev";

/// The namespaces that clone(2) can make: mount, cgroup, UTS, IPC, user, PID, network. The one of time is none of
/// them: clone(2) takes its bit for a part of the signal.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

/// Linux as usual; Linux and `uname26`; both with addresses that are not randomised; the one to ask which it is.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];

/// The kernel's own cryptography, and sockets to the hypervisor, which no network namespace holds.
const FAMILIES_REFUSED: &[u32] = &[AF_ALG, AF_VSOCK];
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;

/// Every system call that there was when the list was made.
const SYSCALLS: &str = include_str!("syscalls.txt");

/// A way to call the kernel, as filters see it.
#[derive(Debug, Clone, Copy)]
pub struct Abi {
    /// What is told of it beside the call's number (linux/audit.h).
    pub arch: u32,
    /// What is added to the numbers of the table.
    pub offset: u32,
    /// Its column in the table.
    column: usize,
}

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
pub const ABIS: [Abi; 3] = [
    Abi { arch: X86_64, offset: 0, column: 1 },
    // x32 is told apart by the number alone.
    Abi { arch: X86_64, offset: 0x4000_0000, column: 3 },
    Abi { arch: I386, offset: 0, column: 2 },
];

impl Abi {
    /// Numbers and names.
    pub fn calls(&self) -> impl Iterator<Item = (u32, &'static str)> {
        let lines = SYSCALLS.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            Some((self.offset + words.nth(self.column - 1)?.parse::<u32>().ok()?, name))
        })
    }
}

/// What becomes of a call of that name.
pub fn answer(name: &str) -> Answer {
    match name {
        // Its arguments are in memory, where no filter sees them. A C library then takes clone(2).
        "clone3" => Answer::Fails(ENOSYS),
        "clone" => Answer::Unless(Arguments::AnyOf(CLONE_NAMESPACES), EPERM),
        "personality" => Answer::OnlyIf(Arguments::In(PERSONALITIES), EPERM),
        "socket" => Answer::Unless(Arguments::In(FAMILIES_REFUSED), EPERM),
        name if ALLOWED.split(' ').any(|allowed| allowed == name) => Answer::Allowed,
        _ => Answer::Fails(EPERM),
    }
}

/// What becomes of each number in these ABIs of an architecture: each entry counts up to the next one.
fn ranges<'a>(abis: impl Iterator<Item = &'a Abi>) -> Vec<(u32, Answer)> {
    let mut ranges = vec![(0, Answer::Fails(EPERM))];
    for abi in abis {
        let mut calls: Vec<_> = abi.calls().collect();
        calls.sort_unstable();
        for (number, name) in &calls {
            ranges.push((*number, answer(name)));
            ranges.push((number + 1, Answer::Fails(EPERM)));
        }
        // A program that tries what is newer than this list does without it then.
        ranges.extend(calls.last().map(|(last, _)| (last + 1, Answer::Fails(ENOSYS))));
    }
    // Of two entries for a number the later one counts; an entry that repeats the one before it says nothing.
    ranges.reverse();
    ranges.sort_by_key(|(number, _)| *number);
    ranges.dedup_by_key(|(number, _)| *number);
    ranges.dedup_by_key(|(_, answer)| *answer);
    ranges
}

/// All of it.
pub fn profile() -> Vec<(u32, Vec<(u32, Answer)>)> {
    [X86_64, I386].map(|arch| (arch, ranges(ABIS.iter().filter(|abi| abi.arch == arch)))).into()
}

/// What is left of it for a program of our own, which knows of the first ABI only.
pub fn own_profile() -> Vec<(u32, Vec<(u32, Answer)>)> {
    vec![(X86_64, ranges(ABIS.iter().take(1)))]
}
