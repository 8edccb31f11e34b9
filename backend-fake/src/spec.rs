//! What a spec may not say.

use protocol::{BindMount, Error, Result};

/// Refuses what is no `NAME=value`.
pub(crate) fn check_env(env: &[String]) -> Result<()> {
    let valid = |variable: &&String| !variable.contains('\0') && variable.find('=').is_some_and(|at| at > 0);
    match env.iter().find(|variable| !valid(variable)) {
        Some(variable) => Err(Error::invalid("env", format!("{variable:?} is not NAME=value"))),
        None => Ok(()),
    }
}

/// What they show is nothing here; what is wrong with them is told all the same.
pub(crate) fn check_bind_mounts(binds: &[BindMount]) -> Result<()> {
    let relative = |bind: &&BindMount| !bind.src_path.starts_with('/') || !bind.dst_path.starts_with('/');
    match binds.iter().find(relative) {
        Some(BindMount { src_path, dst_path, .. }) => {
            let reason = format!("{src_path:?} to {dst_path:?}: both paths must be absolute");
            Err(Error::invalid("bind_mounts", reason))
        }
        None => Ok(()),
    }
}
