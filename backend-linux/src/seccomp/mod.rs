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
