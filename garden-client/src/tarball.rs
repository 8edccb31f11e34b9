//! Local files as the tars that [`Backend::stream_in`](protocol::Backend::stream_in) takes and
//! [`Backend::stream_out`](protocol::Backend::stream_out) gives.
//!
//! ```no_run
//! use garden_client::{Backend, Client, FilesQuery, tarball};
//!
//! # async fn example(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
//! let app = FilesQuery { user: "vcap".into(), path: "app".into() };
//! client.stream_in("my-container", app, tarball::pack("./my-app".into())).await?;
//!
//! let logs = FilesQuery { user: String::new(), path: "/var/log/".into() };
//! tarball::unpack(client.stream_out("my-container", logs).await?, "./logs".into()).await?;
//! # Ok(())
//! # }
//! ```

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream};
use protocol::ByteStream;
use tokio::sync::mpsc;

const CHUNK_BYTES: usize = 64 << 10;
/// Chunks on their way between a blocking thread and a stream.
const CHUNKS_AHEAD: usize = 4;

type Chunk = io::Result<Bytes>;

/// A tar of a directory's contents, or of one file under its own name.
///
/// Owners and extended attributes are left out (the server gives the files to the user they are streamed in as);
/// hard links become files of their own; a socket, device or FIFO is an error, and so is a file that shrinks while
/// it is read. Must be called within a tokio runtime; a thread of it reads the files, and stops when the stream is
/// dropped.
pub fn pack(path: PathBuf) -> ByteStream {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write_tar(&path, ChannelWriter(sender.clone())) {
            // Refused where nobody reads the stream any more.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Box::pin(stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }))
}

fn write_tar(path: &Path, writer: ChannelWriter) -> io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::with_capacity(CHUNK_BYTES, writer));
    if fs::metadata(path).map_err(|error| at(path, error))?.is_dir() {
        append_contents(&mut tar, path, Path::new("."))?;
    } else {
        append(&mut tar, path, Path::new(path.file_name().unwrap_or(OsStr::new("file"))), true)?;
    }
    tar.into_inner()?.flush()
}

type TarBuilder = tar::Builder<BufWriter<ChannelWriter>>;

fn append_contents(tar: &mut TarBuilder, directory: &Path, name: &Path) -> io::Result<()> {
    let entries = fs::read_dir(directory).map_err(|error| at(directory, error))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    names.iter().try_for_each(|child| append(tar, &directory.join(child), &name.join(child), false))
}

fn append(tar: &mut TarBuilder, path: &Path, name: &Path, follow: bool) -> io::Result<()> {
    let in_place = |error| at(path, error);
    let metadata = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) }.map_err(in_place)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    // The format wants owners; the server puts the one it streams in as in their place.
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    if metadata.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, name, io::empty()).map_err(in_place)?;
        append_contents(tar, path, name)
    } else if metadata.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        let target = fs::read_link(path).map_err(in_place)?;
        tar.append_link(&mut header, name, target).map_err(in_place)
    } else if metadata.is_file() {
        let file = File::open(path).map_err(in_place)?;
        // Its size is said before its bytes: a log that grows meanwhile gets no further than that.
        let size = file.metadata().map_err(in_place)?.len();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(size);
        tar.append_data(&mut header, name, Exactly { file, rest: size }).map_err(in_place)
    } else {
        Err(at(path, io::Error::other("is neither a file nor a directory nor a symbolic link")))
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Reads a file of a known size.
struct Exactly {
    file: File,
    rest: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file shrank while it was read"));
        }
        self.rest -= count as u64;
        Ok(count)
    }
}

struct ChannelWriter(mpsc::Sender<Chunk>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks a tar below a directory, which is made if it is missing. Owners and setuid bits are left out, and nothing
/// in the tar leads out of the directory. An error, or dropping the future, may leave a part of the files behind.
pub async fn unpack(mut tar: ByteStream, directory: PathBuf) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
    let unpacking = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&directory).map_err(|error| at(&directory, error))?;
        let mut reader = ChannelReader { receiver, chunk: Bytes::new() };
        tar::Archive::new(&mut reader).unpack(&directory)?;
        // The archive's reader stops at the end mark. Only behind it is it known that the tar was not cut short.
        io::copy(&mut reader, &mut io::sink())?;
        Ok(())
    });
    while let Some(chunk) = tar.next().await {
        // Refused where unpacking has failed.
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    drop(sender);
    unpacking.await.map_err(io::Error::other)?
}

struct ChannelReader {
    receiver: mpsc::Receiver<Chunk>,
    chunk: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
