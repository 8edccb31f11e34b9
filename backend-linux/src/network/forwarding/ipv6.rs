//! The same of IPv6, where more hangs on the one switch: it is that of every interface, and an interface that forwards
//! no longer heeds its routers, from which the host may have its own default route, unless it is told to all the same.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::network::lease::is_container_link;

const CONF: &str = "/proc/sys/net/ipv6/conf";
/// In the state directory, there only if it was us who turned forwarding on.
const NOTE: &str = "ipv6-forwarding-was-off.json";
/// `accept_ra`: of an interface that forwards, too.
const ALWAYS: &str = "2";

/// What is to be as it was again.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Before {
    /// Interfaces that forwarded already.
    forwarding: BTreeSet<String>,
    /// Interfaces that heeded routers as long as they did not forward.
    accept_ra: BTreeSet<String>,
}

/// Turns forwarding on. The caller has the lock.
pub fn turn_on(state_dir: &Path) -> io::Result<()> {
    if read("all", "forwarding")? != "0" {
        return Ok(());
    }
    // There is a note already if somebody was killed here, or if forwarding was turned off behind our backs.
    let mut before = note(state_dir)?.unwrap_or_default();
    for entry in fs::read_dir(CONF)? {
        let Ok(link) = entry?.file_name().into_string() else { continue };
        if link == "all" || is_container_link(&link) {
            continue;
        }
        let read = |name| if_there(read(&link, name));
        if read("forwarding")?.is_some_and(|value| value != "0") {
            before.forwarding.insert(link);
        } else if !["default", "lo"].contains(&link.as_str()) && read("accept_ra")?.as_deref() == Some("1") {
            before.accept_ra.insert(link);
        }
    }
    fs::create_dir_all(state_dir)?;
    let new = state_dir.join(format!("{NOTE}.new"));
    fs::write(&new, serde_json::to_vec(&before)?)?;
    fs::rename(new, state_dir.join(NOTE))?;
    for link in &before.accept_ra {
        change(link, "accept_ra", "1", ALWAYS)?;
    }
    fs::write(path("all", "forwarding"), "1")
}

/// Whether it was us who turned forwarding on.
pub fn was_turned_on(state_dir: &Path) -> io::Result<bool> {
    state_dir.join(NOTE).try_exists()
}

/// Makes all of it as it was, if it was us who turned forwarding on. The caller has the lock.
pub fn restore(state_dir: &Path) -> io::Result<()> {
    let Some(before) = note(state_dir)? else { return Ok(()) };
    fs::write(path("all", "forwarding"), "0")?;
    for link in &before.forwarding {
        change(link, "forwarding", "0", "1")?;
    }
    for link in &before.accept_ra {
        change(link, "accept_ra", ALWAYS, "1")?;
    }
    fs::remove_file(state_dir.join(NOTE))
}

/// A note that cannot be read says no more than that there was one.
fn note(state_dir: &Path) -> io::Result<Option<Before>> {
    let json = if_there(fs::read(state_dir.join(NOTE)))?;
    Ok(json.map(|json| serde_json::from_slice(&json).unwrap_or_default()))
}

/// Interfaces come and go.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn path(link: &str, name: &str) -> PathBuf {
    Path::new(CONF).join(link).join(name)
}

fn read(link: &str, name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(link, name))?.trim().to_owned())
}

/// Unless somebody else has changed it.
fn change(link: &str, name: &str, from: &str, to: &str) -> io::Result<()> {
    match if_there(read(link, name))? {
        Some(value) if value == from => if_there(fs::write(path(link, name), to)).map(|_| ()),
        _ => Ok(()),
    }
}
