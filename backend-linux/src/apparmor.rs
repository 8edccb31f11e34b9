//! Whether the kernel has AppArmor, and the profile that was asked for.

use std::{
    fs,
    io::{self, Read},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// Why processes cannot be put under the profile that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has AppArmor, but not this profile.
    #[error(
        "no AppArmor profile {0:?} is loaded: load it with `apparmor_parser --replace FILE`, where FILE defines it \
         (for garden-container: backend-linux/apparmor/garden-container of the sources), or leave --apparmor out"
    )]
    NotLoaded(String),
    /// What is loaded is not known.
    #[error("cannot read which AppArmor profiles are loaded")]
    Unreadable(#[source] io::Error),
}

/// What of the profile that was asked for can be had on this kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All of it.
    Enforced,
    /// It is loaded, in a mode in which it refuses nothing or everything: that mode.
    InMode(String),
    /// Nothing: the kernel has no AppArmor.
    NoAppArmor,
}

/// Looks for a profile in the kernel.
pub(crate) fn find(profile: &str) -> Result<Found, Error> {
    let enabled = fs::read("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if !enabled.starts_with(b"Y") {
        return Ok(Found::NoAppArmor);
    }
    let loaded = read_loaded().map_err(Error::Unreadable)?;
    match mode_of(profile, &loaded) {
        Some("enforce") => Ok(Found::Enforced),
        Some(mode) => Ok(Found::InMode(mode.to_owned())),
        None => Err(Error::NotLoaded(profile.to_owned())),
    }
}

/// The kernel's list, from a mount that nobody else sees: the host need not have one.
fn read_loaded() -> io::Result<String> {
    let file_system = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&file_system)?;
    let mount = fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let list = openat(&mount, "apparmor/profiles", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut loaded = String::new();
    fs::File::from(list).read_to_string(&mut loaded)?;
    Ok(loaded)
}

/// The mode of a profile in the kernel's list, whose lines are `NAME (MODE)`.
fn mode_of<'a>(profile: &str, loaded: &'a str) -> Option<&'a str> {
    loaded.lines().find_map(|line| {
        let (name, mode) = line.strip_suffix(')')?.rsplit_once(" (")?;
        (name == profile).then_some(mode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let loaded = "/usr/sbin/a (b) (complain)\ngarden-container (enforce)\ngarden (unconfined)\n";
        assert_eq!(mode_of("garden-container", loaded), Some("enforce"));
        assert_eq!(mode_of("garden", loaded), Some("unconfined"));
        assert_eq!(mode_of("/usr/sbin/a (b)", loaded), Some("complain"));
        assert_eq!(mode_of("container", loaded), None);
    }
}
