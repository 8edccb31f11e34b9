//! A supervisor that has gone over to the other side: it answers the server with what hurts the most.
//!
//! What it does is the last word of its own file, since a server gives a supervisor neither arguments nor environment.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use backend_linux::{
    supervisor::{Reply, Request, recv, send},
    sys::{Forked, fork},
};
use nix::sched::{CloneFlags, unshare};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, accept,
        sendmsg, socket_with,
    },
    pipe::pipe,
};

/// As the real ones have it.
const VERSION: u8 = 1;
const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;
/// Where the server writes how far it holds a ring.
const HOLD_AT: u64 = 9 * 8;
/// How long a server may take until it uses a ring.
const PATIENCE: Duration = Duration::from_secs(10);
/// Much more than a message may have, and no more than a host that runs tests can bear.
const LONG_MESSAGE_BYTES: u64 = 2 << 30;
const PAGE_BYTES: u64 = 4096;
const RING_BYTES: u64 = PAGE_BYTES + 16 * 1024 * 1024;

/// Serves for as long as the server asks.
pub fn serve() -> Result<(), Box<dyn Error>> {
    let own = fs::read("/proc/self/exe")?;
    let word = own.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let word = String::from_utf8_lossy(word).into_owned();
    let Some(server) = copy(io::stdin().as_fd().try_clone_to_owned()?)? else { return Ok(()) };
    let mut listener = None;
    while let Some((request, mut fds)) = recv::<Request>(&server)? {
        match request {
            Request::Prepare(_) => prepare(&server, &word)?,
            Request::Start(_) => {
                send(&server, &Reply::Started, &[])?;
                listener = fds.pop();
                break;
            }
            _ => return Err("neither prepared nor started".into()),
        }
    }
    let listener = listener.ok_or("never started")?;
    let mut kept = Some(server);
    loop {
        let connection = kept.take().map_or_else(|| accept(&listener), Ok)?;
        match recv::<Request>(&connection)? {
            Some((Request::Run(_), _)) => {
                run(&connection, &word)?;
                continue;
            }
            Some((Request::List, _)) => {
                send(&connection, &Reply::Processes { processes: Vec::new() }, &[])?;
            }
            Some((Request::Shutdown, _)) => return Ok(send(&connection, &Reply::Done, &[])?),
            Some(_) => send(&connection, &Reply::Done, &[])?,
            None => continue,
        }
        kept = Some(connection);
    }
}

/// Copies itself for as long as the server asks, as honestly as the real ones: what hurts comes later.
fn copy(server: OwnedFd) -> Result<Option<OwnedFd>, Box<dyn Error>> {
    while let Some((request, mut fds)) = recv::<Request>(&server)? {
        let (Request::Copy, Some(connection)) = (request, fds.pop()) else {
            return Err("not to copy".into());
        };
        match fork(CloneFlags::CLONE_PARENT, None)? {
            Forked::Child => return Ok(Some(connection)),
            Forked::Parent { pidfd, .. } => send(&connection, &Reply::Copied, &[pidfd.as_fd()])?,
        }
    }
    Ok(None)
}

fn prepare(server: &OwnedFd, word: &str) -> Result<(), Box<dyn Error>> {
    match word {
        "no-namespaces" => send(server, &Reply::Namespaces, &[])?,
        "not-namespaces" => {
            let null = File::open("/dev/null")?;
            send(server, &Reply::Namespaces, &[null.as_fd(), null.as_fd()])?;
        }
        "out-of-turn" => send(server, &Reply::Exited { status: 0 }, &[])?,
        "too-long" => {
            let file = File::from(memfd_create("message", MemfdFlags::CLOEXEC)?);
            // Sparse: what it takes is taken by whoever reads it.
            ftruncate(&file, LONG_MESSAGE_BYTES)?;
            packet(server, &[VERSION, IN_MEMFD], &[file.as_fd()])?;
        }
        // Reading it would wait for ever.
        "counter" => {
            let counter = eventfd(0, EventfdFlags::CLOEXEC)?;
            packet(server, &[VERSION, IN_MEMFD], &[counter.as_fd()])?;
            // For as long as there is a server that could write to it.
            std::mem::forget(counter);
        }
        "no-message" => packet(server, &[VERSION, 0, b'{'], &[])?,
        _ => {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
            let namespace = File::open("/proc/self/ns/net")?;
            let fds = [namespace.as_fd(), netlink.as_fd()];
            match word {
                // What would do in this version may mean something else in that one.
                "version" => packet(server, &in_version(VERSION + 1, &Reply::Namespaces)?, &fds)?,
                _ => send(server, &Reply::Namespaces, &fds)?,
            }
        }
    }
    Ok(())
}

/// A short message as another version would send it.
fn in_version(version: u8, message: &Reply) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    Ok([version, INLINE].into_iter().chain(json).collect())
}

fn run(connection: &OwnedFd, word: &str) -> Result<(), Box<dyn Error>> {
    let memfd = |bytes| -> io::Result<OwnedFd> {
        let memfd = memfd_create("ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, bytes)?;
        Ok(memfd)
    };
    let (reader, writer) = pipe()?;
    let ring = match word {
        "ring-can-shrink" => memfd(RING_BYTES)?,
        "ring-is-short" => {
            let memfd = memfd(PAGE_BYTES)?;
            fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
            // It says that there is more to read than it has.
            rustix::io::pwrite(&memfd, &PAGE_BYTES.to_ne_bytes(), 0)?;
            memfd
        }
        "ring-is-pipe" => reader.try_clone()?,
        _ => File::open("/proc/self/exe")?.into(),
    };
    let fds: &[BorrowedFd<'_>] = match word {
        "no-descriptors" => &[],
        "few-descriptors" => &[reader.as_fd(), writer.as_fd()],
        _ => &[ring.as_fd(), ring.as_fd(), reader.as_fd(), writer.as_fd(), writer.as_fd()],
    };
    send(connection, &Reply::Running, fds)?;
    if word == "ring-can-shrink" {
        thread::spawn(move || shrink_once_used(&ring));
    }
    Ok(())
}

/// Takes a ring's pages away once the server has it: whoever looks at a page that is gone is killed.
fn shrink_once_used(ring: &OwnedFd) -> io::Result<()> {
    let begun = Instant::now();
    let mut hold = [0; 8];
    while begun.elapsed() < PATIENCE {
        // The server says first of all that nobody holds the ring.
        rustix::io::pread(ring, &mut hold, HOLD_AT)?;
        if hold != [0; 8] {
            return Ok(ftruncate(ring, 0)?);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A packet that no honest supervisor sends.
fn packet(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Box<dyn Error>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err("no room for the descriptors".into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
