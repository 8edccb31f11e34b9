//! Out, and in again; and what other tars make of it.

use std::{
    fs,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt, symlink},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use proptest::prelude::*;
use rustix::fs::{XattrFlags, lsetxattr};

use super::*;
use crate::rootfs::{
    tests::is_root,
    untar::{self, End, Owner, Resolve, untar},
};

const ALL: Options = Options { hardlinks: true, xattrs: true };

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn archive(directory: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    tar_out(&mut bytes, &Subject::Contents(open(directory).as_fd()), &ALL).unwrap();
    bytes
}

fn unpack(bytes: &[u8], directory: &Path) {
    let owner = if rustix::process::geteuid().is_root() { Owner::Archive } else { Owner::Caller };
    let options = untar::Options { owner, resolve: Resolve::Beneath, end: End::MustBeMarked };
    untar(bytes, open(directory).as_fd(), &options).unwrap();
}

/// What there is to compare of a tree: path, mode, owner, time, device, link and content.
fn picture(top: &Path) -> Vec<String> {
    let mut pending = vec![top.to_owned()];
    let mut lines = Vec::new();
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            format!("{:?}", fs::read(&path).unwrap())
        } else {
            String::new()
        };
        let links = if kind.is_dir() { 0 } else { meta.nlink() };
        lines.push(format!(
            "{:?} {:o} {}:{} {} {:x} {links} {content}",
            path.strip_prefix(top).unwrap(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.rdev(),
        ));
        if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

fn names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_stored_under_its_name_and_its_contents_under_a_dot() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("outer/inner")).unwrap();
    fs::write(directory.path().join("outer/inner/file"), "x").unwrap();
    let mut bytes = Vec::new();
    let parent = open(directory.path());
    let entry = |name| Subject::Entry { parent: parent.as_fd(), name: OsStr::new(name) };
    tar_out(&mut bytes, &entry("outer"), &ALL).unwrap();
    assert_eq!(names(&bytes), ["outer/", "outer/inner/", "outer/inner/file"]);
    assert_eq!(names(&archive(&directory.path().join("outer"))), ["./", "./inner/", "./inner/file"]);

    let error = tar_out(&mut bytes, &entry("missing"), &ALL).unwrap_err();
    assert!(matches!(&error, Error::Read { path, .. } if path == "missing"), "{error:?}");
}

#[test]
fn every_kind_of_file_comes_back() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    fs::create_dir_all(&to).unwrap();
    fs::create_dir_all(from.join("sub")).unwrap();
    let long = "long-".repeat(40);
    fs::create_dir_all(from.join(&long).join(&long)).unwrap();
    fs::write(from.join(&long).join(&long).join("file"), "deep").unwrap();
    symlink(&long, from.join("long link")).unwrap();
    symlink("../elsewhere", from.join("dangling")).unwrap();
    fs::write(from.join("file"), vec![7; 1000]).unwrap();
    fs::write(from.join(OsStr::from_bytes(b"not \xff utf-8")), "").unwrap();
    fs::hard_link(from.join("file"), from.join("sub/again")).unwrap();
    let script = "mknod null c 1 3; mknod loop b 7 300; mkfifo -m 0604 pipe; touch -d @-5 old;
        chown 4000000:3000000 old; touch setuid; chown 12:34 setuid; chmod 6755 setuid; chmod 0555 sub; chmod 1777 .;
        touch -d @1234567 sub .";
    assert!(Command::new("sh").args(["-ec", script]).current_dir(&from).status().unwrap().success());
    lsetxattr(from.join("file"), "user.key", b"va\nl\0ue", XattrFlags::empty()).unwrap();
    let expected = picture(&from);
    // A socket is left out.
    let _socket = UnixListener::bind(from.join("socket")).unwrap();
    assert!(
        Command::new("touch").args(["-d", "@1234567", "."]).current_dir(&from).status().unwrap().success()
    );
    unpack(&archive(&from), &to);
    assert_eq!(picture(&to), expected);
    let mut value = [0; 100];
    let length = rustix::fs::lgetxattr(to.join("file"), "user.key", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"va\nl\0ue");
}

#[test]
fn gnu_tar_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    fs::create_dir_all(&to).unwrap();
    fs::create_dir_all(from.join("d".repeat(200))).unwrap();
    fs::write(from.join("d".repeat(200)).join("f".repeat(200)), "x").unwrap();
    fs::hard_link(from.join("d".repeat(200)).join("f".repeat(200)), from.join("link")).unwrap();
    let mut child =
        Command::new("tar").args(["-xpf", "-"]).current_dir(&to).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&archive(&from)).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(picture(&to), picture(&from));
}

#[test]
fn without_hard_links_each_name_is_a_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a"), "x").unwrap();
    fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
    let mut bytes = Vec::new();
    let options = Options { hardlinks: false, xattrs: false };
    tar_out(&mut bytes, &Subject::Contents(open(directory.path()).as_fd()), &options).unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let files =
        archive.entries().unwrap().filter(|entry| entry.as_ref().unwrap().header().size().unwrap() == 1);
    assert_eq!(files.count(), 2);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    /// Truncates the file as soon as its header is out.
    struct Truncate(PathBuf);

    impl Write for Truncate {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            fs::File::create(&self.0)?;
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, vec![1; 10 << 20]).unwrap();
    let error =
        tar_out(Truncate(path), &Subject::Contents(open(directory.path()).as_fd()), &ALL).unwrap_err();
    assert!(matches!(&error, Error::Shrank { path } if path == "./log"), "{error:?}");
}

#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>),
    Link(String),
    Directory(Vec<(String, Node)>),
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..1500).prop_map(Node::File),
        "[a-z/.]{1,120}".prop_map(Node::Link),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        proptest::collection::vec(("[a-z \u{e9}]{1,60}", inner), 0..4).prop_map(Node::Directory)
    })
}

fn build(path: &Path, node: &Node) {
    match node {
        Node::File(bytes) => fs::write(path, bytes).unwrap(),
        Node::Link(target) => symlink(target, path).unwrap(),
        Node::Directory(children) => {
            fs::create_dir(path).unwrap();
            for (name, child) in children {
                if fs::symlink_metadata(path.join(name)).is_err() {
                    build(&path.join(name), child);
                }
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o750)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_comes_back(children in proptest::collection::vec(("[a-z]{1,8}", node()), 0..5)) {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        build(&from, &Node::Directory(children));
        fs::create_dir(&to).unwrap();
        unpack(&archive(&from), &to);
        prop_assert_eq!(picture(&to), picture(&from));
    }
}
