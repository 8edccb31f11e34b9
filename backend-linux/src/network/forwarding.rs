//! Lets the host forward packets, and remembers whether it did before.
//!
//! Forwarding belongs to the host, not to one server: the note that it was off is kept where every server of this
//! network namespace finds it, and the last one to be cleaned up acts on it. They take turns by a lock on the setting
//! itself. Calls read and write small files of `/proc` and `/run`: nothing that waits for long. IPv6 is [apart](ipv6).

mod ipv6;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_forward";
/// In the state directory, there only if it was us who turned forwarding on.
const TURNED_ON: &str = "ip_forward-was-off";

/// Where the servers of this network namespace keep their note.
pub fn state_directory() -> io::Result<PathBuf> {
    let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(format!("/run/garden/net-{namespace}").into())
}

fn lock() -> io::Result<File> {
    let file = File::open(SYSCTL)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Turns forwarding on, also of IPv6 if that is wanted. That it was off is noted first. The caller's firewall table
/// exists already, which is how another server sees that it is needed.
pub fn turn_on(state_dir: &Path, ipv6: bool) -> io::Result<()> {
    let _lock = lock()?;
    if fs::read_to_string(SYSCTL)?.trim() == "0" {
        fs::create_dir_all(state_dir)?;
        fs::write(state_dir.join(TURNED_ON), "")?;
        fs::write(SYSCTL, "1")?;
    }
    if ipv6 { ipv6::turn_on(state_dir) } else { Ok(()) }
}

/// Turns forwarding off if it was one of us who turned it on, unless somebody still needs it by `needed`, which is
/// asked while no other server can begin to.
pub fn restore<E>(state_dir: &Path, needed: impl FnOnce() -> Result<bool, E>) -> io::Result<Result<(), E>> {
    let _lock = lock()?;
    let note = state_dir.join(TURNED_ON);
    let turned_on = note.try_exists()?;
    if !turned_on && !ipv6::was_turned_on(state_dir)? {
        return Ok(Ok(()));
    }
    match needed() {
        Ok(false) => {}
        Ok(true) => return Ok(Ok(())),
        Err(error) => return Ok(Err(error)),
    }
    ipv6::restore(state_dir)?;
    if turned_on {
        fs::write(SYSCTL, "0")?;
        fs::remove_file(note)?;
    }
    // Others may keep things there.
    for directory in [Some(state_dir), state_dir.parent()].into_iter().flatten() {
        let _ = fs::remove_dir(directory);
    }
    Ok(Ok(()))
}
