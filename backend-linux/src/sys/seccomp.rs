//! seccomp(2).

use std::io;

use nix::libc;

/// Has every system call that this process makes from now on, and those of what it forks and executes, go through a
/// filter, for good. Needs CAP_SYS_ADMIN in the process's user namespace, or no_new_privs.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a filter of more than 65535 instructions"));
    };
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` names `len` valid instructions, which the kernel reads and does not write; it and they outlive
    // the call.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
