//! Whether the host itself has a port: one that is mapped to a container would be out of reach for its clients.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt},
};

/// Asks the kernel of the calling thread's network namespace, which answers at once.
pub fn is_free(port: u16) -> bool {
    let addresses = [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    // Who listens to one address only has the port, too. What fails for another reason says nothing of the port.
    addresses.into_iter().all(|address| try_bind(address) != Err(Errno::ADDRINUSE))
}

fn try_bind(address: SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Connections that have ended do not count.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)
}
