//! A netlink socket, bound for good to the network namespace that it was opened in.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink, recvfrom, sendto, socket_with, sockopt,
    },
};

use super::{
    flags,
    message::{Answer, Message, answers},
};

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Answers are read into this; the kernel's own tools use half of it.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;
/// The largest batch: all outbound rules that a container may have.
const SEND_BUFFER_BYTES: usize = 64 << 20;
/// Announcements that wait to be read: of some thousand links.
const EVENT_BUFFER_BYTES: usize = 8 << 20;
/// How often a listing that changed while it was read is begun anew.
const DUMP_ATTEMPTS: usize = 20;

/// Why netlink did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused one of the requests.
    #[error("{what}")]
    Refused {
        /// The request's purpose.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The socket itself failed.
    #[error("netlink socket: {call}")]
    Socket {
        /// The system call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel did not answer.
    #[error("{what}: the kernel did not answer")]
    NoAnswer {
        /// The purpose of the request without an answer.
        what: &'static str,
    },
    /// A listing changed each time that it was read.
    #[error("{what}: changes faster than it can be read")]
    Unstable {
        /// The purpose of the listing.
        what: &'static str,
    },
}

impl Error {
    /// The kernel's error number.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { source, .. } | Error::Socket { source, .. } => Errno::from_io_error(source),
            Error::NoAnswer { .. } | Error::Unstable { .. } => None,
        }
    }
}

/// A netlink socket and the buffer for its answers.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// A socket in the calling thread's network namespace; protocol none: rtnetlink.
    pub fn open(protocol: Option<Protocol>) -> Result<Socket, Error> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(|source| Error::Socket { call: "socket", source: source.into() })?;
        // Without the right to exceed the host's bound the default size stands, enough for all but the largest batch.
        let _ = sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER_BYTES);
        Ok(Socket::from(fd))
    }

    /// A socket in the calling thread's network namespace that hears of every change of a link (`RTNLGRP_LINK`).
    pub fn listen_to_links() -> Result<Socket, Error> {
        const LINK_GROUP: u32 = 1;
        let socket = Socket::open(None)?;
        // Without the right to exceed the host's bound, more is missed when many links go at once.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket.fd, EVENT_BUFFER_BYTES);
        bind(&socket.fd, &SocketAddrNetlink::new(0, LINK_GROUP))
            .map_err(|source| Error::Socket { call: "bind", source: source.into() })?;
        Ok(socket)
    }

    /// Calls `each` for every message that is waiting. An error may mean that some were missed.
    pub fn events(&mut self, mut each: impl FnMut(Answer<'_>)) -> Result<(), Error> {
        while let Some(datagram) = self.receive(RecvFlags::DONTWAIT)? {
            answers(datagram).for_each(&mut each);
        }
        Ok(())
    }

    /// Sends `messages` in one datagram and reads every answer to them. Returns the first refusal, in the order of the
    /// messages; whether those after a refused one were done is the protocol's affair.
    pub fn transact(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        let purposes: Vec<_> = messages.iter().map(|m| (m.what, m.wants_ack())).collect();
        let first = self.sequence.wrapping_add(1);
        self.send(messages)?;
        let mut refused: Option<(usize, i32)> = None;
        let mut acknowledged = vec![false; purposes.len()];
        while let Some(datagram) = self.receive(RecvFlags::DONTWAIT)? {
            for (index, errno) in answers(datagram).filter_map(|answer| outcome(&answer, first)) {
                let Some(acknowledged) = acknowledged.get_mut(index) else { continue };
                *acknowledged = true;
                if errno != 0 && refused.is_none_or(|(earlier, _)| index < earlier) {
                    refused = Some((index, errno));
                }
            }
        }
        if let Some((index, errno)) = refused {
            return Err(Error::Refused {
                what: purposes[index].0,
                source: io::Error::from_raw_os_error(errno),
            });
        }
        match purposes
            .iter()
            .zip(&acknowledged)
            .find(|((_, wants_ack), acknowledged)| *wants_ack && !**acknowledged)
        {
            Some(((what, _), _)) => Err(Error::NoAnswer { what }),
            None => Ok(()),
        }
    }

    /// Asks for a listing and returns what `read` makes of each entry's payload.
    pub fn dump<T>(&mut self, request: Message, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(entries) = self.dump_once(request.clone(), &read)? {
                return Ok(entries);
            }
        }
        Err(Error::Unstable { what: request.what })
    }

    /// None: the listing changed while it was read.
    fn dump_once<T>(
        &mut self,
        request: Message,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let what = request.what;
        let sequence = self.sequence.wrapping_add(1);
        self.send(vec![request])?;
        let (mut entries, mut interrupted) = (Vec::new(), false);
        // The kernel fills in the next part when one is read: this waits for the listing, never for an event.
        while let Some(datagram) = self.receive(RecvFlags::empty())? {
            for answer in answers(datagram).filter(|answer| answer.sequence == sequence) {
                interrupted |= answer.flags & flags::DUMP_INTERRUPTED != 0;
                match answer.kind {
                    DONE => return Ok((!interrupted).then_some(entries)),
                    ERROR => {
                        let errno = outcome(&answer, sequence).map_or(0, |(_, errno)| errno);
                        return Err(Error::Refused { what, source: io::Error::from_raw_os_error(errno) });
                    }
                    _ => entries.extend(read(answer.payload)),
                }
            }
        }
        Err(Error::NoAnswer { what })
    }

    fn send(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        // Answers to a request that was given up must not be taken for answers to this one.
        while self.receive(RecvFlags::DONTWAIT)?.is_some() {}
        let mut datagram = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend_from_slice(&message.finish(self.sequence));
        }
        loop {
            match sendto(&self.fd, &datagram, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(source) => return Err(Error::Socket { call: "send", source: source.into() }),
            }
        }
    }

    /// The next datagram from the kernel; none: there is none now.
    fn receive(&mut self, flags: RecvFlags) -> Result<Option<&[u8]>, Error> {
        loop {
            match recvfrom(&self.fd, self.buffer.as_mut_slice(), flags) {
                // Any process of the namespace may send to this socket. Port 0 is the kernel.
                Ok((len, _, Some(sender)))
                    if SocketAddrNetlink::try_from(sender.clone()).is_ok_and(|sender| sender.pid() == 0) =>
                {
                    return Ok(Some(&self.buffer[..len]));
                }
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(source) => return Err(Error::Socket { call: "receive", source: source.into() }),
            }
        }
    }
}

/// A socket that somebody else opened, in the namespace where he did.
impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Socket {
        Socket { fd, sequence: 0, buffer: vec![0; RECEIVE_BUFFER_BYTES] }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Which of the requests from sequence number `first` on this confirms or refuses, and the error number, 0 for none.
fn outcome(answer: &Answer<'_>, first: u32) -> Option<(usize, i32)> {
    if answer.kind != ERROR {
        return None;
    }
    let negated_errno = i32::from_ne_bytes(*answer.payload.first_chunk::<4>()?);
    Some((answer.sequence.wrapping_sub(first) as usize, negated_errno.saturating_neg()))
}
