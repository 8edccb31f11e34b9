//! Where a server listens, and getting a connection there.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use protocol::{Error, Result};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout_at},
};

/// The address of a Garden server.
///
/// ```
/// use garden_client::Address;
///
/// let unix: Address = "unix:/run/garden/garden.sock".parse()?;
/// assert_eq!("/run/garden/garden.sock".parse::<Address>()?, unix);
/// assert_eq!("127.0.0.1:7777".parse::<Address>()?, "tcp:127.0.0.1:7777".parse()?);
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
        if text.contains('/') { unix(text, text) } else { tcp(text, text) }
    }
}

fn unix(path: &str, text: &str) -> Result<Address> {
    if path.is_empty() || path.contains('\0') {
        return Err(unusable(text));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn tcp(host_port: &str, text: &str) -> Result<Address> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%');
    match host_port.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok() => {
            Ok(Address::Tcp(host_port.to_owned()))
        }
        _ => Err(unusable(text)),
    }
}

fn unusable(text: &str) -> Error {
    Error::invalid("target", format!("{text:?} is no address: use unix:/path/of/the.sock or tcp:host:port"))
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

/// Where to connect and how long that may take: all that opening one more connection needs.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub address: Address,
    pub connect_timeout: Duration,
}

impl Endpoint {
    pub async fn connect(&self) -> Result<Socket> {
        let deadline = Instant::now() + self.connect_timeout;
        match timeout_at(deadline, self.connect_once_there_is_room()).await {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => Err(self.refused(&error)),
            Err(_) => Err(Error::Connection {
                message: format!(
                    "cannot connect to {}: no answer within {:?}; is this the server's address, and is the server alive?",
                    self.address, self.connect_timeout
                ),
            }),
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
        Error::Connection { message: format!("cannot connect to {}: {error}; {advice}", self.address) }
    }
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
        assert_eq!("tcp:127.0.0.1:7777".parse(), tcp("127.0.0.1:7777"));
        assert_eq!("tcp://[::1]:7777".parse(), tcp("[::1]:7777"));
        assert_eq!("localhost:1".parse(), tcp("localhost:1"));
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for text in ["", "unix:", "tcp:", "host", "host:", ":80", "host:99999", "a b:1", "a\r\nX: y:1"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(matches!(&error, Error::Invalid { field: "target", .. }), "{text:?}: {error}");
        }
    }
}
