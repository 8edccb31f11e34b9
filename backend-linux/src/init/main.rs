//! `garden-init`: the supervisor of one container.
//!
//! The server executes it once, with a connection as standard input and nothing else; each supervisor is a copy of that
//! process (see `template`), with a connection of its own. It stays outside of the container,
//! makes its namespaces and a trivial pid 1 in them, is the parent of every process that was asked for, drains their
//! output into rings, and keeps their exit statuses. From the container's start on it outlives the server: a new one
//! finds it by the socket that it was given then. It has one thread, so that it may fork and change namespaces.

#![forbid(unsafe_code)]

mod apparmor;
mod binds;
mod credentials;
mod enter;
mod exec;
mod files;
mod hierarchies;
mod init;
mod mounts;
mod name;
mod namespaces;
mod network;
mod output;
mod own_files;
mod own_root;
mod process;
mod serve;
mod start;
mod template;
mod users;
mod view;

use std::{io, process::ExitCode};

use backend_linux::sys::reset_signals;
use rustix::{
    fs::{Mode, OFlags, open},
    io::fcntl_dupfd_cloexec,
    process::{
        DumpableBehavior, Resource, Rlimit, chdir, getrlimit, set_dumpable_behavior, setrlimit, setsid, umask,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin},
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = rustix::io::write(stderr(), format!("garden-init: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let server = fcntl_dupfd_cloexec(stdin(), 3)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);

    reset_signals();
    // Signals for the server's session are not for its containers. It fails only for a group leader, which has a
    // session of its own already.
    let _ = setsid();
    // What is forked from here is for a moment a copy of this process inside the container: nobody there may look
    // into it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Each process takes several; what a process itself may have is set apart from this.
    let descriptors = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors })?;
    chdir("/")?;
    umask(Mode::empty());
    template::run(server)
}
