//! Netlink by hand: several requests in one datagram, which the `rtnetlink` crate does not do and a create needs.
//!
//! The kernel works a request off within `send`, so what comes back is there when `send` returns: a batch costs two
//! system calls and no wait for an answer. It may wait for a kernel lock, though: call from a thread that may block.

mod message;
mod socket;

#[cfg(any(test, fuzzing))]
pub use message::answers;
pub use message::{Answer, Message, attributes};
pub use socket::{Error, Socket};

/// Header flags (`NLM_F_*`).
pub mod flags {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCLUSIVE: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}
