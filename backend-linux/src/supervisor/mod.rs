//! What the server and a container's supervisor (`garden-init`) say to each other.
//!
//! The supervisor listens on a socket in the container's directory. A connection carries one request at a time, for as
//! long as there is something to tell: the connection of a `Run` or an `Attach` brings the exit status later. Old supervisors meet new servers, so every packet begins with a version, unknown fields are ignored
//! and fields are only ever added, with a default.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod messages;
mod ring;
mod socket;

pub use messages::{
    ApartRequest, Bind, CgroupEntry, CgroupView, Defence, Defences, Failure, FailureKind, Hardening, IdMaps,
    IdRange, NAME_BYTES, OutputFds, OwnFile, OwnRoot, PrepareRequest, ProcessState, Reply, Request, Rootfs,
    RunRequest, StartRequest, TcpSettings, Terminal, id_map_lines, ids_inside,
};
pub use ring::{Chunk, MIN_RING_BYTES, RING_CAPACITY_BYTES, RingReader, RingWriter};
pub use socket::{MAX_FDS, connect, listen, recv, send};
