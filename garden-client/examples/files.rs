//! Copies files into a container and out of it: a local directory, and a tar through memory.
//!
//! `cargo run --example files -- unix:/run/garden/garden.sock`

use std::{error::Error, path::Path};

use garden_client::{Backend, Client, ContainerSpec, FilesQuery, io, tarball};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(from), Some(to)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: files ADDRESS FROM-DIRECTORY TO-DIRECTORY".into());
    };
    let tar_bytes = there_and_back(&address, Path::new(&from), Path::new(&to)).await?;
    println!("the tar had {tar_bytes} bytes");
    Ok(())
}

/// Answers with the size of the tar that came out.
pub async fn there_and_back(address: &str, from: &Path, to: &Path) -> Result<usize, Box<dyn Error>> {
    let client = Client::new(address)?;
    let handle = client.create(ContainerSpec::default()).await?;
    let copied = copy(&client, &handle, from, to).await;
    client.destroy(&handle).await?;
    copied
}

async fn copy(client: &Client, handle: &str, from: &Path, to: &Path) -> Result<usize, Box<dyn Error>> {
    // A relative path begins at the user's home; the user becomes the owner.
    let app = FilesQuery { user: "vcap".into(), path: "app".into() };
    client.stream_in(handle, app, tarball::pack(from.to_owned())).await?;

    // With a slash at its end: what is in the directory, without the directory itself.
    let app = FilesQuery { user: "vcap".into(), path: "app/".into() };
    tarball::unpack(client.stream_out(handle, app.clone()).await?, to.to_owned()).await?;

    // The same tar as bytes.
    let mut tar = Vec::new();
    io::reader(client.stream_out(handle, app).await?).read_to_end(&mut tar).await?;
    Ok(tar.len())
}
