//! What clients ask for: refused where it makes no sense or cannot be done, completed where it leaves something open.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
};

use protocol::{
    BindMount, BindMountMode, BindMountOrigin, ContainerSpec, DiskLimits, Error, NetOutRule, ProcessLimits,
    ProcessSpec, Result,
};

use crate::{
    container::{Container, Host},
    supervisor::{Bind, RunRequest, Terminal},
};

/// They all go to the container's init in one message, with a few others.
const MAX_BIND_MOUNTS: usize = 200;

/// A random name, of the shape that a UUID of version 4 has.
pub fn generated(what: &str) -> Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::Failed { message: format!("cannot make up a {what}: {error}") })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Refuses what this version cannot do, rather than leave it out in silence.
pub fn check_supported(host: &Host, spec: &ContainerSpec) -> Result<()> {
    spec.rootfs_uri()?;
    if spec.privileged && host.config.disable_privileged_containers {
        return Err(Error::invalid("privileged", "privileged containers are switched off on this server"));
    }
    let DiskLimits { inode_soft, inode_hard, byte_soft, byte_hard, scope: _ } = spec.limits.disk;
    if [inode_soft, inode_hard, byte_soft, byte_hard].iter().any(|limit| *limit != 0) {
        return Err(Error::invalid(
            "limits.disk_limits",
            "this version cannot enforce disk limits: leave them out",
        ));
    }
    host.network.check_supported(spec)?;
    let valid = |variable: &&String| !variable.contains('\0') && variable.find('=').is_some_and(|at| at > 0);
    if let Some(variable) = spec.env.iter().find(|variable| !valid(variable)) {
        return Err(Error::invalid("env", format!("{variable:?} is not NAME=value")));
    }
    NetOutRule::check_all(&[], &spec.net_out)?;
    check_binds(&spec.bind_mounts)
}

fn check_binds(binds: &[BindMount]) -> Result<()> {
    if binds.len() > MAX_BIND_MOUNTS {
        let reason = format!("are {}: at most {MAX_BIND_MOUNTS} are possible", binds.len());
        return Err(Error::invalid("bind_mounts", reason));
    }
    for bind in binds {
        if !bind.src_path.starts_with('/') || !bind.dst_path.starts_with('/') {
            let reason = format!("{:?} to {:?}: both paths must be absolute", bind.src_path, bind.dst_path);
            return Err(Error::invalid("bind_mounts", reason));
        }
    }
    Ok(())
}

/// Bind mounts in the supervisor's words.
pub fn binds(wanted: &[BindMount]) -> Vec<Bind> {
    let bind = |bind: &BindMount| Bind {
        source: bind.src_path.clone().into(),
        target: Path::new("/").join(&bind.dst_path),
        read_only: bind.mode == BindMountMode::ReadOnly,
        from_container: bind.origin == BindMountOrigin::Container,
    };
    wanted.iter().map(bind).collect()
}

/// What a process is to have that others share with the container.
pub struct Own {
    /// Its image, as a URI; empty: none.
    pub image: String,
    /// What is shown in its root filesystem.
    pub binds: Vec<Bind>,
    /// Its limits; none: the container's.
    pub limits: Option<ProcessLimits>,
}

/// The process that the supervisor is asked for, and what it has of its own.
pub fn run_request(container: &Container, mut spec: ProcessSpec) -> Result<(RunRequest, Own)> {
    if spec.image.uri.is_empty() && !spec.bind_mounts.is_empty() {
        return Err(Error::invalid("bind_mounts", "only a process with an image of its own has bind mounts"));
    }
    check_binds(&spec.bind_mounts)?;
    let image = std::mem::take(&mut spec.image.uri);
    let own = Own { image, binds: binds(&spec.bind_mounts), limits: spec.limits };
    if !own.image.is_empty() && spec.dir.is_empty() {
        spec.dir = "/".to_owned();
    }
    if spec.path.is_empty() {
        return Err(Error::invalid("path", "is empty: name the program to run"));
    }
    let record = container.record();
    let mut env: Vec<String> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for variable in record.env.iter().chain(&spec.env) {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Error::invalid("env", format!("{variable:?} is not NAME=value")));
        };
        // A later value wins, in the first one's place.
        match places.entry(name) {
            Entry::Occupied(place) => env[*place.get()].clone_from(variable),
            Entry::Vacant(place) => {
                place.insert(env.len());
                env.push(variable.clone());
            }
        }
    }
    let request = RunRequest {
        id: if spec.id.is_empty() { generated("process id")? } else { spec.id },
        path: spec.path,
        args: spec.args,
        env,
        dir: spec.dir,
        user: spec.user,
        rlimits: spec.rlimits,
        terminal: spec.tty.map(|tty| {
            let size = tty.size();
            Terminal { columns: size.columns, rows: size.rows }
        }),
    };
    Ok((request, own))
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_names_are_uuids_and_differ() {
        let name = super::generated("handle").unwrap();
        let groups: Vec<usize> = name.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{name}");
        assert!(name.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()), "{name}");
        assert_eq!(&name[14..15], "4", "{name}");
        assert_ne!(name, super::generated("handle").unwrap());
    }
}
