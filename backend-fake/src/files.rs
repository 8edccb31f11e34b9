//! A container's files: a small tree in memory.

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;

use crate::{
    sync::lock,
    users::{self, User},
};

/// The files of one container.
pub(crate) type Files = Mutex<Tree>;

/// Nodes by absolute path without `.`, `..` or a trailing slash; the root is the empty path.
#[derive(Debug, Clone)]
pub(crate) struct Tree(BTreeMap<String, Node>);

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_s: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Dir,
    File(Bytes),
    Link(String),
}

/// Why something cannot be done, in the kernel's words.
pub(crate) type Refusal = String;

/// Links followed before giving up, as Linux does.
const MAX_LINKS: usize = 40;

impl Node {
    pub fn dir(mode: u32, user: &User) -> Node {
        Node { kind: Kind::Dir, mode, uid: user.uid, gid: user.gid, mtime_s: 0 }
    }

    pub fn file(content: impl Into<Bytes>, mode: u32, user: &User) -> Node {
        Node { kind: Kind::File(content.into()), mode, uid: user.uid, gid: user.gid, mtime_s: 0 }
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir)
    }

    pub fn len_bytes(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.len() as u64,
            Kind::Dir | Kind::Link(_) => 0,
        }
    }

    /// Whether `user` has the permission that `bit` (4 read, 2 write, 1 execute) stands for.
    fn allows(&self, user: &User, bit: u32) -> bool {
        let shift = if self.uid == user.uid {
            6
        } else if self.gid == user.gid {
            3
        } else {
            0
        };
        user.is_root() || self.mode >> shift & bit != 0
    }
}

impl Tree {
    /// The root filesystem that every container begins with.
    pub fn base(users: &[User]) -> Tree {
        let root = User::root();
        let mut tree = Tree(BTreeMap::from([(String::new(), Node::dir(0o755, &root))]));
        let mut put = |path: &str, node| tree.0.insert(path.into(), node);
        for path in ["/bin", "/dev", "/etc", "/home", "/usr", "/usr/bin", "/var"] {
            put(path, Node::dir(0o755, &root));
        }
        put("/root", Node::dir(0o700, &root));
        put("/tmp", Node::dir(0o1777, &root));
        put("/etc/passwd", Node::file(users::passwd(users), 0o644, &root));
        put("/etc/group", Node::file(users::group(users), 0o644, &root));
        for user in users.iter().filter(|user| !user.is_root()) {
            put(&user.home, Node::dir(0o755, user));
        }
        tree
    }

