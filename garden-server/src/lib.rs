//! The front end of a Garden container server: HTTP over unix and TCP sockets, process streams, the grace clock and
//! telemetry, before any [`Backend`](protocol::Backend). It knows no platform.
//!
//! A request goes one way: [`serve`] accepts a connection; `connection` runs HTTP on it; `malformed` refuses what can
//! be understood in two ways, `guard` what a browser sends for another site; `api` finds the route in the protocol's
//! table, turns the request into a typed value (`request`) and performs it (`perform`, one match over the whole API).
//! The four routes that carry a process's streams leave a closure in their response: `connection` then takes the
//! socket back from hyper and hands it to `process_stream` or `output_stream`. Beside the protocol, a process's websocket goes to
//! `channel_stream` by the same way.

#![forbid(unsafe_code)]

mod api;
mod body;
mod channel_output;
mod channel_stream;
mod config;
mod connection;
mod debug;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod grace;
mod guard;
mod listener;
mod listing;
mod malformed;
mod metrics;
mod output_stream;
mod payload;
mod perform;
mod process_stream;
mod request;
mod response;
mod result;
mod serve;
mod sessions;
mod socket;
mod stdin_queue;
mod websocket;

pub use config::Config;
pub use listener::{BindError, Listener, UnixSocketOptions};
pub use serve::{ServeError, serve};
