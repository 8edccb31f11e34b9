//! The only place that names the backends.

use std::sync::Arc;

use protocol::Backend;

use crate::options::{BackendName, Options};

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
        BackendName::Linux => linux(options, "asked for".to_owned()).await,
        BackendName::Fake => fake(options, "asked for".to_owned()),
        BackendName::Auto => match linux_impossible() {
            None => linux(options, "the host allows it".to_owned()).await,
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
        BackendName::Linux | BackendName::Auto => check_linux(options),
    }
}

/// Removes what a server with these options left on the host; the fake backend leaves nothing.
pub(crate) async fn cleanup(options: &Options) -> Result<(), String> {
    match options.backend {
        BackendName::Fake => Ok(()),
        BackendName::Auto if linux_impossible().is_some() => Ok(()),
        BackendName::Linux | BackendName::Auto => cleanup_linux(options).await,
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
    let backend = Arc::new(backend_fake::FakeBackend::with_options(fake_options));
    Ok(Chosen { backend, name: "fake", reason })
}

#[cfg(not(feature = "fake"))]
fn fake(_: &Options, reason: String) -> Result<Chosen, String> {
    Err(format!("{reason}, and this server was built without the fake backend"))
}

#[cfg(feature = "linux")]
mod with_linux {
    use backend_linux::{Config, LinuxBackend};

    use super::{Chosen, Options};

    pub(crate) fn config(options: &Options) -> Result<Config, String> {
        let mut config = Config::default();
        config.tag.clone_from(&options.tag);
        config.depot.clone_from(&options.depot);
        config.store.clone_from(&options.store);
        config.default_rootfs.clone_from(&options.default_rootfs);
        config.max_containers = options.max_containers;
        config.disable_privileged_containers = options.disable_privileged_containers;
        config.destroy_containers_on_startup = options.destroy_containers_on_startup;
        config.die_at_record_write = options.die_at_record_write;
        let network = &mut config.network;
        network.pool = options
            .network_pool
            .parse()
            .map_err(|error| format!("--network-pool {}: {error}", options.network_pool))?;
        network.external_ip = options.external_ip;
        network.port_pool_start = options.port_pool_start;
        network.port_pool_size = options.port_pool_size;
        network.mtu = options.mtu;
        network.allow_host_access = options.allow_host_access;
        Ok(config)
    }

    pub(crate) async fn linux(options: &Options, reason: String) -> Result<Chosen, String> {
        let backend = LinuxBackend::start(config(options)?).await.map_err(|error| error.to_string())?;
        Ok(Chosen { backend, name: "linux", reason })
    }

    pub(crate) fn check_linux(options: &Options) -> Result<(), String> {
        let lines = backend_linux::check(&config(options)?);
        for line in &lines {
            println!("{line}");
        }
        match lines.iter().filter(|line| !line.ok).count() {
            0 => Ok(()),
            failed => Err(format!("this host is not ready: {failed} of {} checks failed", lines.len())),
        }
    }

    pub(crate) async fn cleanup_linux(options: &Options) -> Result<(), String> {
        backend_linux::cleanup(&config(options)?).await.map_err(|error| error.to_string())
    }
}

#[cfg(feature = "linux")]
use with_linux::linux;
#[cfg(feature = "linux")]
pub(crate) use with_linux::{check, cleanup};

#[cfg(not(feature = "linux"))]
const NO_LINUX: &str = "this server was built without the Linux backend";

#[cfg(not(feature = "linux"))]
async fn linux(_: &Options, _: String) -> Result<Chosen, String> {
    Err(NO_LINUX.to_owned())
}

#[cfg(not(feature = "linux"))]
fn check_linux(_: &Options) -> Result<(), String> {
    Err(NO_LINUX.to_owned())
}

#[cfg(not(feature = "linux"))]
async fn cleanup_linux(_: &Options) -> Result<(), String> {
    Err(NO_LINUX.to_owned())
}
