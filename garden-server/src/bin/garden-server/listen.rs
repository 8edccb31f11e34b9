//! The listeners that the options ask for.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use garden_server::{BindError, Listener, UnixSocketOptions};

use crate::options::Options;

const SYSTEM_SOCKET: &str = "/run/garden/garden.sock";

/// Refuses, before anything is begun, what [`listeners`] would refuse.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    group_id(options)?;
    let addresses = options.bind_ip.map(|ip| SocketAddr::new(ip, options.bind_port));
    let is_refused = |address: &SocketAddr| !options.insecure_tcp && !address.ip().is_loopback();
    match addresses.filter(is_refused) {
        Some(address) => Err(BindError::NotLoopback { address }.to_string()),
        None => Ok(()),
    }
}

/// Opens them all, and says where.
pub(crate) async fn listeners(options: &Options) -> Result<Vec<Listener>, String> {
    let unix_options = UnixSocketOptions { mode: options.socket_mode, group_id: group_id(options)? };
    let (path, listener) = unix(options, unix_options).await?;
    tracing::info!(socket = %path.display(), "listening");
    let mut listeners = vec![listener];
    if let Some(ip) = options.bind_ip {
        let address = SocketAddr::new(ip, options.bind_port);
        let listener = match options.insecure_tcp {
            true => Listener::insecure_tcp(address).await,
            false => Listener::tcp(address).await,
        };
        listeners.push(announced(listener, "listening")?);
    }
    if let Some(ip) = options.debug_bind_ip {
        // Nothing on it changes anything, so any address will do.
        let listener = Listener::insecure_tcp(SocketAddr::new(ip, options.debug_bind_port)).await;
        listeners.push(announced(listener, "listening for /metrics and /debug/vars")?.for_debugging());
    }
    Ok(listeners)
}

fn announced(listener: Result<Listener, BindError>, what: &str) -> Result<Listener, String> {
    let listener = listener.map_err(|error| error.to_string())?;
    let address = listener.tcp_address().map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(address, "{what}");
    Ok(listener)
}

/// The socket asked for; else the system's; where the user may not make that, one of the user's own.
async fn unix(options: &Options, unix_options: UnixSocketOptions) -> Result<(PathBuf, Listener), String> {
    if let Some(path) = &options.bind_socket {
        return open(path, unix_options).await.map_err(|error| error.to_string());
    }
    match open(Path::new(SYSTEM_SOCKET), unix_options).await {
        Err(BindError::Unix { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            let folder = std::env::var_os("XDG_RUNTIME_DIR").ok_or_else(|| {
                format!(
                    "{SYSTEM_SOCKET} is not for this user, and XDG_RUNTIME_DIR is not set: use --bind-socket"
                )
            })?;
            let path = Path::new(&folder).join("garden.sock");
            open(&path, unix_options).await.map_err(|error| error.to_string())
        }
        opened => opened.map_err(|error| error.to_string()),
    }
}

async fn open(path: &Path, unix_options: UnixSocketOptions) -> Result<(PathBuf, Listener), BindError> {
    Ok((path.to_owned(), Listener::unix(path, unix_options).await?))
}

fn group_id(options: &Options) -> Result<Option<u32>, String> {
    let Some(group) = &options.socket_group else { return Ok(None) };
    if let Ok(id) = group.parse() {
        return Ok(Some(id));
    }
    let groups = std::fs::read_to_string("/etc/group").map_err(|e| format!("cannot read /etc/group: {e}"))?;
    let id = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    id.map(Some).ok_or_else(|| format!("--socket-group: /etc/group has no group {group:?}"))
}
