//! The filter of system calls for processes of unprivileged containers. The build script compiles it, so that nothing
//! is left to do when a container is made.

#[cfg(test)]
mod compiler;
#[cfg(test)]
mod profile;
#[cfg(test)]
mod tests;

use nix::libc::sock_filter;

/// The program, for [`install_filter`](crate::sys::install_filter).
pub const FILTER: &[sock_filter] = &include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));

/// The same for a process that will execute no other program. It is half as long, and so is the time that the kernel
/// takes to install it.
pub const OWN_FILTER: &[sock_filter] = &include!(concat!(env!("OUT_DIR"), "/seccomp_own.rs"));
