//! Root filesystems: images, shared read-only below every container's own write layer.
//!
//! The store's directory, mode 0700:
//!
//! ```text
//! layers/<sha256>          an unpacked image; appears by rename, so it is whole or not there
//! write/<container>/upper  what the container wrote, beside the overlay's `work`
//! write/<container>/processes/<process>/upper  what a process with an image of its own wrote
//! tmp/                     what is being unpacked
//! trash/                   what is gone, removed in the background by `Store::empty_trash`
//! ```
//!
//! The store prepares directories only: the supervisor mounts the overlay, in a mount namespace of its own. Nothing on
//! a create's or destroy's path walks a tree. All functions block.
//!
//! [`untar`](untar::untar), [`tar_out`](tar_out::tar_out) and [`maybe_gunzip`] need no store; the supervisor uses them
//! for streaming in and out.

mod busybox;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gunzip;
mod image;
mod source;
pub mod tar_out;
#[cfg(test)]
mod tests;
mod trash;
pub mod untar;
mod usage;
mod write_layer;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

pub use error::Error;
pub use gunzip::{MaybeGunzip, maybe_gunzip};
pub use image::Image;
pub use usage::{Usage, usage};
pub use write_layer::WriteLayer;

/// What a call of this module gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The directory where images and write layers are kept.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    default_rootfs: String,
    digests: Mutex<HashMap<image::FileIdentity, String>>,
    locks: image::Locks,
    /// The busybox that the default image was packed from.
    busybox: Mutex<Option<PathBuf>>,
    /// Sets names in `tmp` and `trash` apart.
    next: AtomicU64,
}

/// Size of the file system that the store is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// All of it.
    pub total_bytes: u64,
    /// What an ordinary user could still write.
    pub available_bytes: u64,
}

impl Store {
    /// Opens the store at `path`, made where it is missing. What an earlier crash left half-made goes to the trash.
    /// `default_rootfs` is the image of containers that name none; empty: one packed from the host's busybox.
    pub fn open(path: &Path, default_rootfs: &str) -> Result<Store> {
        let store = Store {
            root: path.to_owned(),
            default_rootfs: default_rootfs.to_owned(),
            digests: Mutex::default(),
            locks: image::Locks::default(),
            busybox: Mutex::default(),
            next: AtomicU64::new(0),
        };
        let store_error = |path: &Path, doing, source| Error::Store { doing, path: path.into(), source };
        fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(|source| store_error(path, "prepare", source))?;
        for directory in [store.layers(), store.write_layers(), store.tmp(), store.trash()] {
            make_directory(&directory, 0o700).map_err(|source| store_error(&directory, "prepare", source))?;
        }
        let half_made = fs::read_dir(store.tmp()).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        for entry in half_made.map_err(|source| store_error(&store.tmp(), "read", source))? {
            store.discard(&entry.path())?;
        }
        Ok(store)
    }

    /// Size of the file system that the store is on.
    pub fn capacity(&self) -> Result<Capacity> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|source| Error::Store {
            doing: "measure",
            path: self.root.clone(),
            source: source.into(),
        })?;
        Ok(Capacity {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn write_layers(&self) -> PathBuf {
        self.root.join("write")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// A name that no other call gets; an earlier process may have used it.
    fn unique_name(&self) -> String {
        format!("{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Makes one directory that may be there already.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}
