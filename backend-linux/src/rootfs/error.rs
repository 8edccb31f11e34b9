use std::{io, path::PathBuf};

use super::untar;

/// Why there is no root filesystem. Errors of an image name the URI that the client gave.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(
        "root filesystem {uri:?}: {scheme:?} is not supported yet by this version; give the absolute path of a \
         directory, of a .tar or of a .tar.gz file"
    )]
    UnsupportedScheme { uri: String, scheme: String },
    #[error(
        "root filesystem {uri:?} is not an absolute path; give one of a directory, of a .tar or of a .tar.gz file"
    )]
    NotAbsolute { uri: String },
    #[error("root filesystem {uri:?} does not exist")]
    Missing { uri: String },
    #[error("root filesystem {uri:?} is neither a directory nor a tar file")]
    NotAnImage { uri: String },
    #[error("cannot read root filesystem {uri:?}")]
    Read { uri: String, source: io::Error },
    #[error("cannot unpack root filesystem {uri:?}")]
    Unpack { uri: String, source: untar::Error },
    #[error("root filesystem {uri:?} changed while it was unpacked")]
    Changed { uri: String },
    #[error(
        "no root filesystem was named, and there is no busybox in PATH, /bin or /usr/bin to pack one from: install \
         Debian's package busybox-static, or set --default-rootfs"
    )]
    NoBusybox,
    #[error(
        "no root filesystem was named, and none can be packed from {}: it is not a statically linked program; \
         install Debian's package busybox-static, or set --default-rootfs", .path.display()
    )]
    BusyboxNotStatic { path: PathBuf },
    #[error("cannot pack a root filesystem from {}: `busybox --list-full` {problem}", .path.display())]
    Applets { path: PathBuf, problem: String },
    #[error("a write layer for container {id:?} exists already")]
    WriteLayerExists { id: String },
    #[error("cannot {doing} {}", .path.display())]
    Store { doing: &'static str, path: PathBuf, source: io::Error },
}
