//! Ids, capabilities, and the filter of system calls.

use std::io;

use backend_linux::{
    supervisor::{Defence, Defences, Hardening},
    sys::install_filter,
};
use nix::{
    libc::sock_filter,
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::{
    io::Errno,
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, capability_is_in_bounding_set, remove_capability_from_bounding_set,
        set_capabilities, set_keep_capabilities, set_no_new_privs,
    },
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

/// What the processes of a container are confined by.
pub struct Confinement<'a> {
    pub privileged: bool,
    /// The filter of its system calls, unless it is privileged.
    pub filter: &'a [sock_filter],
    pub hardening: &'a Hardening,
    pub defences: &'a Defences,
}

/// Takes a user's groups, id and default capabilities, and the confinement of the container's processes, for good.
/// Everything that goes on in the container goes through here: its pid 1, processes, files in and out.
pub fn become_user(user: &User, confinement: &Confinement<'_>) -> io::Result<()> {
    let Confinement { privileged, filter, hardening, defences } = *confinement;
    if !privileged {
        if hardening.no_new_privileges {
            set_no_new_privs(true)?;
        }
        // While this process may: without no_new_privs it takes a capability that is about to go.
        if defences.have(Defence::Seccomp) {
            install_filter(filter)?;
        }
    }
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
    set_keep_capabilities(true)?;
    setresuid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    let own = if root { allowed } else { CapabilitySet::empty() };
    let cleared = if privileged { !root } else { hardening.clear_inheritable_capabilities };
    let inheritable = if cleared { CapabilitySet::empty() } else { allowed };
    set_capabilities(None, CapabilitySets { effective: own, permitted: own, inheritable })?;
    // Again: a change of ids makes of it what the host's fs.suid_dumpable says. Until it executes a program this is a
    // copy of the supervisor, and nobody inside may trace it or look at it in /proc.
    set_dumpable_behavior(match defences.have(Defence::NotDumpable) {
        true => DumpableBehavior::NotDumpable,
        false => DumpableBehavior::Dumpable,
    })?;
    Ok(())
}

/// Gives up what no process of the container may ever have; the rest is what it may.
fn bound_capabilities(wanted: u64) -> io::Result<CapabilitySet> {
    let mut allowed = CapabilitySet::empty();
    for number in 0..u64::BITS {
        let Some(capability) = CapabilitySet::from_bits(1 << number) else { continue };
        // The kernel refuses numbers that it does not know, which are the last ones.
        if wanted & (1 << number) == 0 {
            match remove_capability_from_bounding_set(capability) {
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        } else {
            match capability_is_in_bounding_set(capability) {
                Ok(true) => allowed |= capability,
                Ok(false) => {}
                Err(_) => break,
            }
        }
    }
    Ok(allowed)
}
