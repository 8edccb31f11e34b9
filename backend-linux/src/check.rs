//! Before the first container: is this host fit, and what is missing?

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{OnceLock, atomic::AtomicU64},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    Config, apparmor, capabilities,
    cgroup::Cgroups,
    container::{self, Depot, Host, Pool, blocking},
    entitlement,
    ids::Ids,
    network::{self, Cni, Network, Networks},
    process::{OutputBudget, Template},
    rootfs::Store,
    telemetry,
};

/// What the operator is told of a host whose name servers, if it has any, are of use to itself only.
const NO_NAME_SERVER: &str = "no name server of this host's is within the containers' reach: --dns-server is needed, \
                              or they resolve no names";

/// Why the backend cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only root can make containers.
    #[error("the Linux backend needs root: run garden-server as root, or with --backend fake")]
    NotRoot,
    /// Root, but with too little of what root may.
    #[error("the Linux backend needs {}, which this server was started without", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// What root may is not known.
    #[error("cannot read the server's own capabilities")]
    OwnCapabilities(#[source] std::io::Error),
    /// The profile that was asked for cannot be had.
    #[error(transparent)]
    AppArmor(#[from] apparmor::Error),
    /// The supervisor's binary is nowhere.
    #[error("cannot find garden-init: it belongs beside {0:?} (build it with `cargo build`)")]
    NoInit(PathBuf),
    /// Something that all containers share.
    #[error(transparent)]
    Container(#[from] container::Error),
}

/// Opens everything that containers are made of, and says what this host lacks.
pub(crate) async fn open(mut config: Config) -> Result<Host, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let lacking = capabilities::lacking().map_err(Error::OwnCapabilities)?;
    if !lacking.needed.is_empty() {
        return Err(Error::Capabilities(lacking.needed));
    }
    for consequence in &lacking.consequences {
        tracing::warn!("{consequence}");
    }
    config.hardening.apparmor_profile = usable_profile(config.hardening.apparmor_profile)?;
    let ids = Ids::new(&config.ids).map_err(container::Error::from)?;
    let opening = config.clone();
    let cni = blocking(move || Cni::open(&opening.network)).await?.map_err(container::Error::from)?;
    let opening = config.clone();
    let opened = blocking(move || -> Result<_, Error> {
        let init =
            Template::load(&init_binary(&opening)?, &opening.defences).map_err(container::Error::from)?;
        let depot = Depot::open(&opening.depot, opening.die_at_record_write)?;
        let store = Store::open(&opening.store, &opening.default_rootfs).map_err(container::Error::from)?;
        let cgroups = Cgroups::detect(&opening.tag, &opening.device_rules, &depot.cgroups()?);
        let policy = |cgroups: Cgroups| cgroups.with_policy(opening.limit_policy.clone(), &opening.store);
        let cgroups = cgroups.and_then(policy).map_err(container::Error::from)?;
        depot.note_cgroups(cgroups.all_bases())?;
        Ok((init, depot, store, cgroups))
    });
    let (init, depot, store, cgroups) = opened.await??;
    if !cgroups.missing().is_empty() {
        let missing = cgroups.missing();
        tracing::warn!(?missing, "cgroup controllers that this server cannot have here: no such limits");
    }
    // Plug-ins may name some.
    if cni.name().is_none() && config.network.dns.is_lacking(config.network.pool_ipv6.is_some()) {
        tracing::warn!("{NO_NAME_SERVER}");
    }
    let network =
        Networks::start(&config.network, cni, &config.tag, &network_state()?, &config.defences).await;
    let network = network.map_err(container::Error::from)?;
    let open_files = raise_descriptor_limit();
    let (half_destroyed, trash) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let output_budget = OutputBudget::new(config.output_buffer_total_bytes);
    let prepared = Pool::new(if network.is_made_ahead() { config.prepared_containers } else { 0 });
    let per_share = config.cpu_entitlement_per_share_percent.unwrap_or_else(|| {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        entitlement::default_per_share(cpus, telemetry::memory_bytes())
    });
    Ok(Host {
        config,
        depot,
        store,
        cgroups,
        network,
        ids,
        init,
        prepared,
        output_budget,
        open_files,
        cpu_entitlement_per_share_percent: per_share,
        oom_kills: AtomicU64::new(0),
        dropped_bytes: AtomicU64::new(0),
        half_destroyed,
        trash,
    })
}

/// The AppArmor profile that was asked for, where the kernel has AppArmor.
fn usable_profile(profile: Option<String>) -> Result<Option<String>, Error> {
    let Some(profile) = profile else { return Ok(None) };
    match apparmor::find(&profile)? {
        apparmor::Found::Enforced => Ok(Some(profile)),
        apparmor::Found::InMode(mode) => {
            tracing::warn!(profile, mode, "the AppArmor profile is loaded, but not in enforce mode");
            Ok(Some(profile))
        }
        apparmor::Found::NoAppArmor => {
            tracing::warn!(profile, "this kernel has no AppArmor: containers run without the profile");
            Ok(None)
        }
    }
}

/// Lets this server have as many descriptors open as it may: each process of a container takes several. Gives the
/// limit that was there, which is for the processes themselves.
fn raise_descriptor_limit() -> Option<u64> {
    static BEFORE: OnceLock<Option<u64>> = OnceLock::new();
    *BEFORE.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
        limit.current
    })
}

