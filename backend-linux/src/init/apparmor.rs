//! The AppArmor profile that processes of unprivileged containers are under.
//!
//! A process says by files of its own in /proc what it wants to be under. They are the host's: opened before the
//! process sees the container's files, where an image could have put anything in their place. The kernel takes it from
//! nobody but who opened them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
};

/// What the calling process executes from now on is under the profile; the process itself is not yet.
pub fn change_at_exec(profile: &str) -> io::Result<()> {
    open("exec")?.write_all(format!("exec {profile}").as_bytes())
}

/// A change of the calling process's own profile that has not been made yet.
pub struct Change {
    file: File,
    command: String,
}

impl Change {
    /// Prepares it, while the host's /proc can be seen.
    pub fn prepare(profile: &str) -> io::Result<Change> {
        Ok(Change { file: open("current")?, command: format!("changeprofile {profile}") })
    }

    /// Makes it, for good.
    pub fn make(mut self) -> io::Result<()> {
        self.file.write_all(self.command.as_bytes())
    }
}

fn open(name: &str) -> io::Result<File> {
    OpenOptions::new().write(true).open(format!("/proc/thread-self/attr/apparmor/{name}"))
}
