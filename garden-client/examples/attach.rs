//! Starts a long process, goes away, and comes back to it: its output goes on where it was left.
//!
//! `cargo run --example attach -- unix:/run/garden/garden.sock`

use std::error::Error;

use garden_client::{Backend, Client, ContainerSpec, ProcessSpec, io};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: attach ADDRESS")?;
    print!("{}", leave_and_come_back(&address).await?);
    Ok(())
}

/// Answers with what both clients read.
pub async fn leave_and_come_back(address: &str) -> Result<String, Box<dyn Error>> {
    let client = Client::new(address)?;
    let handle = client.create(ContainerSpec::default()).await?;
    let seen = talk(address, &handle).await;
    client.destroy(&handle).await?;
    seen
}

async fn talk(address: &str, handle: &str) -> Result<String, Box<dyn Error>> {
    let mut seen = String::new();
    {
        let first = Client::new(address)?;
        // An id of our own: it is what we come back with.
        let spec = ProcessSpec { id: "long".into(), ..ProcessSpec::new("cat", [""; 0]) };
        let process = first.run(handle, spec).await?;
        let mut stdin = io::Stdin::new(process.control.clone());
        stdin.write_all(b"before\n").await?;
        stdin.flush().await?;
        io::reader(process.stdout.open()).read_line(&mut seen).await?;
        // Everything is dropped here, and its connections with it; the process goes on.
    }
    let second = Client::new(address)?;
    let process = second.attach(handle, "long").await?;
    let mut stdout = io::reader(process.stdout.open());
    let mut stdin = io::Stdin::new(process.control.clone());
    stdin.write_all(b"after\n").await?;
    stdin.shutdown().await?;
    stdout.read_to_string(&mut seen).await?;
    if process.exit.await? != 0 {
        return Err("cat failed".into());
    }
    Ok(seen)
}