fn network_state() -> Result<PathBuf, Error> {
    let system = |source| crate::network::Error::System { what: "find the network namespace", source };
    Ok(crate::network::state_directory().map_err(system).map_err(container::Error::from)?)
}

fn init_binary(config: &Config) -> Result<PathBuf, Error> {
    if let Some(path) = &config.init_binary {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().unwrap_or_default();
    // Tests run from a directory below the one where binaries are.
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("garden-init"));
    beside.into_iter().find(|path| path.is_file()).ok_or(Error::NoInit(own))
}

/// Whether this host can run containers: a line for each thing that matters, and whether it is there.
pub fn check(config: &Config) -> Vec<(bool, String)> {
    let mut lines = Vec::new();
    let root = rustix::process::geteuid().is_root();
    lines.push((root, "running as root".to_owned()));
    lines.push(match init_binary(config) {
        Ok(path) => (true, format!("supervisor {path:?}")),
        Err(error) => (false, error.to_string()),
    });
    let file_systems = std::fs::read("/proc/filesystems").unwrap_or_default();
    let has = |name: &[u8]| file_systems.split(|b| b.is_ascii_whitespace()).any(|word| word == name);
    lines.push((has(b"overlay"), "overlay file system".to_owned()));
    for namespace in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        lines.push((Path::new("/proc/self/ns").join(namespace).exists(), format!("{namespace} namespaces")));
    }
    if root {
        lines.push(match capabilities::lacking() {
            Ok(lacking) if !lacking.needed.is_empty() => {
                (false, Error::Capabilities(lacking.needed).to_string())
            }
            // What a container does without is no reason not to start.
            Ok(lacking) => (
                true,
                ["capabilities".to_owned()]
                    .into_iter()
                    .chain(lacking.consequences)
                    .collect::<Vec<_>>()
                    .join("; "),
            ),
            Err(error) => (false, protocol::Error::failed(&Error::OwnCapabilities(error)).to_string()),
        });
        if let Some(profile) = &config.hardening.apparmor_profile {
            lines.push(match apparmor::find(profile) {
                Ok(apparmor::Found::Enforced) => (true, format!("AppArmor profile {profile}")),
                Ok(apparmor::Found::InMode(mode)) => {
                    (true, format!("AppArmor profile {profile}, but in {mode} mode"))
                }
                Ok(apparmor::Found::NoAppArmor) => (true, "no AppArmor: no profile".to_owned()),
                Err(error) => (false, protocol::Error::failed(&error).to_string()),
            });
        }
        let policy = |cgroups: Cgroups| cgroups.with_policy(config.limit_policy.clone(), &config.store);
        lines.push(match Cgroups::detect(&config.tag, &config.device_rules, &[]).and_then(policy) {
            Ok(cgroups) => {
                let missing = cgroups.missing().to_vec();
                cgroups.forget();
                match missing.is_empty() {
                    true => (true, "cgroup controllers".to_owned()),
                    false => (false, format!("cgroup controllers missing: {missing:?}")),
                }
            }
            Err(error) => (false, protocol::Error::failed(&error).to_string()),
        });
    }
    if root {
        lines.push(network::check_firewall(config.network.firewall));
    }
    // Containers run without, but the operator should hear of it here as at the start.
    lines.push(match config.network.dns.is_lacking(config.network.pool_ipv6.is_some()) {
        true => (true, NO_NAME_SERVER.to_owned()),
        false => (true, "name servers".to_owned()),
    });
    match Cni::open(&config.network) {
        Ok(cni) => lines.extend(cni.name().map(|name| (true, format!("network {name:?} by CNI plug-ins")))),
        Err(error) => lines.push((false, protocol::Error::failed(&error).to_string())),
    }
    let depot = config.depot.as_os_str().as_bytes().starts_with(b"/");
    lines.push((depot, format!("depot {:?} is an absolute path", config.depot)));
    lines
}

/// Removes everything that servers with this tag and these directories ever made on this host: containers first, then
/// what they shared. Fails while such a server runs.
pub async fn cleanup(config: &Config) -> Result<(), Error> {
    let mut config = config.clone();
    config.destroy_containers_on_startup = true;
    config.die_at_record_write = None;
    let tag = config.tag.clone();
    let host = std::sync::Arc::new(open(config).await?);
    container::recover(&host, true).await?;
    let cleaner = std::sync::Arc::clone(&host);
    let emptied = blocking(move || -> Result<(), container::Error> {
        cleaner.cgroups.cleanup(std::time::Duration::from_secs(5))?;
        Ok(cleaner.store.empty_trash()?)
    });
    emptied.await??;
    drop(host);
    Network::cleanup(&tag, &network_state()?).await.map_err(container::Error::from)?;
    Ok(())
}
