//! Files: devices with their modes and owners, what servers keep, what tests forget.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Where temporary files are, of our tests and of programs under test.
const TEMPORARY: &[&str] = &["/tmp", "/var/tmp", "/dev/shm", "/run"];

/// How the names of our temporary files begin.
const OURS: &[&str] = &["garden", "grootfs", "conf-"];

/// Visits everything below a directory, not following links; `visit` says whether to go on below a directory.
pub(super) fn walk(directory: &Path, visit: &mut dyn FnMut(&Path, &Metadata) -> bool) {
    // What vanishes while it is looked at was not there.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if visit(&path, &metadata) && metadata.is_dir() {
            walk(&path, visit);
        }
    }
}

fn describe(path: &Path, metadata: &Metadata) -> String {
    let device = match metadata.rdev() {
        0 => String::new(),
        number => format!(" device {}:{}", number >> 8, number & 0xff),
    };
    let target = fs::read_link(path).map(|target| format!(" -> {}", target.display())).unwrap_or_default();
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    format!("{} {mode:o} {uid}:{gid}{device}{target}", path.display())
}

/// Everything in `/dev`, but for terminals and shared memory, which belong to whoever is logged in.
pub(super) fn devices() -> Vec<String> {
    let mut lines = Vec::new();
    walk(Path::new("/dev"), &mut |path, metadata| {
        lines.push(describe(path, metadata));
        !matches!(path.to_str(), Some("/dev/pts" | "/dev/shm" | "/dev/mqueue" | "/dev/hugepages"))
    });
    lines
}

/// Everything in these directories.
pub(super) fn below(directories: &[PathBuf]) -> Vec<String> {
    let mut lines = Vec::new();
    for directory in directories {
        if let Ok(metadata) = fs::symlink_metadata(directory) {
            lines.push(describe(directory, &metadata));
        }
        walk(directory, &mut |path, metadata| {
            lines.push(describe(path, metadata));
            true
        });
    }
    lines
}

/// What is ours by its name where temporary files are.
pub(super) fn temporary() -> Vec<String> {
    let mut lines = Vec::new();
    let mut directories: Vec<PathBuf> = TEMPORARY.iter().map(PathBuf::from).collect();
    let own = std::env::temp_dir();
    if !directories.contains(&own) {
        directories.push(own);
    }
    for directory in directories {
        walk(&directory, &mut |path, metadata| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if OURS.iter().any(|ours| name.starts_with(ours)) {
                lines.push(describe(path, metadata));
            }
            false
        });
    }
    lines
}
