//! Attacks by way of the network.

use std::{
    error::Error,
    net::{Ipv4Addr, SocketAddrV4},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

const UDP: u8 = 17;
const DATA: &[u8] = b"spoofed";

/// Sends a UDP packet under any address.
pub fn spoof(source: Ipv4Addr, target: SocketAddrV4) -> Result<(), Box<dyn Error>> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let udp_bytes = u16::try_from(8 + DATA.len())?;
    // Version, length of the header in words, no service; lifetime; the kernel adds the sum and the number.
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_bytes).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.ip().octets());
    // From port 4242, without a sum.
    packet.extend(4242u16.to_be_bytes());
    packet.extend(target.port().to_be_bytes());
    packet.extend(udp_bytes.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(DATA);
    sendto(raw.as_raw_fd(), &packet, &SockaddrIn::from(target), MsgFlags::empty())?;
    println!("sent");
    Ok(())
}

/// Connects to an abstract unix socket, which has no file and so no owner and no mode.
pub fn connect(name: &str) -> Result<(), Box<dyn Error>> {
    match UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(_) => println!("connected"),
        Err(error) => println!("{error}"),
    }
    Ok(())
}
