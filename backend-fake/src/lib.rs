//! The contract of [`protocol::Backend`] in memory: no root, no kernel features, no files.
//!
//! For tests of whatever talks to a Garden server: containers, properties, files, ports and processes behave as
//! `backend-linux`'s do (one conformance suite holds both to it), processes are [scripted](Programs), any operation
//! can be made to [fail, wait or take long](Faults), and time is tokio's, so that `tokio::time::pause` makes hours
//! pass in no time.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> protocol::Result<()> {
//! use backend_fake::{FakeBackend, FakeOptions, Op};
//! use protocol::{Backend, ContainerSpec, Error, ProcessSpec};
//!
//! let mut options = FakeOptions::default();
//! options.programs.insert("deploy", |context: backend_fake::Context| async move {
//!     context.print("deployed\n").await;
//!     Ok(3)
//! });
//! let fake = FakeBackend::with_options(options);
//! let handle = fake.create(ContainerSpec::default()).await?;
//! let process = fake.run(&handle, ProcessSpec { path: "deploy".into(), ..Default::default() }).await?;
//! assert_eq!(process.exit.await?, 3);
//!
//! fake.faults().fail_once(Op::Destroy, Error::Failed { message: "device busy".into() });
//! assert!(fake.destroy(&handle).await.is_err());
//! fake.destroy(&handle).await?;
//! # Ok(()) }
//! ```
//!
//! It must be used inside a tokio runtime.

#![forbid(unsafe_code)]

mod archive;
mod backend;
mod busybox;
mod container;
mod faults;
mod files;
mod network;
mod options;
mod output;
mod process;
mod programs;
mod run;
mod shell;
mod stdin;
mod sync;
mod telemetry;
mod users;

pub use backend::FakeBackend;
pub use faults::{Faults, Hold};
pub use options::FakeOptions;
pub use process::OnTerminate;
pub use programs::{Context, Programs};
/// The operations at which faults can be injected: the protocol's own.
pub use protocol::routes::Route as Op;
pub use users::User;
