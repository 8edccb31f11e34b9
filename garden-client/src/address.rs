//! Where a server listens, and getting a connection there.

use std::{
    fmt, io,
    net::SocketAddrV6,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use protocol::{Error, Result};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

use crate::retry::Backoff;

/// The address of a Garden server: `unix:/path`, `unix:///path`, `tcp:host:port` or `tcp://host:port`, an IPv6 address
/// in brackets. What has no scheme is a path if there is a slash in it, and else a host and a port.
///
/// ```
/// use garden_client::Address;
///
/// let unix: Address = "unix:/run/garden/garden.sock".parse()?;
/// assert_eq!("/run/garden/garden.sock".parse::<Address>()?, unix);
/// assert_eq!("127.0.0.1:7777".parse::<Address>()?, "tcp://127.0.0.1:7777".parse()?);
/// assert!("[::1]:7777".parse::<Address>().is_ok());
/// # Ok::<(), protocol::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path.strip_prefix("//").unwrap_or(path), text);
        }
        if let Some(host_port) = text.strip_prefix("tcp:") {
            return tcp(host_port.strip_prefix("//").unwrap_or(host_port), text);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(unusable(text, &format!("{scheme} is not one of unix and tcp")));
        }
        if text.contains('/') { unix(text, text) } else { tcp(text, text) }
    }
}

fn unix(path: &str, text: &str) -> Result<Address> {
    if path.is_empty() {
        return Err(unusable(text, "it names no path"));
    }
    if path.contains('\0') {
        return Err(unusable(text, "a path cannot contain NUL"));
    }
    // Two slashes at its beginning mean one, and shown behind `unix:` they would be the scheme's.
    Ok(Address::Unix(match path.strip_prefix("//") {
        Some(rest) => Path::new("/").join(rest.trim_start_matches('/')),
        None => PathBuf::from(path),
    }))
}

fn tcp(host_port: &str, text: &str) -> Result<Address> {
    let (host, port) = host_port.rsplit_once(':').ok_or_else(|| unusable(text, "it names no port"))?;
    let in_brackets = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let wrong = if host.is_empty() {
        "it names no host"
    } else if in_brackets && format!("{host}:1").parse::<SocketAddrV6>().is_err() {
        "what stands in brackets is no IPv6 address"
    } else if !in_brackets && host.contains(':') {
        "an IPv6 address must stand in brackets, as in tcp:[::1]:7777"
    } else if !in_brackets && !host.chars().all(plain) {
        "its host is neither a name nor an address"
    } else if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        "its port is not a number from 1 to 65535"
    } else {
        return Ok(Address::Tcp(host_port.to_owned()));
    };
    Err(unusable(text, wrong))
}

fn unusable(text: &str, why: &str) -> Error {
    let reason = format!("{text:?} is no address: {why}; use unix:/path/of/the.sock or tcp:host:port");
    Error::invalid("target", reason)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(host_port) => write!(f, "tcp:{host_port}"),
        }
    }
}

/// A connected socket of either kind.
pub(crate) type Socket = Box<dyn Io>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where to connect and for how long to wait: all that opening one more connection needs.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub address: Address,
    /// For one attempt.
    pub connect_timeout: Duration,
    /// For an ordinary request, or for a process to start.
    pub request_timeout: Option<Duration>,
    /// Between two bytes of a tar.
    pub stream_idle_timeout: Option<Duration>,
    /// How long attempts may begin; zero: there is one.
    pub retry_for: Duration,
}

impl Endpoint {
    pub async fn connect(&self) -> Result<Socket> {
        self.connect_with(&mut Backoff::new(self.retry_for)).await
    }

    /// Connects, with the attempts that `backoff` has left.
    pub async fn connect_with(&self, backoff: &mut Backoff) -> Result<Socket> {
        loop {
            let error = match timeout(self.connect_timeout, self.connect_once_there_is_room()).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(Error::TimedOut {
                        operation: "connect",
                        address: self.address.to_string(),
                        after: self.connect_timeout,
                        perhaps_done: false,
                    });
                }
            };
            if !may_be_restarting(&error) || !backoff.pause().await {
                return Err(self.refused(&error));
            }
        }
    }

    async fn connect_once_there_is_room(&self) -> io::Result<Socket> {
        match &self.address {
            Address::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    Ok(socket) => return Ok(Box::new(socket)),
                    // The listener's queue is full. The kernel wakes nobody when there is room again.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => return Err(error),
                }
            },
            Address::Tcp(host_port) => {
                let socket = TcpStream::connect(host_port).await?;
                socket.set_nodelay(true)?;
                Ok(Box::new(socket))
            }
        }
    }

    fn refused(&self, error: &io::Error) -> Error {
        let advice = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "is garden-server running, and is this its address?"
            }
            io::ErrorKind::PermissionDenied => {
                "run as root or as a member of the socket's group (the server's --socket-group and --socket-mode)"
            }
            _ => "check the address",
        };
        Error::CannotConnect { message: format!("cannot connect to {}: {error}; {advice}", self.address) }
    }
}

/// Whether a server may listen there soon: between two servers nobody listens, or there is no socket's file.
fn may_be_restarting(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address() {
        let unix = |path: &str| Ok(Address::Unix(path.into()));
        let tcp = |host_port: &str| Ok(Address::Tcp(host_port.into()));
        assert_eq!("unix:/a/b.sock".parse(), unix("/a/b.sock"));
        assert_eq!("unix:///a/b.sock".parse(), unix("/a/b.sock"));
        assert_eq!("unix:b.sock".parse(), unix("b.sock"));
        assert_eq!("./b.sock".parse(), unix("./b.sock"));
        assert_eq!("//a/b.sock".parse(), unix("/a/b.sock"));
        assert_eq!("tcp:127.0.0.1:7777".parse(), tcp("127.0.0.1:7777"));
        assert_eq!("tcp://127.0.0.1:7777".parse(), tcp("127.0.0.1:7777"));
        assert_eq!("tcp://[::1]:7777".parse(), tcp("[::1]:7777"));
        assert_eq!("tcp:[fe80::1%2]:7777".parse(), tcp("[fe80::1%2]:7777"));
        assert_eq!("localhost:1".parse(), tcp("localhost:1"));
    }

    #[test]
    fn what_is_no_address_is_refused_by_what_is_wrong_with_it() {
        for (text, wrong) in [
            ("", "it names no port"),
            ("unix:", "it names no path"),
            ("unix://", "it names no path"),
            ("unix:/a\0b", "a path cannot contain NUL"),
            ("tcp:", "it names no port"),
            ("host", "it names no port"),
            ("host:", "its port is not a number"),
            ("host:0", "its port is not a number"),
            ("host:99999", "its port is not a number"),
            ("tcp://host:80/path", "its port is not a number"),
            (":80", "it names no host"),
            ("a b:1", "its host is neither"),
            ("a\r\nX: y:1", "must stand in brackets"),
            ("tcp:::1:7777", "must stand in brackets"),
            ("tcp:[::g]:7777", "what stands in brackets"),
            ("tcp:[::1]", "must stand in brackets"),
            ("http://host:80", "http is not one of unix and tcp"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(matches!(&error, Error::Invalid { field: "target", .. }), "{text:?}: {error}");
            assert!(error.to_string().contains(wrong), "{text:?}: {error}");
        }
    }
}
