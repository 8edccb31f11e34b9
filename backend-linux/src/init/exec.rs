//! Executing a program in the container.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use backend_linux::{
    supervisor::{ApartRequest, Defence, Failure, FailureKind, RunRequest},
    sys::{close_from_at_exec, reset_signals_of_child},
};
use nix::{errno::Errno, unistd::execve};
use protocol::ResourceLimits;
use rustix::{
    process::{Pid, Resource, Rlimit, chdir, getrlimit, ioctl_tiocsctty, setrlimit, setsid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{CapabilitySet, capabilities},
};

use crate::{
    enter::{self, Account, Inside, STARTING},
    start::{Cgroup, Container},
};

const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Forks the process. `status` closes when it has been executed, or brings the reason why not.
pub fn start(
    container: &Container,
    request: &ApartRequest,
    stdio: [OwnedFd; 3],
    status: OwnedFd,
) -> io::Result<(Pid, OwnedFd)> {
    let own_cgroup = request.cgroup.as_ref().map(Cgroup::open).transpose();
    let own_cgroup = own_cgroup.map_err(|failure| io::Error::other(failure.message))?;
    let cgroup = own_cgroup.as_ref().unwrap_or(&container.main_cgroup);
    let userns = container.user_namespace().filter(|_| request.root.is_some());
    let keep: Vec<_> = stdio.iter().map(AsFd::as_fd).chain(userns).collect();
    enter::spawn(container, Account::Of(cgroup), status, &keep, |status| {
        execute(container, cgroup, request, &stdio, status)
    })
}

fn execute(
    container: &Container,
    cgroup: &Cgroup,
    request: &ApartRequest,
    stdio: &[OwnedFd; 3],
    status: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let (own_root, request) = (request.root.as_ref(), &request.process);
    let mut limits = limits(container, &request.rlimits);
    raise_limits(&mut limits)?;
    enter::change_profile_at_exec(container)?;
    let inside = enter::enter_root(container, cgroup, own_root, &request.user)?;
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
    if container.defences.have(Defence::ClosedDescriptors) {
        close_from_at_exec(3).map_err(|error| Failure::other(format!("close descriptors: {error}")))?;
    }
    inside.become_root()?;
    let directory = working_directory(request, &inside);
    inside.make_directory(Path::new(&directory))?;
    inside.become_user()?;
    chdir(directory.as_str()).map_err(|error| {
        Failure::other(format!("working directory {directory:?}: {}", io::Error::from(error)))
    })?;
    reset_signals_of_child();
    let environment = environment(request, &inside);
    apply_limits(&limits)?;
    // If nobody is there to read it, nobody waits for it either.
    let _ = rustix::io::write(status, &[STARTING]);
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

/// A limit that a spec can set.
struct Limit {
    resource: Resource,
    value: u64,
}

/// The limits of a process: the spec's, and for open files what the server was started with.
fn limits(container: &Container, limits: &ResourceLimits) -> Vec<Limit> {
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
    let mut set: Vec<Limit> =
        all.into_iter().filter_map(|(resource, value)| Some(Limit { resource, value: value? })).collect();
    if let (None, Some(value)) = (limits.nofile, container.open_files) {
        // The soft limit alone: the hard one is as it was.
        let hard = getrlimit(Resource::Nofile).maximum;
        let soft = Rlimit { current: Some(value.min(hard.unwrap_or(u64::MAX))), maximum: hard };
        // It can only fail by being higher than the hard one.
        let _ = setrlimit(Resource::Nofile, soft);
    }
    set.retain(|limit| getrlimit(limit.resource) != both(limit.value));
    set
}

fn both(value: u64) -> Rlimit {
    Rlimit { current: Some(value), maximum: Some(value) }
}

fn set_limit(limit: &Limit, rlimit: Rlimit) -> Result<(), Failure> {
    setrlimit(limit.resource, rlimit).map_err(|error| {
        let (resource, value) = (limit.resource, limit.value);
        Failure::other(format!("rlimit {resource:?} = {value}: {}", io::Error::from(error)))
    })
}

/// Raises the hard limits that are below what is wanted, which only root of the host may. Where not even root may,
/// since the host lacks CAP_SYS_RESOURCE, the process gets the most that there is: the server has said so at its start.
fn raise_limits(limits: &mut [Limit]) -> Result<(), Failure> {
    let may_raise = capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE));
    for limit in limits {
        let now = getrlimit(limit.resource);
        match now.maximum {
            Some(hard) if hard < limit.value && (may_raise || !is_possible(limit)) => {
                set_limit(limit, Rlimit { current: now.current, maximum: Some(limit.value) })?;
            }
            Some(hard) if hard < limit.value => limit.value = hard,
            _ => {}
        }
    }
    Ok(())
}

/// Whether the kernel would give such a limit to anybody.
fn is_possible(limit: &Limit) -> bool {
    let nr_open = || fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse::<u64>().ok();
    limit.resource != Resource::Nofile || nr_open().is_none_or(|most| limit.value <= most)
}

/// Sets the limits as they are wanted. Last of all: they are the program's, not those of its way into the container.
fn apply_limits(limits: &[Limit]) -> Result<(), Failure> {
    limits.iter().try_for_each(|limit| set_limit(limit, both(limit.value)))
}
