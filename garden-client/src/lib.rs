//! A client of Garden servers: this project's, and any other that speaks the protocol.
//!
//! [`Client`] implements [`Backend`], the same trait that the platforms behind a server implement, over HTTP/1.1 on a
//! unix socket or TCP; it says what is tried again, how errors tell whether something was done, and what dropping a
//! future leaves. The rest is what a user of it wants besides: [`Client::run_and_collect`], streams as `AsyncRead` and
//! `AsyncWrite` in [`io`], and local files as tars in [`tarball`].
//!
//! Ordinary requests go through hyper. Running a process and attaching to one do not. With this project's server a
//! process has a websocket of its own, which carries any bytes both ways
//! ([`protocol::extension`]). Any other server has Garden's classic streams, whose input is text: behind the head of
//! an answer, which says chunked, it sends raw bytes, so that these requests are written and their answers' heads are
//! read by hand. The server is asked once which it has; see [`Client::with_classic_streams`].
//!
//! What a server sends is not trusted: heads, messages and answers are bounded, and every error says what was tried
//! and what went wrong.
//!
//! ```no_run
//! use garden_client::{Backend, Client, ProcessSpec, io};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("tcp:127.0.0.1:7777")?;
//! let process = client.run("my-container", ProcessSpec::new("tr", ["a-z", "A-Z"])).await?;
//! let mut stdin = io::Stdin::new(process.control.clone());
//! stdin.write_all(b"hello").await?;
//! stdin.shutdown().await?;
//! let mut stdout = String::new();
//! io::reader(process.stdout.open()).read_to_string(&mut stdout).await?;
//! println!("{stdout}, exit status {}", process.exit.await?);
//! # Ok(())
//! # }
//! ```
//!
//! More of that in the crate's examples: `run`, `files` and `attach`.

#![forbid(unsafe_code)]

mod address;
mod answer;
mod channel_output;
mod channels;
mod client;
mod collect;
mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod http;
pub mod io;
mod payload;
mod process;
mod raw;
mod retry;
pub mod tarball;
mod websocket;

pub use address::Address;
pub use client::{CONNECT_TIMEOUT, Client, RETRIES_FOR};
pub use collect::Collected;
/// The wire types, errors and the seam, for whoever needs more of them than this crate names.
pub use protocol;
pub use protocol::{
    Backend, ByteStream, ContainerSpec, Error, FilesQuery, Process, ProcessSpec, Properties, Result,
};
