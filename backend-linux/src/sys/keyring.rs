//! Session keyrings.

use std::io;

use nix::libc;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Leaves the session keyring that was inherited for a new, empty one. Without that, whoever is in a container reads
/// and writes the keys of whoever started the server.
pub fn leave_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; the call touches no memory of this process.
    let keyring = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    match keyring {
        -1 => match io::Error::last_os_error() {
            // A kernel without keyrings has none to share.
            error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}
