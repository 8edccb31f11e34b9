//! What a program in a container tries in order to get out: one attack each, for the tests named `breakout`.
//!
//! Says on standard output what it got, or which error refused it; ends with a status other than 0 only if it could not
//! try at all. Started without arguments of its own, as a supervisor, it is a hostile one.

#![forbid(unsafe_code)]

mod network;
mod supervisor;

use std::{error::Error, fs::File};

use nix::{
    sched::{CloneFlags, setns},
    sys::{ptrace, wait::waitpid},
    unistd::Pid,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["garden-init", ..] => supervisor::serve(),
        [_, "ptrace", pid] => trace(Pid::from_raw(pid.parse()?)),
        [_, "setns", namespace, path] => enter(namespace, path),
        [_, "spoof", source, target] => network::spoof(source.parse()?, target.parse()?),
        [_, "connect", name] => network::connect(name),
        _ => {
            Err("usage: attack ptrace PID | setns FILE PATH | spoof ADDRESS ADDRESS:PORT | connect NAME"
                .into())
        }
    }
}

/// Takes control of a process, and lets it go again.
fn trace(pid: Pid) -> Result<(), Box<dyn Error>> {
    match ptrace::attach(pid) {
        Ok(()) => {
            waitpid(pid, None)?;
            ptrace::detach(pid, None)?;
            println!("traced");
        }
        Err(error) => println!("{error}"),
    }
    Ok(())
}

/// Goes into a mount namespace, and looks at a file there.
fn enter(namespace: &str, path: &str) -> Result<(), Box<dyn Error>> {
    let entered = File::open(namespace)
        .map_err(|error| error.to_string())
        .and_then(|file| setns(file, CloneFlags::CLONE_NEWNS).map_err(|error| error.to_string()));
    match entered {
        Ok(()) => println!("entered: {}", std::fs::read_to_string(path)?),
        Err(error) => println!("{error}"),
    }
    Ok(())
}
