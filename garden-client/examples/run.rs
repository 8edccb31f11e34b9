//! Makes a container, runs a program in it, and removes it, whatever happened in between.
//!
//! `cargo run --example run -- unix:/run/garden/garden.sock`

use std::{error::Error, time::Duration};

use garden_client::{Backend, Client, Collected, ContainerSpec, ProcessSpec};

const HANDLE: &str = "example-run";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: run ADDRESS")?;
    let ended = in_a_container(&address).await?;
    print!("{}", String::from_utf8_lossy(&ended.stdout));
    println!("exit status {}", ended.exit_status);
    Ok(())
}

/// The handle is chosen here, so that the container can be removed also if the answer to its create was lost. Should
/// this program die, the server removes it when nobody has referred to it for the grace time.
pub async fn in_a_container(address: &str) -> garden_client::Result<Collected> {
    let client = Client::new(address)?;
    let grace_time = Duration::from_secs(300);
    let spec = ContainerSpec { handle: HANDLE.into(), grace_time, ..ContainerSpec::default() };
    let ended = match client.create(spec).await {
        Ok(handle) => client.run_and_collect(&handle, ProcessSpec::new("echo", ["hello"])).await,
        // It is somebody else's.
        Err(error @ garden_client::Error::HandleInUse { .. }) => return Err(error),
        Err(error) => Err(error),
    };
    let destroyed = client.destroy(HANDLE).await;
    // What went wrong first comes first.
    let ended = ended?;
    destroyed?;
    Ok(ended)
}
