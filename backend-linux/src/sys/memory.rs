//! Memory that the allocator keeps.

/// Gives what was freed back to the kernel, where the allocator would keep it for later: for a process that has done
/// the most of its work, and waits from now on.
pub fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and touches only what nobody uses.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
