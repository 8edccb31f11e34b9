//! The floor under the lifecycle benchmark: a container's life in the fewest system calls that we know, with no
//! server, no protocol and no care for faults. What garden-server takes beyond it is our own doing.
//!
//! `bench-floor DIRECTORY` makes a root filesystem in DIRECTORY, then reads lines from its input: for each it lives one
//! life and prints `create run destroy` in microseconds. What a life is made of:
//!
//! - create: a record (write and rename), an upper directory, cgroups with a memory limit, a process in namespaces of
//!   its own (user, pid, mount, net, ipc, uts, cgroup), overlay, `/proc`, `/dev`, `/sys`, pivot_root, a veth pair with
//!   addresses and routes, one element in an nftables set;
//! - run: fork, exec and wait of `true` inside;
//! - destroy: SIGKILL, wait, the element, the cgroups, the record, the upper directory renamed away.
//!
//! It leaves out what a real container has and this one has not: seccomp, masked paths, streams, port mapping.

#![forbid(unsafe_code)]

mod child;
mod life;
mod netlink;

use std::{
    error::Error,
    fs,
    io::{self, BufRead, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["child", merged, lower, upper, work, address] => {
            child::child([merged, lower, upper, work], address.parse()?)
        }
        [directory] => serve(Path::new(directory)),
        _ => Err("usage: bench-floor DIRECTORY, then a line for each life on standard input".into()),
    }
}

fn serve(directory: &Path) -> Result<(), Box<dyn Error>> {
    root_filesystem(&directory.join("rootfs"))?;
    let mut floor = life::Floor::new(directory)?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        line?;
        let took = floor.life()?;
        writeln!(out, "{} {} {}", took.create.as_micros(), took.run.as_micros(), took.destroy.as_micros())?;
        out.flush()?;
    }
    Ok(())
}

/// busybox as `true`, and the places that are mounted on.
fn root_filesystem(root: &Path) -> io::Result<()> {
    for directory in ["bin", "proc", "sys", "dev", "old"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = root.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).or_else(|_| fs::copy("/usr/bin/busybox", &busybox))?;
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755))?;
    let link = root.join("bin/true");
    if !link.is_symlink() {
        symlink("busybox", link)?;
    }
    Ok(())
}
