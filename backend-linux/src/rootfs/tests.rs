//! The store on a real file system. Owners and device nodes need root.

use std::{
    fs,
    io::Write,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
    sync::Barrier,
    thread,
};

use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::*;

pub(super) fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "this test needs root");
    eprintln!("skipped: this test needs root");
    false
}

fn store(directory: &Path) -> Store {
    Store::open(&directory.join("store"), "").unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A tar file with one file `hello`.
fn tar_file(path: &Path, content: &str) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "hello", content.as_bytes()).unwrap();
    builder.into_inner().unwrap();
}

#[test]
fn the_default_image_runs_and_is_packed_once() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let image = store.image("").unwrap();
    assert_eq!(store.image("").unwrap(), image);
    assert_eq!(names(&store.layers()), [image.digest.clone().unwrap()]);
    let output = Command::new("chroot")
        .arg(&image.lower)
        .args(["/bin/sh", "-c", "id -u vcap; stat -c %a /tmp; /usr/bin/env true && echo ok"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\n1777\nok\n", "{output:?}");
    assert_eq!(fs::metadata(image.lower.join("home/vcap")).unwrap().uid(), 1000);
    assert!(names(&store.tmp()).is_empty());
}

#[test]
fn a_directory_is_used_in_place_and_can_be_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let uri = directory.path().to_str().unwrap();
    let store = Store::open(&directory.path().join("store"), uri).unwrap();
    for uri in ["", uri] {
        assert_eq!(store.image(uri).unwrap(), Image { lower: directory.path().into(), digest: None });
    }
}

#[test]
fn a_tar_is_unpacked_once_even_if_many_ask_at_once() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let (one, same) = (directory.path().join("one.tar"), directory.path().join("same.tar"));
    tar_file(&one, "hello");
    tar_file(&same, "hello");
    let barrier = Barrier::new(16);
    let ask = |index: usize| {
        let uri = if index.is_multiple_of(2) { &one } else { &same };
        barrier.wait();
        store.image(uri.to_str().unwrap()).unwrap()
    };
    let ask = &ask;
    let lowers: Vec<Image> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|index| scope.spawn(move || ask(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(lowers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_to_string(lowers[0].lower.join("hello")).unwrap(), "hello");
    assert_eq!(names(&store.layers()).len(), 1);
    assert!(names(&store.tmp()).is_empty() && names(&store.trash()).is_empty());
    assert_eq!(store.locks.holding("any", || store.locks.in_use()), 1);
}

#[test]
fn a_tar_that_changed_is_another_image() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let path = directory.path().join("image.tar");
    tar_file(&path, "one");
    let one = store.image(path.to_str().unwrap()).unwrap();
    tar_file(&path, "two");
    let two = store.image(path.to_str().unwrap()).unwrap();
    assert_ne!(one.lower, two.lower);
    assert_eq!(fs::read_to_string(two.lower.join("hello")).unwrap(), "two");
}

#[test]
fn what_is_no_image_is_refused_by_name_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole_path = directory.path().join("whole.tar");
    tar_file(&whole_path, "hello");
    let whole = fs::read(&whole_path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let gzip = gzip.finish().unwrap();
    let missing = directory.path().join("missing").to_str().unwrap().to_owned();
    let cases = [
        (missing, "does not exist"),
        ("/dev/null".to_owned(), "neither a directory nor a tar"),
        (file("text", b"hello"), "neither a directory nor a tar"),
        (file("empty", b""), "neither a directory nor a tar"),
        (file("cut.tar", &whole[..600]), "cannot unpack"),
        (file("unmarked.tar", &whole[..1024]), "cannot unpack"),
        (file("cut.tgz", &gzip[..gzip.len() - 9]), "cannot unpack"),
    ];
    for (uri, problem) in cases {
        let text = store.image(&uri).unwrap_err().to_string();
        assert!(text.contains(&uri) && text.contains(problem), "{text:?} lacks {uri:?} or {problem:?}");
    }
    for kept in [store.layers(), store.tmp(), store.trash()] {
        assert!(names(&kept).is_empty(), "{} holds {:?}", kept.display(), names(&kept));
    }
}

