//! The supervisor's entry in the list of processes.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
};

use backend_linux::supervisor::NAME_BYTES;

/// Writes the container's name into the argument that the server left room in. The supervisor was started before
/// anybody knew whose it would be.
pub fn name_process(name: &str) -> io::Result<()> {
    let missing = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/{what}"));
    let arguments = fs::read("/proc/self/cmdline")?;
    let mut arguments = arguments.split_inclusive(|byte| *byte == 0);
    let (Some(program), Some(room)) = (arguments.next(), arguments.next()) else {
        return Err(missing("cmdline has no second argument"));
    };
    if room.len() != NAME_BYTES + 1 || name.len() > NAME_BYTES {
        return Err(missing("cmdline has no room for the name"));
    }
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the last parenthesis, since a process's own name may have some; arg_start is field 48, see proc(5).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let start: u64 = fields
        .split_ascii_whitespace()
        .nth(48 - 3)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| missing("stat has no arg_start"))?;
    let mut argument = name.as_bytes().to_vec();
    argument.resize(NAME_BYTES, 0);
    OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")?
        .write_all_at(&argument, start + program.len() as u64)
}
