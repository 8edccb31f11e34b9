//! Starting a process: everything that is checked and worked out before it begins.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use protocol::{Error, Process, ProcessSpec, Result};

use crate::{
    container::Container,
    files::{Files, Tree},
    process::FakeProcess,
    programs::{Context, Programs, Sink},
    sync::lock,
    users::{self, User},
};

const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Starts what `spec` asks for as `process`, whose id is already decided.
pub(crate) async fn start(
    container: &Arc<Container>,
    spec: &ProcessSpec,
    process: Arc<FakeProcess>,
    accounts: &[User],
    programs: &Arc<Programs>,
) -> Result<Process> {
    if !spec.bind_mounts.is_empty() && spec.image.uri.is_empty() {
        return Err(Error::invalid("bind_mounts", "need an image of the process's own: give image.uri too"));
    }
    if spec.path.is_empty() {
        return Err(Error::invalid("path", "is empty: name the program to run"));
    }
    crate::spec::check_bind_mounts(&spec.bind_mounts)?;
    crate::spec::check_env(&spec.env)?;
    let user = users::find(accounts, &spec.user)?;
    let env = environment(&container.env, &spec.env, &user);
    let program = programs.find(&spec.path, env.get("PATH").map_or("", String::as_str))?;
    let has_image = !spec.image.uri.is_empty();
    let files = if has_image { Arc::new(Mutex::new(Tree::base(accounts))) } else { container.files.clone() };
    let home = if has_image { "/" } else { user.home.as_str() };
    let dir = working_dir(&files, spec, home, &user)?;
    container.add_process(process.clone())?;
    let context = Context {
        args: spec.args.clone(),
        env,
        dir,
        user,
        process: process.clone(),
        container: container.clone(),
        files,
        programs: programs.clone(),
        stdout: Sink::Stdout,
        stderr: Sink::Stderr,
        terminations_seen: 0,
        window_changes_seen: 0,
    };
    process.start(program, context).await;
    Ok(process.started())
}

/// The spec's directory, else `home`; made if it is missing.
fn working_dir(files: &Files, spec: &ProcessSpec, home: &str, user: &User) -> Result<String> {
    let dir = if spec.dir.is_empty() { home } else { &spec.dir };
    let mut files = lock(files);
    let made = files.resolve(&user.home, dir, true).and_then(|at| {
        files.make_dirs(&at, user, &User::root())?;
        files.enter(&at, user)?;
        Ok(if at.is_empty() { "/".into() } else { at })
    });
    made.map_err(|refusal| Error::Failed { message: format!("working directory {refusal}") })
}

fn environment(container: &[String], process: &[String], user: &User) -> BTreeMap<String, String> {
    let given = container.iter().chain(process).filter_map(|variable| variable.split_once('='));
    let mut env: BTreeMap<String, String> = given.map(|(name, value)| (name.into(), value.into())).collect();
    let path = if user.is_root() { ROOT_PATH } else { USER_PATH };
    for (name, value) in [("USER", user.name.as_str()), ("HOME", &user.home), ("PATH", path)] {
        env.entry(name.into()).or_insert_with(|| value.into());
    }
    env
}
