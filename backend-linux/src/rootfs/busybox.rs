//! The embedded default root filesystem, packed at first use from the host's static busybox.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::{self, Read, Seek},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
    sync::PoisonError,
};

use sha2::{Digest, Sha256};

use super::{
    Error, Image, Result, Store,
    image::{FileIdentity, sha256},
};

/// Part of the layer's key: a change of the tree below makes a new layer.
const TREE_VERSION: &str = "garden default rootfs 1";

/// Directories, their modes and owners.
const DIRECTORIES: &[(&str, u32, u32)] = &[
    ("bin", 0o755, 0),
    ("dev", 0o755, 0),
    ("etc", 0o755, 0),
    ("home", 0o755, 0),
    ("home/alice", 0o755, 1001),
    ("home/vcap", 0o755, 1000),
    ("proc", 0o555, 0),
    ("root", 0o700, 0),
    ("run", 0o755, 0),
    ("sbin", 0o755, 0),
    ("sys", 0o555, 0),
    ("tmp", 0o1777, 0),
    ("usr", 0o755, 0),
    ("usr/bin", 0o755, 0),
    ("usr/local", 0o755, 0),
    ("usr/local/bin", 0o755, 0),
    ("usr/local/sbin", 0o755, 0),
    ("usr/sbin", 0o755, 0),
    ("var", 0o755, 0),
    ("var/log", 0o755, 0),
    ("var/tmp", 0o1777, 0),
];

const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
         vcap:x:1000:1000:vcap:/home/vcap:/bin/sh\n\
         alice:x:1001:1001:alice:/home/alice:/bin/sh\n",
    ),
    (
        "etc/group",
        "root:x:0:\n\
         adm:x:4:vcap\n\
         staff:x:50:alice\n\
         users:x:100:vcap,alice\n\
         nogroup:x:65534:\n\
         vcap:x:1000:\n\
         alice:x:1001:\n",
    ),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
    ("etc/hostname", ""),
    ("etc/resolv.conf", ""),
];

impl Store {
    /// The default image, from the busybox that the host has now.
    pub(super) fn busybox_image(&self) -> Result<Image> {
        // The usual case: the one found before is still there, and still the same.
        let known = self.busybox.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(path) = known
            && let Ok(metadata) = fs::metadata(&path)
            && let Some(image) = self.cached(&FileIdentity::new(&path, &metadata))
        {
            return Ok(image);
        }
        let path = find()?;
        let read_error = |source| Error::Store { doing: "read", path: path.clone(), source };
        let mut file = File::open(&path).map_err(read_error)?;
        let identity = FileIdentity::new(&path, &file.metadata().map_err(read_error)?);
        let binary = sha256(&mut file).map_err(read_error)?;
        let digest = format!("{:x}", Sha256::digest(format!("{TREE_VERSION}\n{binary}")));
        let image = self.layer(&digest, |directory| {
            let links = applets(&path)?;
            file.rewind().map_err(read_error)?;
            pack(&mut file, &links, directory).map_err(|source| Error::Store {
                doing: "fill",
                path: directory.into(),
                source,
            })
        })?;
        self.remember(identity, digest);
        *self.busybox.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
        Ok(image)
    }
}

/// The host's static busybox; where there are several, the first static one.
fn find() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/bin".into(), "/usr/bin".into()]);
    let mut dynamic = None;
    for directory in directories.filter(|directory| directory.is_absolute()) {
        for name in ["busybox", "busybox-static"] {
            let candidate = directory.join(name);
            match File::open(&candidate).and_then(|mut file| is_static(&mut file)) {
                Ok(true) => return Ok(candidate),
                Ok(false) => dynamic = dynamic.or(Some(candidate)),
                // Missing, or unreadable, which is as good as missing.
                Err(_) => {}
            }
        }
    }
    Err(dynamic.map_or(Error::NoBusybox, |path| Error::BusyboxNotStatic { path }))
}

