//! The only place that names the backends.

use std::sync::Arc;

use protocol::Backend;

use crate::{
    linux,
    options::{BackendName, Options},
};

/// The backend that serves.
pub(crate) struct Chosen {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) name: &'static str,
    /// Why this one, for the operator.
    pub(crate) reason: String,
}

/// Picks a backend and starts it.
pub(crate) async fn start(options: &Options) -> Result<Chosen, String> {
    match options.backend {
        BackendName::Linux => linux::start(options, "asked for".to_owned()).await,
        BackendName::Fake => fake(options, "asked for".to_owned()),
        BackendName::Auto => match linux_impossible() {
            None => linux::start(options, "the host allows it".to_owned()).await,
            Some(reason) => {
                tracing::warn!("no containers are made: {reason}; the fake backend acts as if");
                fake(options, reason)
            }
        },
    }
}

/// Says whether this host is ready, line by line.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    match options.backend {
        BackendName::Fake => {
            println!("fake backend: needs nothing");
            Ok(())
        }
        BackendName::Linux | BackendName::Auto => linux::check(options),
    }
}

/// Removes what a server with these options left on the host; the fake backend leaves nothing.
pub(crate) async fn cleanup(options: &Options) -> Result<(), String> {
    match options.backend {
        BackendName::Fake => Ok(()),
        BackendName::Auto if linux_impossible().is_some() => Ok(()),
        BackendName::Linux | BackendName::Auto => linux::cleanup(options).await,
    }
}

/// Why the Linux backend cannot work here, as far as one sees without trying.
fn linux_impossible() -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    if !cfg!(feature = "linux") {
        return Some("this server was built without the Linux backend".to_owned());
    }
    if !cfg!(target_os = "linux") {
        return Some("this is not Linux".to_owned());
    }
    // The owner of a process's own directory is its effective user.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    (!is_root).then(|| "the Linux backend needs root".to_owned())
}

#[cfg(feature = "fake")]
fn fake(options: &Options, reason: String) -> Result<Chosen, String> {
    let mut fake_options = backend_fake::FakeOptions::default();
    if options.max_containers > 0 {
        fake_options.max_containers = options.max_containers;
    }
    fake_options.port_pool_start = options.port_pool_start;
    fake_options.port_pool_size = options.port_pool_size;
    raise_descriptor_limit();
    let backend = Arc::new(backend_fake::FakeBackend::with_options(fake_options));
    Ok(Chosen { backend, name: "fake", reason })
}

/// Lets this server have as many descriptors open as it may: each stream takes two. The Linux backend does the same for
/// itself, and keeps the limit that was there for its containers.
#[cfg(feature = "fake")]
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(not(feature = "fake"))]
fn fake(_: &Options, reason: String) -> Result<Chosen, String> {
    Err(format!("{reason}, and this server was built without the fake backend"))
}
