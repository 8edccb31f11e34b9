//! Archives that mean well, and archives that do not.

use std::{
    fs,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
    thread,
};

use tar::{EntryType, Header};

use super::*;

const BENEATH: Options = Options { owner: Owner::Caller, resolve: Resolve::Beneath, end: End::MustBeMarked };

/// Entries with a header of their own making, as no honest tar would write them.
struct Archive(Vec<u8>);

impl Archive {
    fn new() -> Self {
        Archive(Vec::new())
    }

    fn entry(self, kind: EntryType, name: &str, link: &str, data: &[u8]) -> Self {
        self.sized_entry(kind, name, link, data, data.len() as u64)
    }

    fn sized_entry(mut self, kind: EntryType, name: &str, link: &str, data: &[u8], size: u64) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, "", data.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn unpack(bytes: &[u8], directory: &Path, options: &Options) -> Result<Summary, Error> {
    let directory = fs::File::open(directory).unwrap();
    untar(bytes, directory.as_fd(), options)
}

/// A directory `in` to unpack to, with `outside` beside it.
fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("in");
    fs::create_dir(&inside).unwrap();
    fs::create_dir(directory.path().join("outside")).unwrap();
    fs::write(directory.path().join("outside/precious"), "precious").unwrap();
    (directory, inside)
}

#[test]
fn an_archive_cannot_reach_outside() {
    let outside_by_link = |kind, link| Archive::new().entry(kind, "x", link, b"");
    let (directory, _) = place();
    let absolute = directory.path().join("outside").to_str().unwrap().to_owned();
    let cases = [
        Archive::new().file("../outside/evil", "evil"),
        Archive::new().file("a/../../outside/evil", "evil"),
        Archive::new().file(&format!("{absolute}/evil"), "evil"),
        outside_by_link(EntryType::Symlink, "../outside").file("x/evil", "evil"),
        outside_by_link(EntryType::Symlink, &absolute).file("x/precious", "evil"),
        outside_by_link(EntryType::Symlink, &absolute).file("x/new/evil", "evil"),
        outside_by_link(EntryType::Link, "../outside/precious"),
        outside_by_link(EntryType::Link, &format!("{absolute}/precious")),
        outside_by_link(EntryType::Symlink, &absolute).entry(EntryType::Link, "y", "x/precious", b""),
        outside_by_link(EntryType::Symlink, &absolute).entry(EntryType::Symlink, "x/evil", "/", b""),
        outside_by_link(EntryType::Symlink, &absolute).entry(EntryType::Fifo, "x/evil", "", b""),
        outside_by_link(EntryType::Symlink, &absolute).directory("x/evil"),
    ];
    for (index, case) in cases.into_iter().enumerate() {
        let inside = directory.path().join(format!("in{index}"));
        fs::create_dir(&inside).unwrap();
        let error = unpack(&case.end(), &inside, &BENEATH).unwrap_err();
        assert!(matches!(error, Error::Name { .. } | Error::Outside { .. }), "case {index}: {error:?}");
        let outside: Vec<_> = fs::read_dir(directory.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "case {index}");
        assert_eq!(fs::read_to_string(directory.path().join("outside/precious")).unwrap(), "precious");
    }
}

#[test]
fn a_link_in_the_way_is_replaced_and_not_followed() {
    let (directory, inside) = place();
    let outside = directory.path().join("outside");
    symlink(outside.join("precious"), inside.join("file")).unwrap();
    symlink(&outside, inside.join("directory")).unwrap();
    let bytes = Archive::new().file("file", "mine").directory("directory").file("directory/f", "x").end();
    unpack(&bytes, &inside, &BENEATH).unwrap();
    assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "mine");
    assert!(fs::symlink_metadata(inside.join("directory")).unwrap().is_dir());
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "precious");
}

#[test]
fn through_links_goes_where_they_lead_and_keeps_them() {
    let (directory, inside) = place();
    fs::create_dir_all(inside.join("usr/lib")).unwrap();
    symlink("usr/lib", inside.join("lib")).unwrap();
    let options = Options { resolve: Resolve::ThroughLinks, ..BENEATH };
    let bytes = Archive::new().directory("lib").file("lib/file", "x").end();
    unpack(&bytes, &inside, &options).unwrap();
    assert!(fs::symlink_metadata(inside.join("lib")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(inside.join("usr/lib/file")).unwrap(), "x");
    drop(directory);
}

#[test]
fn a_file_in_the_way_is_replaced_with_its_other_names_left_alone() {
    let (_directory, inside) = place();
    fs::write(inside.join("file"), "old").unwrap();
    fs::hard_link(inside.join("file"), inside.join("other")).unwrap();
    unpack(&Archive::new().file("file", "new").end(), &inside, &BENEATH).unwrap();
    assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(inside.join("other")).unwrap(), "old");
}

#[test]
fn an_archive_cut_anywhere_is_an_error() {
    let whole = Archive::new().directory("d").file("d/one", "1").file("two", &"2".repeat(1000)).end();
    let (_directory, inside) = place();
    let between_entries = (0..=whole.len() - 1024).step_by(512);
    for length in (0..whole.len() - 1024).step_by(37).chain(between_entries) {
        let error = unpack(&whole[..length], &inside, &BENEATH).unwrap_err();
        assert!(matches!(error, Error::CutShort | Error::NotTar), "{length}: {error:?}");
    }
    let lenient = Options { end: End::MayBeUnmarked, ..BENEATH };
    assert_eq!(unpack(&whole[..whole.len() - 1024], &inside, &lenient).unwrap().entries, 3);
}

