//! Ids and capabilities.

use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities,
};

use crate::users::User;

/// What an unprivileged container may have: Docker's default.
const UNPRIVILEGED: u64 = 0xa804_25fb;
/// What a privileged one may have, for root and for others.
const PRIVILEGED_ROOT: u64 = 0x3f_ffff_ffff;
const PRIVILEGED_USER: u64 = 0xa824_25fb;

/// Becomes root of the user namespace that this process is in.
pub fn become_root() -> io::Result<()> {
    setgroups(&[])?;
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
    Ok(())
}

/// Takes a user's groups and id, for good; capabilities are the next step's.
pub fn become_user(user: &User) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setresgid(gid, gid, gid)?;
    // The bounding set can only be cut down by who still has the capability for it.
    rustix::thread::set_keep_capabilities(true)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Gives up every capability that a process of the container does not have by default.
pub fn keep_default_capabilities(privileged: bool, root: bool) -> io::Result<()> {
    let wanted = match (privileged, root) {
        (false, _) => UNPRIVILEGED,
        (true, true) => PRIVILEGED_ROOT,
        (true, false) => PRIVILEGED_USER,
    };
    let mut bounding = CapabilitySet::empty();
    for number in 0..u64::BITS {
        let Some(capability) = CapabilitySet::from_bits(1 << number) else { continue };
        // The kernel refuses numbers that it does not know.
        let Ok(true) = capability_is_in_bounding_set(capability) else { continue };
        if wanted & (1 << number) == 0 {
            remove_capability_from_bounding_set(capability)?;
        } else {
            bounding |= capability;
        }
    }
    let own = if root { bounding } else { CapabilitySet::empty() };
    let inheritable = if privileged && !root { CapabilitySet::empty() } else { bounding };
    set_capabilities(None, CapabilitySets { effective: own, permitted: own, inheritable })?;
    Ok(())
}