    /// Where `path`, seen from `dir`, leads to, following links but for the last segment unless `follow_last`. Never
    /// out of the root. What does not exist is taken as it is written.
    pub fn resolve(&self, dir: &str, path: &str, follow_last: bool) -> Result<String, Refusal> {
        let absolute = if path.starts_with('/') { path.to_owned() } else { format!("{dir}/{path}") };
        let mut todo: Vec<String> = segments(&absolute);
        let mut done = String::new();
        let mut links = 0;
        while let Some(segment) = todo.pop() {
            if segment == ".." {
                done.truncate(done.rfind('/').unwrap_or(0));
                continue;
            }
            let next = format!("{done}/{segment}");
            match self.0.get(&next).map(|node| &node.kind) {
                Some(Kind::Link(target)) if follow_last || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(format!("{path}: Too many levels of symbolic links"));
                    }
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(segments(target));
                }
                _ => done = next,
            }
        }
        Ok(done)
    }

    /// The node at a resolved path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// The nodes below a resolved path, with their paths relative to it, parents first.
    pub fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a Node)> {
        let nodes = self.0.range(format!("{path}/")..);
        nodes.map_while(move |(full, node)| Some((full.strip_prefix(path)?.strip_prefix('/')?, node)))
    }

    /// Makes a directory and those above it, owned by `owner`, with the rights of `by`.
    pub fn make_dirs(&mut self, path: &str, owner: &User, by: &User) -> Result<(), Refusal> {
        match self.0.get(path) {
            Some(node) if node.is_dir() => return Ok(()),
            Some(_) => return Err(format!("{path}: Not a directory")),
            None => {}
        }
        self.make_dirs(parent(path), owner, by)?;
        self.put(path, Node::dir(0o755, owner), by)
    }

    /// Whether `user` may be in the directory at a resolved path.
    pub fn enter(&self, path: &str, user: &User) -> Result<(), Refusal> {
        match self.0.get(path) {
            Some(node) if !node.allows(user, 1) => Err(format!("{path}: Permission denied")),
            _ => Ok(()),
        }
    }

    /// Puts a node at a resolved path, in the place of whatever was there.
    pub fn put(&mut self, path: &str, node: Node, user: &User) -> Result<(), Refusal> {
        match self.0.get(parent(path)) {
            Some(above) if !above.is_dir() => return Err(format!("{path}: Not a directory")),
            Some(above) if !above.allows(user, 2) => return Err(format!("{path}: Permission denied")),
            Some(_) => {}
            None => return Err(format!("{path}: No such file or directory")),
        }
        match self.0.get(path) {
            Some(old) if old.is_dir() && !node.is_dir() => return Err(format!("{path}: Is a directory")),
            Some(old) if !old.is_dir() && node.is_dir() => return Err(format!("{path}: File exists")),
            _ => {}
        }
        self.0.insert(path.into(), node);
        Ok(())
    }

    /// The content of a file, as `user` may read it.
    pub fn read(&self, dir: &str, path: &str, user: &User) -> Result<Bytes, Refusal> {
        let node = self.0.get(&self.resolve(dir, path, true)?);
        let node = node.ok_or_else(|| format!("{path}: No such file or directory"))?;
        match &node.kind {
            _ if !node.allows(user, 4) => Err(format!("{path}: Permission denied")),
            Kind::File(content) => Ok(content.clone()),
            Kind::Dir | Kind::Link(_) => Err(format!("{path}: Is a directory")),
        }
    }

    /// Appends to a file, or makes it; `truncate` empties it first.
    pub fn write(
        &mut self,
        dir: &str,
        path: &str,
        user: &User,
        data: &[u8],
        truncate: bool,
    ) -> Result<(), Refusal> {
        let at = self.resolve(dir, path, true)?;
        let mut node = match self.0.get(&at) {
            Some(node) if node.is_dir() => return Err(format!("{path}: Is a directory")),
            Some(node) if !node.allows(user, 2) => return Err(format!("{path}: Permission denied")),
            Some(node) => node.clone(),
            None => Node::file(Bytes::new(), 0o644, user),
        };
        if let Kind::File(content) = &mut node.kind {
            let kept: &[u8] = if truncate { &[] } else { content };
            *content = [kept, data].concat().into();
        }
        if let Some(old) = self.0.get_mut(&at) {
            *old = node;
            return Ok(());
        }
        self.put(&at, node, user)
    }

    /// Bytes and number of all nodes.
    pub fn usage(&self) -> (u64, u64) {
        (self.0.values().map(Node::len_bytes).sum(), self.0.len() as u64)
    }
}

/// Segments of a path, last one first.
fn segments(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|s| !s.is_empty() && *s != ".").map(str::to_owned).collect()
}

fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..slash])
}

/// Reads a file of a container under its lock.
pub(crate) fn read(files: &Files, dir: &str, path: &str, user: &User) -> Result<Bytes, Refusal> {
    lock(files).read(dir, path, user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::base(&[User::root(), User::new("vcap", 1000)]);
        let root = User::root();
        let link = |target: &str| Node { kind: Kind::Link(target.into()), ..Node::dir(0o777, &root) };
        tree.put("/out", link("../../../tmp"), &root).unwrap();
        tree.put("/loop", link("/loop"), &root).unwrap();
        tree
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let tree = tree();
        assert_eq!(tree.resolve("/home", "../../../etc/./passwd", true), Ok("/etc/passwd".into()));
        assert_eq!(tree.resolve("/", "out/x", true), Ok("/tmp/x".into()));
        assert_eq!(tree.resolve("/", "out", false), Ok("/out".into()));
        assert!(tree.resolve("/", "loop/x", true).is_err());
    }

    #[test]
    fn permissions_count() {
        let mut tree = tree();
        let vcap = User::new("vcap", 1000);
        let refused = tree.make_dirs("/root/a/b", &vcap, &vcap).unwrap_err();
        assert_eq!(refused, "/root/a: Permission denied");
        tree.make_dirs("/root/c", &vcap, &User::root()).unwrap();
        assert_eq!(tree.get("/root/c").unwrap().uid, 1000);
        tree.make_dirs("/tmp/a/b", &vcap, &vcap).unwrap();
        tree.write("/tmp", "a/b/c", &vcap, b"x", true).unwrap();
        tree.write("/tmp", "a/b/c", &vcap, b"y", false).unwrap();
        assert_eq!(tree.read("/", "tmp/a/b/c", &vcap).unwrap(), "xy");
        assert!(tree.write("/", "/etc/passwd", &vcap, b"", true).is_err());
    }
}
