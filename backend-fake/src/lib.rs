#![doc = include_str!("../README.md")]
//!
//! # Where to look
//! [`FakeBackend`] is the backend, [`FakeOptions`] what can be chosen about it, [`Programs`] and [`Context`] what can
//! be scripted, [`Faults`] and [`Op`] what can go wrong. All of it must be used inside a tokio runtime.

#![forbid(unsafe_code)]

mod addresses;
mod archive;
mod backend;
mod busybox;
mod container;
mod containers;
mod faults;
mod files;
mod network;
mod options;
mod output;
mod process;
mod programs;
mod run;
mod shell;
mod spec;
mod stdin;
mod sync;
mod telemetry;
mod users;

pub use backend::FakeBackend;
pub use faults::{Faults, Hold, Op};
pub use options::FakeOptions;
pub use process::OnTerminate;
pub use programs::{Context, Programs};
pub use users::User;
