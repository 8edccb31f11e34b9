//! Forking, for `garden-init` only: the server has threads and must not.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{libc, sched::CloneFlags};
use rustix::process::Pid;

/// Which side of a fork this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The process that forked.
    Parent {
        /// The child, as this process sees it.
        pid: Pid,
        /// The child, whatever becomes of its number.
        pidfd: OwnedFd,
    },
}

/// Arguments of clone3(2), as far as the kernel's first extensible version with cgroups (5.7) has them.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Not in `libc` with the width that it has in the kernel.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child process, in new namespaces and in another cgroup (v2) if asked; with `CLONE_PARENT` a sibling. Refused
/// while this process has more than one thread: the child would be left with their locks.
pub fn fork(namespaces: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    // A directory has two links, and one for each directory in it: this one has one for each thread.
    if std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata("/proc/self/task")?) != 3 {
        return Err(io::Error::other("fork in a process with several threads"));
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: namespaces.bits() as u64 | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        // A sibling of this process has the signal of this process.
        exit_signal: if namespaces.contains(CloneFlags::CLONE_PARENT) { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args that outlives the call, `pidfd` points to memory that the kernel may
    // write an int to, no stack is given, so that the child goes on with a copy of this one, and there is no other
    // thread whose locks the copy could inherit.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            let pid = Pid::from_raw(pid as i32).ok_or_else(|| io::Error::other("clone3 gave no pid"))?;
            // SAFETY: the call succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor that nobody else owns.
            Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
    }
}

/// What a helper may take of a stack: many times what it needs, since nothing guards its end. Only what is used of it
/// takes memory.
const HELPER_STACK_BYTES: usize = 1 << 20;

/// Has a child process do `act`, and waits until it has. The child is this process but for its namespaces, descriptors
/// and number: it has the same memory, and this process stands still meanwhile, so that nothing is copied. It ends with
/// what `act` returns.
pub fn run_in_helper(act: impl FnOnce() -> u8) -> io::Result<Pid> {
    let mut stack = vec![0; HELPER_STACK_BYTES];
    let mut act = Some(act);
    let run = Box::new(|| act.take().map_or(1, |act| isize::from(act())));
    // SAFETY: the child has a stack of its own, which outlives it; it shares this process's memory, whose only other
    // user is suspended until the child has ended (CLONE_VFORK); it ends without running destructors or exit handlers
    // that are this process's. A panic in it aborts, since it cannot unwind out of a C function's callback.
    let pid = unsafe {
        nix::sched::clone(
            run,
            &mut stack,
            CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK,
            Some(libc::SIGCHLD),
        )
    }?;
    Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("clone gave no pid"))
}

/// Gives every signal its default action, but the one for a pipe that nobody reads, which stays ignored: an error says
/// as much.
pub fn reset_signals() {
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: SIG_DFL is a valid disposition; for the two signals that cannot be changed the call just fails.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Has the kernel collect this process's children when they end, so that nobody needs to wait for them.
pub fn leave_children_to_the_kernel() {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Undoes [`leave_children_to_the_kernel`], which a child has inherited.
pub fn wait_for_own_children() {
    // SAFETY: SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// For a child of a process whose signals were reset: gives the last one its default action, and unblocks all. That is
/// what a program expects that is about to be executed.
pub fn reset_signals_of_child() {
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // Cannot fail: SIG_SETMASK with a valid set.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}
