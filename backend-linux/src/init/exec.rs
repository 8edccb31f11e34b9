//! Executing a program in the container.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{Failure, FailureKind, RunRequest},
    sys::reset_signals,
};
use nix::{errno::Errno, unistd::execve};
use protocol::ResourceLimits;
use rustix::{
    process::{Pid, Resource, Rlimit, chdir, ioctl_tiocsctty, setrlimit, setsid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};

use crate::{
    enter::{self, Inside},
    start::Container,
};

const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Forks the process. `status` closes when it has been executed, or brings the reason why not.
pub fn start(
    container: &Container,
    request: &RunRequest,
    stdio: [OwnedFd; 3],
    status: OwnedFd,
) -> io::Result<(Pid, OwnedFd)> {
    enter::spawn(container, status, || execute(container, request, &stdio))
}

fn execute(container: &Container, request: &RunRequest, stdio: &[OwnedFd; 3]) -> Result<(), Failure> {
    // While this is still root of the host: limits may then be raised as far as the host allows.
    limit_resources(&request.rlimits)?;
    let inside = enter::enter(container, &request.user)?;
    let [stdin, stdout, stderr] = stdio;
    inside.own(&[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    let set_up = || -> io::Result<()> {
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)?;
        setsid()?;
        if request.terminal.is_some() {
            ioctl_tiocsctty(stdin)?;
        }
        Ok(())
    };
    set_up().map_err(|error| Failure::other(format!("set up the standard streams: {error}")))?;
    inside.close_others_at_exec()?;
    inside.become_root()?;
    let directory = working_directory(request, &inside);
    inside.make_directory(Path::new(&directory))?;
    inside.become_user()?;
    chdir(directory.as_str()).map_err(|error| {
        Failure::other(format!("working directory {directory:?}: {}", io::Error::from(error)))
    })?;
    reset_signals();
    let environment = environment(request, &inside);
    Err(execute_program(&request.path, &request.args, &environment))
}

fn working_directory(request: &RunRequest, inside: &Inside<'_>) -> String {
    match request.dir.as_str() {
        "" if inside.user.home.starts_with('/') => inside.user.home.clone(),
        "" => "/".to_owned(),
        dir if dir.starts_with('/') => dir.to_owned(),
        dir => format!("{}/{dir}", inside.user.home.trim_end_matches('/')),
    }
}

/// The request's variables, and what depends on the user where unset.
fn environment(request: &RunRequest, inside: &Inside<'_>) -> Vec<String> {
    let mut environment = request.env.clone();
    let path = if inside.user.uid == 0 { ROOT_PATH } else { USER_PATH };
    for (name, value) in [("USER", inside.user.name.as_str()), ("HOME", &inside.user.home), ("PATH", path)] {
        let prefix = format!("{name}=");
        if !environment.iter().any(|variable| variable.starts_with(&prefix)) {
            environment.push(prefix + value);
        }
    }
    environment
}

/// Replaces this process; comes back only if that cannot be done.
fn execute_program(program: &str, arguments: &[String], environment: &[String]) -> Failure {
    let strings =
        |strings: &mut dyn Iterator<Item = &str>| strings.map(CString::new).collect::<Result<Vec<_>, _>>();
    let arguments = strings(&mut std::iter::once(program).chain(arguments.iter().map(String::as_str)));
    let variables = strings(&mut environment.iter().map(String::as_str));
    let (Ok(arguments), Ok(variables)) = (arguments, variables) else {
        return Failure::other(format!("exec: {program:?}: a NUL byte in the arguments or the environment"));
    };
    let mut worst = Errno::ENOENT;
    for candidate in candidates(program, environment) {
        let Ok(path) = CString::new(candidate) else { continue };
        let Err(error) = execve(&path, &arguments, &variables);
        match error {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ELOOP => {}
            // Another directory may have one that can be executed.
            Errno::EACCES => worst = error,
            error => return Failure::other(format!("exec: {program:?}: {}", io::Error::from(error))),
        }
    }
    let mut message = format!("exec: {program:?}: executable file not found in $PATH");
    if program.contains('/') || worst == Errno::EACCES {
        message.push_str(&format!(": {}", io::Error::from(worst)));
    }
    Failure { kind: FailureKind::ExecutableNotFound, message }
}

/// The paths that a program's name may stand for.
fn candidates(program: &str, environment: &[String]) -> Vec<String> {
    if program.is_empty() || program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let directories = path.split(':').filter(|directory| directory.starts_with('/'));
    directories.map(|directory| format!("{}/{program}", directory.trim_end_matches('/'))).collect()
}

fn limit_resources(limits: &ResourceLimits) -> Result<(), Failure> {
    let all = [
        (Resource::As, limits.address_space),
        (Resource::Core, limits.core),
        (Resource::Cpu, limits.cpu),
        (Resource::Data, limits.data),
        (Resource::Fsize, limits.fsize),
        (Resource::Locks, limits.locks),
        (Resource::Memlock, limits.memlock),
        (Resource::Msgqueue, limits.msgqueue),
        (Resource::Nice, limits.nice),
        (Resource::Nofile, limits.nofile),
        (Resource::Nproc, limits.nproc),
        (Resource::Rss, limits.rss),
        (Resource::Rtprio, limits.rtprio),
        (Resource::Sigpending, limits.sigpending),
        (Resource::Stack, limits.stack),
    ];
    for (resource, limit) in all {
        let Some(limit) = limit else { continue };
        if let Err(error) = setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }) {
            return Err(Failure::other(format!("rlimit {resource:?} = {limit}: {}", io::Error::from(error))));
        }
    }
    Ok(())
}
