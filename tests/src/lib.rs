//! What holds this project to its contract.
//!
//! - [`behaviours`]: what every Garden backend does, written once against the seam; [`for_each_behaviour`] lists them.
//! - [`columns`]: the backends that they are run on, one test binary for each in `tests/tests/`; [`linux`] is the
//!   privileged one, with its look for leaks, [`address`] any server that listens somewhere.
//! - [`world`]: what a behaviour is given: a backend of its own, fresh handles, the ways to use them.
//! - [`raw`]: the wire by hand; [`echo`]: a process over it that gives back what it gets; [`soak`]: many processes
//!   that end at once, read late.
//! - [`fuzz`]: any bytes on a connection; the other fuzz targets are in the crates of the parsers.
//! - [`system_calls`]: a program that makes any system call, for processes to execute.
//! - [`attack`]: attempts to break out of a container.
//! - [`patience`]: how long they wait.
//! - [`neighbour`]: a host of a test's own, and another one behind its uplink.
//! - [`netns`]: hosts with a network of their own; [`cni`]: such hosts with plug-ins.
//! - [`host`]: a picture of the whole host, to be compared before and after.

#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod address;
pub mod attack;
pub mod behaviours;
pub mod cni;
pub mod columns;
pub mod echo;
pub mod files;
pub mod fuzz;
pub mod host;
pub mod killable;
pub mod linux;
pub mod neighbour;
pub mod netns;
pub mod patience;
pub mod raw;
pub mod soak;
pub mod system_calls;
pub mod world;
