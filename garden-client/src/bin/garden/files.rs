//! `stream-in` and `stream-out`.

use std::path::{Path, PathBuf};

use garden_client::{Backend, ByteStream, Client, Error, FilesQuery, tarball};

use crate::{
    report::Failure,
    streams::{self, CopyError},
    values::Place,
};

pub async fn stream_in(client: &Client, source: PathBuf, to: Place, user: String) -> Result<(), Failure> {
    let doing = format!("stream {} into {}", source.display(), to.handle);
    let tar: ByteStream = if source == Path::new("-") { streams::stdin() } else { tarball::pack(source) };
    let files = FilesQuery { user, path: to.path };
    client.stream_in(&to.handle, files, tar).await.map_err(|error| Failure::new(doing, &error))
}

pub async fn stream_out(client: &Client, from: Place, to: PathBuf, user: String) -> Result<(), Failure> {
    let doing = format!("stream {} out of {}", from.path, from.handle);
    let files = FilesQuery { user, path: from.path };
    let tar = client.stream_out(&from.handle, files).await;
    let tar = tar.map_err(|error| Failure::new(doing.as_str(), &error))?;
    let broken = |error: std::io::Error| Failure::new(doing.as_str(), &Error::failed(&error));
    if to == Path::new("-") {
        return match streams::copy(tar, tokio::io::stdout()).await {
            Ok(()) => Ok(()),
            Err(CopyError::From(error)) => Err(broken(error)),
            Err(CopyError::To(error)) => Err(Failure::output(&doing, &error)),
        };
    }
    tarball::unpack(tar, to).await.map_err(broken)
}
