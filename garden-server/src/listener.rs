//! Where the server listens.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use crate::socket::Socket;

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BindError {
    /// Another server answers on the socket.
    #[error("another server is listening on {}: stop it, or choose another socket", path.display())]
    InUse { path: PathBuf },
    /// What is in the socket's place is no socket.
    #[error("{} exists and is not a socket: remove it, or choose another path", path.display())]
    NotASocket { path: PathBuf },
    /// The unix socket could not be made.
    #[error("cannot listen on {}: {what}: {source}", path.display())]
    Unix { path: PathBuf, what: &'static str, source: io::Error },
    /// The TCP port could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    /// An address that others than this host can reach.
    #[error(
        "refusing to listen on {address}: whoever reaches it is root on this host; use a loopback address, \
         or --insecure-tcp if something else keeps strangers out"
    )]
    NotLoopback { address: SocketAddr },
}

/// Who may use a unix socket.
#[derive(Debug, Clone, Copy)]
pub struct UnixSocketOptions {
    /// The file's mode; write permission is what lets a user connect.
    pub mode: u32,
    /// The file's group; none: the server's.
    pub group_id: Option<u32>,
}

impl Default for UnixSocketOptions {
    fn default() -> Self {
        UnixSocketOptions { mode: 0o660, group_id: None }
    }
}

/// A place where the server accepts connections. Dropping it closes it and removes a unix socket's file.
#[derive(Debug)]
pub struct Listener {
    pub(crate) acceptor: Acceptor,
    pub(crate) serves: Serves,
    _file: Option<SocketFile>,
}

#[derive(Debug)]
pub(crate) enum Acceptor {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// What is served on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// The Garden API.
    Api,
    /// Metrics and diagnostics only.
    Debug,
}

impl Listener {
    /// Listens on a unix socket. A socket file that nobody listens on any more is replaced.
    pub async fn unix(path: &Path, options: UnixSocketOptions) -> Result<Self, BindError> {
        let failed = |what| move |source| BindError::Unix { path: path.to_owned(), what, source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("create its directory"))?;
        }
        remove_stale(path).await?;
        let listener = UnixListener::bind(path).map_err(failed("bind"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at the new socket"))?;
        let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
        if options.group_id.is_some() {
            std::os::unix::fs::chown(path, None, options.group_id).map_err(failed("set its group"))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(options.mode))
            .map_err(failed("set its mode"))?;
        Ok(Listener { acceptor: Acceptor::Unix(listener), serves: Serves::Api, _file: Some(file) })
    }

    /// Listens on a TCP address of this host's loopback. Port 0: any free one.
    pub async fn tcp(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback { address });
        }
        Self::insecure_tcp(address).await
    }

    /// Listens on any TCP address. Whoever reaches it is root on this host.
    pub async fn insecure_tcp(address: SocketAddr) -> Result<Self, BindError> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| BindError::Tcp { address, source })?;
        Ok(Listener { acceptor: Acceptor::Tcp(listener), serves: Serves::Api, _file: None })
    }

    /// The same listener, serving `/metrics` and `/debug/vars` only: nothing on it changes anything.
    pub fn for_debugging(self) -> Self {
        Listener { serves: Serves::Debug, ..self }
    }

    /// The TCP address in use; none for a unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.acceptor {
            Acceptor::Unix(_) => None,
            Acceptor::Tcp(listener) => listener.local_addr().ok(),
        }
    }
}

impl Acceptor {
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        Ok(match self {
            Acceptor::Unix(listener) => Socket::Unix(listener.accept().await?.0),
            Acceptor::Tcp(listener) => Socket::Tcp(listener.accept().await?.0),
        })
    }
}

/// Makes room for a new socket: nothing there, or a socket that refuses connections.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |what| move |source| BindError::Unix { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("look at what is there")(source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match tokio::net::UnixStream::connect(path).await {
        // A full queue is a server too busy to answer, not one that is gone.
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::InUse { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("find out whether a server listens there")(source)),
    }
}

/// The file of a unix socket that is ours to remove.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only while it is still ours: another server may have taken the place since.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket's file");
        }
    }
}
