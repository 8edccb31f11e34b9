//! Packets over a unix socket of type SOCK_SEQPACKET: one message each, with its descriptors.
//!
//! A packet is a version byte, a flag byte, and JSON. JSON that is too long for a packet (a large environment) is put
//! into a memfd that travels as the last descriptor.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Seek, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, memfd_create},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
        recvmsg, sendmsg, socket_with,
    },
};
use serde::{Serialize, de::DeserializeOwned};

const VERSION: u8 = 1;
const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;
const MAX_PACKET_BYTES: usize = 64 * 1024;
const MAX_MESSAGE_BYTES: u64 = 16 * 1024 * 1024;

/// The most descriptors in one packet.
pub const MAX_FDS: usize = 250;

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// Sends one message with its descriptors.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let mut fds = fds.to_vec();
    let memfd;
    let mut packet = vec![VERSION, INLINE];
    if json.len() + packet.len() <= MAX_PACKET_BYTES {
        packet.extend_from_slice(&json);
    } else {
        let mut file = File::from(memfd_create("message", MemfdFlags::CLOEXEC)?);
        file.write_all(&json)?;
        memfd = file;
        packet[1] = IN_MEMFD;
        fds.push(memfd.as_fd());
    }
    if fds.len() > MAX_FDS {
        return Err(invalid(format!("{} descriptors in one message: at most {MAX_FDS}", fds.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(invalid("no room for the descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptors; none at the end of the connection.
pub fn recv<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // A look at its length first: most packets are small, and room for the largest would stay with every supervisor.
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let (_, length) = rustix::net::recv(&socket, &mut [0_u8; 0], peek)?;
    let mut packet = vec![0; length.min(MAX_PACKET_BYTES + 1)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other(
            "a message lost its descriptors: this process has too many open already",
        ));
    }
    let json = match packet.get(..received.bytes) {
        Some([]) => return Ok(None),
        Some([VERSION, INLINE, json @ ..]) => json.to_vec(),
        Some([VERSION, IN_MEMFD, ..]) => {
            let mut file = File::from(fds.pop().ok_or_else(|| invalid("a message without its memfd"))?);
            // Reading from anything else may wait for ever.
            if !file.metadata()?.is_file() {
                return Err(invalid("a message whose memfd is none"));
            }
            file.rewind()?;
            let mut json = Vec::new();
            file.take(MAX_MESSAGE_BYTES + 1).read_to_end(&mut json)?;
            json
        }
        Some([version, ..]) if *version != VERSION => {
            return Err(invalid(format!("a message of version {version}; this side speaks {VERSION}")));
        }
        _ => return Err(invalid("a packet that is no message")),
    };
    if json.len() as u64 > MAX_MESSAGE_BYTES {
        return Err(invalid(format!("a message of more than {MAX_MESSAGE_BYTES} bytes")));
    }
    let message =
        serde_json::from_slice(&json).map_err(|error| invalid(format!("a message that is none: {error}")))?;
    Ok(Some((message, fds)))
}

/// The address of a socket in a directory whose path may be longer than an address can be.
fn address(directory: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))?)
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A socket that listens at `directory/name`.
pub fn listen(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let directory = open_directory(directory)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address(directory.as_fd(), name)?)?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

/// A connection to `directory/name`, in non-blocking mode once it stands.
pub fn connect(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let directory = open_directory(directory)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &address(directory.as_fd(), name)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (a, b) = pair();
        for text in ["short".to_owned(), "long ".repeat(100_000)] {
            send(&a, &text, &[a.as_fd(), b.as_fd()]).unwrap();
            let (message, fds) = recv::<String>(&b).unwrap().unwrap();
            assert_eq!(message, text);
            assert_eq!(fds.len(), 2);
        }
        drop(a);
        assert!(recv::<String>(&b).unwrap().is_none());
    }

    #[test]
    fn a_message_is_read_from_a_file_only() {
        let (a, b) = pair();
        // Not to wait if it is read after all.
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let eventfd = rustix::event::eventfd(0, flags).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [eventfd.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&a, &[IoSlice::new(&[VERSION, IN_MEMFD])], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(recv::<String>(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn hostile_packets_are_errors() {
        let (a, b) = pair();
        for packet in [&b"\x01"[..], b"\x02\x00{}", b"\x01\x07{}", b"\x01\x01", b"\x01\x00nope", &[1; 70_000]]
        {
            rustix::net::send(&a, packet, SendFlags::NOSIGNAL).unwrap();
            recv::<String>(&b).unwrap_err();
        }
    }
}
