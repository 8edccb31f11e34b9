//! The only `unsafe` of the project: system calls that no safe wrapper covers, each with the reason why its use is
//! sound. Descriptors are owned on the way in and out.

#![allow(unsafe_code)]

mod bpf;
mod clone;
mod descriptors;
mod keyring;
mod memory;
mod mount;
mod readiness;
mod seccomp;
mod shm;

pub use bpf::{DeviceProgram, Instruction};
pub use clone::{
    Forked, fork, leave_children_to_the_kernel, reset_signals, reset_signals_of_child, run_in_helper,
    wait_for_own_children,
};
pub use descriptors::{close_all_but, close_from_at_exec};
pub use keyring::leave_session_keyring;
pub use memory::give_back_freed_memory;
pub use mount::{idmap_mount, idmap_mount_tree, set_mount_read_only, set_mount_read_only_and_quiet};
pub use readiness::async_fd;
pub use seccomp::install_filter;
pub use shm::{SHARED_WORDS, SharedWords};