#[test]
fn a_write_layer_is_made_owned_discarded_and_removed() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let id = "a handle: with / odd\tbytes";
    let layer = store.create_write_layer(id, (1234, 5678)).unwrap();
    assert_eq!(layer, store.write_layer_paths(id));
    let upper = fs::metadata(&layer.upper).unwrap();
    assert_eq!((upper.uid(), upper.gid(), upper.mode() & 0o7777), (1234, 5678, 0o755));
    assert!(matches!(store.create_write_layer(id, (0, 0)), Err(Error::WriteLayerExists { .. })));
    // As an overlay leaves it.
    let inner = layer.work.join("work");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(layer.upper.join("file"), "x").unwrap();
    for _ in 0..2 {
        store.discard_write_layer(id).unwrap();
    }
    assert_eq!(names(&store.trash()).len(), 1);
    store.empty_trash().unwrap();
    assert!(names(&store.trash()).is_empty() && names(&store.write_layers()).is_empty());
}

#[test]
fn a_sweep_takes_what_nobody_owns() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for id in ["mine", "stray", "an odd one/"] {
        store.create_write_layer(id, own).unwrap();
    }
    assert_eq!(store.sweep(["mine"]).unwrap(), 2);
    assert!(store.write_layer_paths("mine").upper.is_dir());
    assert_eq!(names(&store.write_layers()).len(), 1);
}

#[test]
fn opening_discards_what_was_half_made_and_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    {
        let store = store(directory.path());
        store.create_write_layer("kept", own).unwrap();
        fs::create_dir_all(store.tmp().join("1-1/half/made")).unwrap();
        fs::create_dir_all(store.trash().join("1-2/gone")).unwrap();
    }
    let store = store(directory.path());
    assert!(names(&store.tmp()).is_empty());
    store.empty_trash().unwrap();
    assert!(names(&store.trash()).is_empty());
    assert!(store.write_layer_paths("kept").upper.is_dir());
    assert_eq!(fs::metadata(&store.root).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn removal_copes_with_depth_and_follows_no_link() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let top = store.trash().join("deep");
    fs::create_dir(&top).unwrap();
    symlink(&outside, top.join("link")).unwrap();
    // Deeper than any path can name, and than what is done at once.
    let name = "d".repeat(200);
    let mut bottom = OwnedFd::from(fs::File::open(&top).unwrap());
    for _ in 0..100 {
        mkdirat(&bottom, &name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        bottom = openat(&bottom, &name, flags, Mode::empty()).unwrap();
    }
    drop(bottom);
    store.empty_trash().unwrap();
    assert!(names(&store.trash()).is_empty());
    assert_eq!(names(&outside), ["precious"]);
}

#[test]
fn what_cannot_be_removed_does_not_keep_the_rest() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let top = store.trash().join("old");
    fs::create_dir_all(top.join("busy")).unwrap();
    for name in ["a", "m", "z"] {
        fs::write(top.join(name), "x").unwrap();
    }
    let busy = Mounted::new(&top.join("busy"));
    assert!(store.empty_trash().is_err());
    assert_eq!(names(&top), ["busy"]);
    drop(busy);
    store.empty_trash().unwrap();
    assert!(names(&store.trash()).is_empty());
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(path: &Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(path).status().unwrap();
        assert!(mounted.success());
        Mounted(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn usage_counts_space_once_and_no_holes() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let upper = store.create_write_layer("box", own).unwrap().upper;
    assert_eq!(store.usage("box").unwrap(), Usage::default());
    fs::create_dir(upper.join("sub")).unwrap();
    fs::write(upper.join("sub/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(upper.join("sub/file"), upper.join("again")).unwrap();
    fs::File::create(upper.join("hole")).unwrap().set_len(1 << 30).unwrap();
    symlink("/", upper.join("link")).unwrap();
    let usage = store.usage("box").unwrap();
    assert_eq!(usage.inodes, 4);
    assert!((100_000..200_000).contains(&usage.bytes), "{usage:?}");
    assert_eq!(store.usage("nobody").unwrap(), Usage::default());
}

#[test]
fn capacity_is_the_file_systems() {
    let directory = tempfile::tempdir().unwrap();
    let capacity = store(directory.path()).capacity().unwrap();
    assert!(capacity.available_bytes > 0 && capacity.available_bytes <= capacity.total_bytes);
}