#[test]
fn claims_of_enormous_size_cost_nothing() {
    let (_directory, inside) = place();
    let claims = |kind, name| Archive::new().sized_entry(kind, name, "", b"short", u64::MAX >> 2).end();
    for kind in [EntryType::GNULongName, EntryType::XHeader, EntryType::Regular, EntryType::XGlobalHeader] {
        let error = unpack(&claims(kind, "x"), &inside, &BENEATH).unwrap_err();
        assert!(matches!(error, Error::CutShort | Error::Damaged(_)), "{kind:?}: {error:?}");
    }
    let record = |text: &str| {
        let mut length = text.len() + 2;
        while length != text.len() + 2 + length.to_string().len() {
            length = text.len() + 2 + length.to_string().len();
        }
        format!("{length} {text}\n")
    };
    // A hole of an exbibyte is refused by the file system at once, or is a hole.
    let hole = record("GNU.sparse.major=0") + &record("GNU.sparse.realsize=1152921504606846976");
    let bytes = Archive::new().entry(EntryType::XHeader, "x", "", hole.as_bytes()).file("hole", "").end();
    let _ = unpack(&bytes, &inside, &BENEATH);
}

#[test]
fn a_type_that_nobody_knows_is_refused() {
    let (_directory, inside) = place();
    let bytes = Archive::new().entry(EntryType::new(b'Z'), "odd", "", b"").end();
    let error = unpack(&bytes, &inside, &BENEATH).unwrap_err();
    assert!(matches!(&error, Error::UnknownType { entry, kind: 'Z' } if entry == "odd"), "{error:?}");
}

#[test]
fn missing_parents_are_made_and_belong_to_the_owner() {
    if !crate::rootfs::tests::is_root() {
        return;
    }
    let (_directory, inside) = place();
    let options = Options { owner: Owner::As { uid: 12, gid: 34 }, ..BENEATH };
    unpack(&Archive::new().file("a/b/file", "x").end(), &inside, &options).unwrap();
    for path in ["a", "a/b", "a/b/file"] {
        let meta = fs::metadata(inside.join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (12, 34), "{path}");
    }
    assert_eq!(fs::metadata(inside.join("a")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn another_users_directory_is_filled_where_allowed_and_stays_as_it_is() {
    if !crate::rootfs::tests::is_root() {
        return;
    }
    let (_directory, inside) = place();
    let bytes = Archive::new().directory("./").file("file", "x").end();
    let root = fs::File::open(&inside).unwrap();
    // The user of a thread that ends with the test; its capabilities go with the user.
    let as_user = || {
        let uid = rustix::process::Uid::from_raw(1000);
        thread::scope(|scope| {
            let unpack = scope.spawn(|| {
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                untar(&bytes[..], root.as_fd(), &BENEATH)
            });
            unpack.join().unwrap()
        })
    };
    let error = as_user().unwrap_err();
    let denied = |source: &std::io::Error| source.kind() == std::io::ErrorKind::PermissionDenied;
    assert!(matches!(&error, Error::Write { source, .. } if denied(source)), "{error:?}");

    fs::set_permissions(&inside, fs::Permissions::from_mode(0o1777)).unwrap();
    as_user().unwrap();
    assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(inside.join("file")).unwrap().uid(), 1000);
}

#[test]
fn a_directory_that_forbids_writing_is_filled_first() {
    let (_directory, inside) = place();
    let mut bytes = Vec::new();
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..2].copy_from_slice(b"d/");
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o555);
    header.set_mtime(1_000_000);
    header.set_size(0);
    header.set_cksum();
    bytes.extend(header.as_bytes());
    bytes.extend(Archive::new().file("d/file", "x").end());
    unpack(&bytes, &inside, &BENEATH).unwrap();
    let meta = fs::metadata(inside.join("d")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o555, 1_000_000));
}

#[test]
fn sparse_files_of_gnu_tar_come_back_with_their_holes() {
    let (directory, _) = place();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    let script = "truncate -s 50M hole; for i in $(seq 0 3 40); do
        printf data$i | dd of=hole bs=1M seek=$i conv=notrunc status=none; done; truncate -s 1M empty";
    assert!(Command::new("sh").args(["-ec", script]).current_dir(&from).status().unwrap().success());
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=posix"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=0.0"],
    ];
    for (index, format) in formats.into_iter().enumerate() {
        let output =
            Command::new("tar").arg("-cSf-").args(format).arg(".").current_dir(&from).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let to = directory.path().join(format!("to{index}"));
        fs::create_dir(&to).unwrap();
        unpack(&output.stdout, &to, &BENEATH).unwrap();
        for name in ["hole", "empty"] {
            let same = fs::read(from.join(name)).unwrap() == fs::read(to.join(name)).unwrap();
            assert!(same, "{format:?} {name}");
            assert!(fs::metadata(to.join(name)).unwrap().blocks() * 512 < 1 << 20, "{format:?} {name}");
        }
    }
}

#[test]
fn the_overlays_own_attributes_are_not_taken_from_an_archive() {
    let (_directory, inside) = place();
    let bytes = Archive::new()
        .entry(EntryType::XHeader, "x", "", b"44 SCHILY.xattr.trusted.overlay.redirect=/x\n")
        .directory("d")
        .end();
    unpack(&bytes, &inside, &BENEATH).unwrap();
    let mut list = [0; 1000];
    let length = rustix::fs::listxattr(inside.join("d"), &mut list[..]).unwrap();
    assert!(!String::from_utf8_lossy(&list[..length]).contains("overlay"));
}
