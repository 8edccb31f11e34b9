//! Ids and capabilities.

use std::io;

use backend_linux::supervisor::{Defence, Defences};
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

/// Takes a user's groups, id and default capabilities, for good.
pub fn become_user(user: &User, privileged: bool, defences: &Defences) -> io::Result<()> {
    let root = user.uid == 0;
    let wanted = match (privileged, root) {
        _ if !defences.have(Defence::Capabilities) => u64::MAX,
        (false, _) => UNPRIVILEGED,
        (true, true) => PRIVILEGED_ROOT,
        (true, false) => PRIVILEGED_USER,
    };
    // Only who still has the capability for it can cut the bounding set down.
    let allowed = bound_capabilities(wanted)?;
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setresgid(gid, gid, gid)?;
    rustix::thread::set_keep_capabilities(true)?;
    setresuid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    let own = if root { allowed } else { CapabilitySet::empty() };
    let inheritable = if privileged && !root { CapabilitySet::empty() } else { allowed };
    set_capabilities(None, CapabilitySets { effective: own, permitted: own, inheritable })?;
    Ok(())
}

/// Gives up what no process of the container may ever have; the rest is what it may.
fn bound_capabilities(wanted: u64) -> io::Result<CapabilitySet> {
    let mut allowed = CapabilitySet::empty();
    for number in 0..u64::BITS {
        let Some(capability) = CapabilitySet::from_bits(1 << number) else { continue };
        // The kernel refuses numbers that it does not know.
        let Ok(true) = capability_is_in_bounding_set(capability) else { continue };
        if wanted & (1 << number) == 0 {
            remove_capability_from_bounding_set(capability)?;
        } else {
            allowed |= capability;
        }
    }
    Ok(allowed)
}