/// Whether a file is an ELF program that needs no interpreter. What is no ELF at all is not.
pub(super) fn is_static(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    const PT_INTERP: u64 = 3;
    let mut head = [0; 64];
    if file.read_exact(&mut head).is_err() || !head.starts_with(b"\x7fELF") {
        return Ok(false);
    }
    let wide = head[4] == 2;
    let big_endian = head[5] == 2;
    let number = |bytes: &[u8]| {
        let shift = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
        if big_endian { bytes.iter().fold(0, shift) } else { bytes.iter().rev().fold(0, shift) }
    };
    // Where the program headers are, how large each is, and how many.
    let (offset, size, count) = if wide {
        (number(&head[32..40]), number(&head[54..56]), number(&head[56..58]))
    } else {
        (number(&head[28..32]), number(&head[42..44]), number(&head[44..46]))
    };
    for index in 0..count {
        let at = index.saturating_mul(size).saturating_add(offset);
        let mut kind = [0; 4];
        file.seek(io::SeekFrom::Start(at))?;
        file.read_exact(&mut kind)?;
        if number(&kind) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(count > 0)
}

/// Where busybox wants to be linked to, like `usr/bin/awk`.
fn applets(busybox: &Path) -> Result<BTreeSet<PathBuf>> {
    let problem = |problem: String| Error::Applets { path: busybox.into(), problem };
    let output = Command::new(busybox)
        .arg("--list-full")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| problem(format!("does not start: {error}")))?;
    if !output.status.success() {
        return Err(problem(format!("fails: {}", output.status)));
    }
    let links = parse_applets(&String::from_utf8_lossy(&output.stdout));
    if links.is_empty() { Err(problem("names no applet".into())) } else { Ok(links) }
}

/// Only links into directories that the tree has; busybox itself is no link.
pub(super) fn parse_applets(text: &str) -> BTreeSet<PathBuf> {
    let known = |path: &Path| {
        let directory = path.parent().and_then(Path::to_str);
        path.components().all(|component| matches!(component, Component::Normal(_)))
            && directory.is_some_and(|directory| DIRECTORIES.iter().any(|(known, _, _)| *known == directory))
    };
    let paths = text.lines().map(str::trim).map(PathBuf::from);
    paths.filter(|path| known(path) && *path != Path::new("bin/busybox")).collect()
}

fn pack(busybox: &mut File, links: &BTreeSet<PathBuf>, root: &Path) -> io::Result<()> {
    // Modes are set explicitly: those of creation pass through the process's umask.
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(root, 0o755)?;
    for (name, bits, owner) in DIRECTORIES {
        let path = root.join(name);
        fs::create_dir(&path)?;
        chown(&path, Some(*owner), Some(*owner))?;
        mode(&path, *bits)?;
    }
    for (name, text) in FILES {
        let path = root.join(name);
        fs::write(&path, text)?;
        mode(&path, 0o644)?;
    }
    let binary = root.join("bin/busybox");
    io::copy(busybox, &mut File::create_new(&binary)?)?;
    mode(&binary, 0o755)?;
    for link in links {
        symlink("/bin/busybox", root.join(link))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn elf(wide: bool, kinds: &[u32]) -> Vec<u8> {
        let (header, size) = if wide { (64, 56_u16) } else { (52, 32) };
        let mut bytes = vec![0; 64.max(header + kinds.len() * usize::from(size))];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1]);
        let count = u16::try_from(kinds.len()).unwrap();
        if wide {
            bytes[32..40].copy_from_slice(&(header as u64).to_le_bytes());
            bytes[54..56].copy_from_slice(&size.to_le_bytes());
            bytes[56..58].copy_from_slice(&count.to_le_bytes());
        } else {
            bytes[28..32].copy_from_slice(&(header as u32).to_le_bytes());
            bytes[42..44].copy_from_slice(&size.to_le_bytes());
            bytes[44..46].copy_from_slice(&count.to_le_bytes());
        }
        for (index, kind) in kinds.iter().enumerate() {
            let at = header + index * usize::from(size);
            bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        for wide in [true, false] {
            assert!(is_static(&mut io::Cursor::new(elf(wide, &[1, 1, 2]))).unwrap());
            assert!(!is_static(&mut io::Cursor::new(elf(wide, &[6, 3, 1]))).unwrap());
        }
        assert!(!is_static(&mut io::Cursor::new(b"#!/bin/sh\necho I am busybox\n")).unwrap());
    }

    #[test]
    fn applets_cannot_be_linked_from_elsewhere() {
        let links =
            parse_applets("bin/sh\nusr/bin/awk\nbin/busybox\n../evil\n/bin/evil\nusr/../bin/x\nlinuxrc\n");
        assert_eq!(links, BTreeSet::from(["bin/sh".into(), "usr/bin/awk".into()]));
    }

    proptest! {
        #[test]
        fn no_file_makes_the_elf_check_panic(tail: Vec<u8>) {
            let mut bytes = b"\x7fELF\x02\x01".to_vec();
            bytes.extend(tail);
            let _ = is_static(&mut io::Cursor::new(bytes));
        }
    }
}
