//! The same through the server: a process in a container, and its classic stream.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use garden_client::{Backend, Client, ContainerSpec};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tests::raw::Process;
use tokio::runtime::Runtime;

use crate::{Outcome, WRITER, flow};

/// A container on the server.
pub struct Garden {
    runtime: Runtime,
    client: Client,
    socket: PathBuf,
    handle: String,
}

impl Garden {
    pub fn new(address: &str, socket: &str) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = Client::new(address)?;
        let handle = runtime.block_on(client.create(ContainerSpec::default()))?;
        Ok(Garden { runtime, client, socket: Path::new(socket).to_owned(), handle })
    }

    /// Starts the writer, reads its output as any client does, and answers with how long that took.
    pub fn stream(&self) -> Outcome<Duration> {
        let mut process = Process::run(&self.socket, &self.handle, &WRITER)?;
        let stdout = process.output(&self.socket, "stdout")?;
        let took = flow(process.input(), "{\"source\":0,\"data\":\"go\\n\"}", stdout)?;
        match process.exit_status()? {
            0 => Ok(took),
            status => Err(format!("the writer ended with {status}").into()),
        }
    }

    /// The most that the server ever had in memory, in KiB.
    pub fn server_memory(&self) -> Outcome<u64> {
        let pid = getsockopt(&UnixStream::connect(&self.socket)?, PeerCredentials)?.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    pub fn close(self) -> Outcome {
        Ok(self.runtime.block_on(self.client.destroy(&self.handle))?)
    }
}
