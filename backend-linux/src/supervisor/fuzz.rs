//! What must hold of what the other side of a supervisor's socket sends and shares, whatever it is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use bytes::BytesMut;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
        sendmsg, socketpair,
    },
    pipe::{PipeFlags, pipe_with},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Chunk, RING_CAPACITY_BYTES, Reply, Request, RingReader, recv, send};

/// A packet with a descriptor, as the supervisor and as the server read it.
pub(crate) fn packet(bytes: &[u8]) {
    message::<Request>(bytes);
    message::<Reply>(bytes);
}

fn message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    let (watched, sent) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
    // With the flag for a long message the JSON is in a file that comes last.
    let in_file = bytes.get(1) == Some(&1);
    let packet = if in_file { &bytes[..2] } else { bytes };
    let mut file = File::from(memfd_create("message", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.write_all(bytes.get(2..).unwrap_or_default()).expect("in memory");
    let fds = [sent.as_fd(), file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(if in_file { &fds } else { &fds[..1] })));
    // A packet that is longer than the socket takes cannot be sent to us either.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if sendmsg(&theirs, &[IoSlice::new(packet)], &mut control, flags).is_err() {
        return;
    }
    drop(sent);
    if let Ok(Some((message, fds))) = recv::<T>(&ours) {
        assert_eq!(fds.len(), 1, "the message's own file is no descriptor of the message's");
        // Sent on, it is the same message with the same descriptors.
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        send(&theirs, &message, &borrowed).expect("what was received can be sent");
        let (again, fds) = recv::<T>(&ours).expect("what was sent can be received").expect("a message");
        assert_eq!(fds.len(), 1);
        let json = |message: &T| serde_json::to_string(message).expect("JSON");
        assert_eq!(json(&again), json(&message));
    }
    // Nothing holds on to a descriptor of a message that was refused or done with: but a child that another test has just
    // forked, until it executes its program.
    let mut hung_up = [PollFd::new(&watched, PollFlags::HUP)];
    poll(&mut hung_up, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).expect("poll");
    let end = rustix::io::read(&watched, &mut [0; 1][..]);
    assert_eq!(end, Ok(0), "a descriptor was lost");
}

/// A ring whose counters the other side has written: each read ends, and gives what the counters admit.
pub(crate) fn ring(bytes: &[u8]) {
    let (position, counters) = bytes.split_at(bytes.len().min(8));
    let position = position.try_into().map_or(0, u64::from_ne_bytes);
    let reader = match RingReader::new(memfd(counters, !bytes.len().is_multiple_of(3)).expect("a memfd")) {
        Ok(reader) => reader,
        Err(error) => return assert_eq!(error.kind(), io::ErrorKind::InvalidData),
    };
    assert!(reader.delivered() <= reader.written());
    for limit in [1, 4096, 70_000] {
        let mut position = position;
        for _ in 0..2 {
            match reader.read(position, limit, &mut BytesMut::new()).expect("a memfd can be read") {
                Chunk::Data { position: begin, bytes } => {
                    assert!(begin >= position && !bytes.is_empty() && bytes.len() <= limit);
                    position = begin + bytes.len() as u64;
                    assert!(position <= reader.written());
                }
                Chunk::Empty => assert!(!reader.is_closed()),
                Chunk::End => assert!(reader.is_closed()),
            }
        }
    }
}

/// A sealed file, as large as a ring or too small, that begins with these bytes.
fn memfd(counters: &[u8], is_whole: bool) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create("ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    ftruncate(&file, 4096 + if is_whole { RING_CAPACITY_BYTES } else { 100 })?;
    file.write_all_at(&counters[..counters.len().min(4096)], 0)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let mut beginning = [0];
    (&file).read_exact(&mut beginning)?;
    Ok(file.into())
}
