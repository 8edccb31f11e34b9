//! The process inside: pid 1 of the container.

use std::{
    error::Error,
    fs,
    io::{self, BufRead, Write},
    net::Ipv4Addr,
    process::Command,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, pivot_root, setgid, sethostname, setuid},
};

use crate::netlink::{Batch, Netlink};

const NONE: Option<&str> = None;

/// Enters namespaces, sets the root up, says `ready`, then runs `true` for each line of its input.
pub fn child([merged, lower, upper, work]: [&str; 4], address: Ipv4Addr) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let mut input = io::stdin().lock();
    let mut line = String::new();

    // A process that joins by itself is far quicker in than one that is put there.
    for group in std::env::var("FLOOR_CGROUPS")?.split(':').filter(|group| !group.is_empty()) {
        fs::write(group, "0")?;
    }
    // Not the user namespace yet: the pid namespace belongs to the host's, and /proc could not be mounted from another.
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    writeln!(out, "unshared")?;
    out.flush()?;
    // The parent makes the veth pair meanwhile.
    sethostname("floor")?;
    filesystem(merged, lower, upper, work)?;
    input.read_line(&mut line)?;
    network(address)?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    writeln!(out, "mapped?")?;
    out.flush()?;
    input.read_line(&mut line)?;
    setgid(0.into())?;
    setuid(0.into())?;
    writeln!(out, "ready")?;
    out.flush()?;

    for line in input.lines() {
        line?;
        let status = Command::new("/bin/true").env_clear().status()?;
        writeln!(out, "{}", status.code().unwrap_or(-1))?;
        out.flush()?;
    }
    Ok(())
}

fn network(address: Ipv4Addr) -> Result<(), Box<dyn Error>> {
    // The namespace is new: 1 is lo, and 2 the first link that came in.
    let index = 2;
    let mut batch = Batch::default();
    let gateway = Ipv4Addr::from(u32::from(address) - 1);
    batch.up(1).up(index).address(index, address).default_route(gateway);
    Netlink::route()?.send(batch)
}

fn filesystem(merged: &str, lower: &str, upper: &str, work: &str) -> Result<(), Box<dyn Error>> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let layers = format!("lowerdir={lower},upperdir={upper},workdir={work},volatile");
    mount(Some("overlay"), merged, Some("overlay"), MsFlags::MS_NODEV, Some(layers.as_str()))?;
    let at = |name: &str| format!("{merged}/{name}");
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), at("proc").as_str(), Some("proc"), quiet, NONE)?;
    mount(Some("sysfs"), at("sys").as_str(), Some("sysfs"), quiet | MsFlags::MS_RDONLY, NONE)?;
    mount(Some("tmpfs"), at("dev").as_str(), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755"))?;
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        let (from, to) = (format!("/dev/{device}"), at(&format!("dev/{device}")));
        fs::write(&to, "")?;
        mount(Some(from.as_str()), to.as_str(), NONE, MsFlags::MS_BIND, NONE)?;
    }
    for (name, kind, options) in [
        ("pts", "devpts", "newinstance,ptmxmode=666,mode=620"),
        ("shm", "tmpfs", "mode=1777"),
        ("mqueue", "mqueue", ""),
    ] {
        let to = at(&format!("dev/{name}"));
        fs::create_dir(&to)?;
        mount(Some(kind), to.as_str(), Some(kind), quiet & !MsFlags::MS_NODEV, Some(options))?;
    }
    chdir(merged)?;
    pivot_root(".", "old")?;
    umount2("/old", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}
