//! The write layers: what one container wrote, gone with it.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
};

use crate::name;

use super::{Error, Result, Store, Usage, make_directory, usage};

/// The directories of one container's write layer. `work` is the overlay's own; both are on one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteLayer {
    /// The overlay's upper directory; its owner and mode are those of the container's `/`.
    pub upper: PathBuf,
    /// The overlay's work directory.
    pub work: PathBuf,
}

impl Store {
    /// Makes an empty write layer for the container `id`, its root owned by `owner` (uid, gid); all or nothing.
    pub fn create_write_layer(&self, id: &str, owner: (u32, u32)) -> Result<WriteLayer> {
        self.create_layer(id, &self.write_layer_directory(id), owner)
    }

    /// The same for a process of the container that has an image of its own. It goes with the container's at the latest.
    pub fn create_process_layer(&self, id: &str, process: &str, owner: (u32, u32)) -> Result<WriteLayer> {
        let all = self.process_layers(id);
        make_directory(&all, 0o700).map_err(|source| Error::Store { doing: "create", path: all, source })?;
        self.create_layer(process, &self.process_layer_directory(id, process), owner)
    }

    fn create_layer(&self, name: &str, directory: &Path, owner: (u32, u32)) -> Result<WriteLayer> {
        let store_error = |path: &Path, source| Error::Store { doing: "create", path: path.into(), source };
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::WriteLayerExists { id: name.into() });
            }
            result => result.map_err(|source| store_error(directory, source))?,
        }
        let layer = layer_in(directory);
        let made = make(&layer, owner).map_err(|source| store_error(directory, source));
        if made.is_err() {
            // What failed is the error to tell; what is left is found by the sweep.
            let _ = self.discard(directory);
        }
        made.map(|()| layer)
    }

    /// Takes the write layer of a process away; none there is no error.
    pub fn discard_process_layer(&self, id: &str, process: &str) -> Result<()> {
        self.discard(&self.process_layer_directory(id, process))
    }

    fn process_layers(&self, id: &str) -> PathBuf {
        self.write_layer_directory(id).join("processes")
    }

    fn process_layer_directory(&self, id: &str, process: &str) -> PathBuf {
        self.process_layers(id).join(name::directory(process))
    }

    /// Where the write layer of the container `id` is or would be. Touches nothing.
    pub fn write_layer_paths(&self, id: &str) -> WriteLayer {
        layer_in(&self.write_layer_directory(id))
    }

    /// Takes the write layer of the container `id` away, by a rename into the trash; none there is no error.
    pub fn discard_write_layer(&self, id: &str) -> Result<()> {
        self.discard(&self.write_layer_directory(id))
    }

    /// Takes away every write layer whose container is not among `owned`; gives how many. For the start of the
    /// server, before anything is created.
    pub fn sweep<'a>(&self, owned: impl IntoIterator<Item = &'a str>) -> Result<usize> {
        let owned: HashSet<String> = owned.into_iter().map(name::directory).collect();
        let directory = self.write_layers();
        let entries = fs::read_dir(&directory).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let entries =
            entries.map_err(|source| Error::Store { doing: "read", path: directory.clone(), source })?;
        let mut swept = 0;
        for entry in entries {
            if entry.file_name().to_str().is_none_or(|name| !owned.contains(name)) {
                self.discard(&entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// What the container `id` has written. Walks the tree: for a background scan, never for a request.
    pub fn usage(&self, id: &str) -> Result<Usage> {
        usage(&self.write_layer_paths(id).upper)
    }

    /// The same of a process of the container that has an image of its own; nothing for one that has not.
    pub fn process_usage(&self, id: &str, process: &str) -> Result<Usage> {
        usage(&layer_in(&self.process_layer_directory(id, process)).upper)
    }

    fn write_layer_directory(&self, id: &str) -> PathBuf {
        self.write_layers().join(name::directory(id))
    }
}

fn layer_in(directory: &Path) -> WriteLayer {
    WriteLayer { upper: directory.join("upper"), work: directory.join("work") }
}

fn make(layer: &WriteLayer, (uid, gid): (u32, u32)) -> io::Result<()> {
    fs::create_dir(&layer.upper)?;
    chown(&layer.upper, Some(uid), Some(gid))?;
    // After the owner, and not by the process's umask.
    fs::set_permissions(&layer.upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::DirBuilder::new().mode(0o700).create(&layer.work)
}
