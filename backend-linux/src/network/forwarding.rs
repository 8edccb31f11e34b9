//! Lets the host forward IPv4 packets, and remembers whether it did before.
//!
//! Calls read and write small files of `/proc` and of the server's own state: nothing that waits.

use std::{fs, io, path::Path};

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_forward";
/// In the state directory, there only if it was us who turned forwarding on.
const TURNED_ON: &str = "ip_forward-was-off";

/// Turns forwarding on. That it was off is noted first.
pub fn turn_on(state_dir: &Path) -> io::Result<()> {
    if fs::read_to_string(SYSCTL)?.trim() != "0" {
        return Ok(());
    }
    fs::create_dir_all(state_dir)?;
    fs::write(state_dir.join(TURNED_ON), "")?;
    fs::write(SYSCTL, "1")
}

/// Turns forwarding off if it was us who turned it on and nobody else needs it.
pub fn restore(state_dir: &Path, needed_by_others: bool) -> io::Result<()> {
    let note = state_dir.join(TURNED_ON);
    if !note.try_exists()? {
        return Ok(());
    }
    if !needed_by_others {
        fs::write(SYSCTL, "0")?;
    }
    fs::remove_file(note)
}
