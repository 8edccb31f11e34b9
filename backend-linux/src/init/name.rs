//! The supervisor's entry in the list of processes.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
};

use backend_linux::supervisor::NAME_BYTES;

/// The argument that the server left room in for a container's name: the supervisor is there before anybody knows whose
/// it will be.
pub struct NameRoom {
    address: u64,
}

impl NameRoom {
    /// Finds it in this process. It is at the same place in every copy.
    pub fn find() -> io::Result<NameRoom> {
        let missing = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/{what}"));
        let arguments = fs::read("/proc/self/cmdline")?;
        let mut arguments = arguments.split_inclusive(|byte| *byte == 0);
        let (Some(program), Some(room)) = (arguments.next(), arguments.next()) else {
            return Err(missing("cmdline has no second argument"));
        };
        if room.len() != NAME_BYTES + 1 {
            return Err(missing("cmdline has no room for a name"));
        }
        let stat = fs::read_to_string("/proc/self/stat")?;
        // Behind the last parenthesis, since a process's own name may have some; arg_start is field 48, see proc(5).
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let start: u64 = fields
            .split_ascii_whitespace()
            .nth(48 - 3)
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| missing("stat has no arg_start"))?;
        Ok(NameRoom { address: start + program.len() as u64 })
    }

    /// Writes the container's name there.
    pub fn write(&self, name: &str) -> io::Result<()> {
        if name.len() > NAME_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the container's name is too long"));
        }
        let mut argument = name.as_bytes().to_vec();
        argument.resize(NAME_BYTES, 0);
        OpenOptions::new().write(true).open("/proc/self/mem")?.write_all_at(&argument, self.address)
    }
}
