//! Files as tars: what `stream_in` and `stream_out` carry.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::read::GzDecoder;
use tar::{Archive, Builder, Entry, EntryType, Header};

use crate::{
    files::{Kind, Node, Refusal, Tree},
    users::User,
};

/// Unpacks a tar or gzipped tar at `path` as `user`. On an error the tree may hold half of it: unpack into a copy.
pub(crate) fn unpack(tree: &mut Tree, path: &str, user: &User, tar: &[u8]) -> Result<(), Refusal> {
    let at = tree.resolve(&user.home, path, true)?;
    // The place is made for the user, wherever it is; what goes into it needs the user's own rights.
    tree.make_dirs(&at, user, &User::root())?;
    let reader: Box<dyn Read + '_> =
        if tar.starts_with(&[0x1f, 0x8b]) { Box::new(GzDecoder::new(tar)) } else { Box::new(tar) };
    let mut archive = Archive::new(reader);
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        unpack_entry(tree, &at, user, entry)?;
    }
    Ok(())
}

fn unpack_entry<R: Read>(
    tree: &mut Tree,
    at: &str,
    user: &User,
    mut entry: Entry<'_, R>,
) -> Result<(), Refusal> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let text = |error: io::Error| format!("{name}: {error}");
    if name.split('/').any(|segment| segment == "..") {
        return Err(format!("{name}: leads out of the archive"));
    }
    let target = tree.resolve(at, name.trim_start_matches('/'), false)?;
    let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
    let kind = match entry.header().entry_type() {
        EntryType::Directory => Kind::Dir,
        EntryType::Symlink => Kind::Link(link.unwrap_or_default()),
        EntryType::Link => {
            let source = tree.resolve(at, link.unwrap_or_default().trim_start_matches('/'), false)?;
            let linked = tree.get(&source).cloned();
            let linked = linked.ok_or_else(|| format!("{name}: {source}: No such file or directory"))?;
            return tree.put(&target, linked, user);
        }
        EntryType::Regular | EntryType::Continuous => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(text)?;
            if content.len() as u64 != entry.size() {
                return Err(format!("{name}: unexpected end of the archive"));
            }
            Kind::File(content.into())
        }
        EntryType::XGlobalHeader => return Ok(()),
        other => return Err(format!("{name}: entries of type {other:?} are not supported")),
    };
    let header = entry.header();
    let mode = header.mode().map_err(text)? & 0o7777;
    let mtime_s = header.mtime().map_err(text)?;
    // Only root can give files away.
    let (uid, gid) = match user.is_root() {
        true => (header.uid().map_err(text)? as u32, header.gid().map_err(text)? as u32),
        false => (user.uid, user.gid),
    };
    if let Some(above) = target.rsplit_once('/').map(|(above, _)| above.to_owned()) {
        tree.make_dirs(&above, user, user)?;
    }
    if target == at && at.is_empty() {
        return Ok(());
    }
    tree.put(&target, Node { kind, mode, uid, gid, mtime_s }, user)
}

/// A tar of `path` as `user` sees it: of the thing itself, or, with a trailing slash, of a directory's contents.
pub(crate) fn pack(tree: &Tree, path: &str, user: &User) -> Result<Bytes, Refusal> {
    let contents_only = path.is_empty() || path.ends_with('/') || path == "." || path.ends_with("/.");
    let at = tree.resolve(&user.home, path, contents_only)?;
    let node = tree.get(&at).ok_or_else(|| format!("no such path: {path}"))?;
    if contents_only && !node.is_dir() {
        return Err(format!("not a directory: {path}"));
    }
    let base = if contents_only { "." } else { at.rsplit('/').next().unwrap_or(".") };
    let mut builder = Builder::new(Vec::new());
    let text = |error: io::Error| error.to_string();
    append(&mut builder, base, node).map_err(text)?;
    for (name, node) in tree.below(&at) {
        append(&mut builder, &format!("{base}/{name}"), node).map_err(text)?;
    }
    builder.into_inner().map(Bytes::from).map_err(text)
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, node: &Node) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(node.mtime_s);
    header.set_size(node.len_bytes());
    match &node.kind {
        Kind::Dir => {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, format!("{name}/"), io::empty())
        }
        Kind::File(content) => {
            header.set_entry_type(EntryType::Regular);
            builder.append_data(&mut header, name, &content[..])
        }
        Kind::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, name, target)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> (Tree, User) {
        let vcap = User::new("vcap", 1000);
        (Tree::base(&[User::root(), vcap.clone()]), vcap)
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = Archive::new(tar);
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_trailing_slash_means_the_contents() {
        let (mut tree, vcap) = base();
        tree.make_dirs("/tmp/d/e", &vcap, &vcap).unwrap();
        tree.write("/", "/tmp/d/e/f", &vcap, b"x", true).unwrap();
        assert_eq!(names(&pack(&tree, "/tmp/d", &vcap).unwrap()), ["d/", "d/e/", "d/e/f"]);
        assert_eq!(names(&pack(&tree, "/tmp/d/", &vcap).unwrap()), ["./", "e/", "e/f"]);
        assert_eq!(names(&pack(&tree, "/tmp/d/e/f", &vcap).unwrap()), ["f"]);
        assert_eq!(pack(&tree, "/nope", &vcap).unwrap_err(), "no such path: /nope");
    }

    #[test]
    fn what_was_packed_unpacks_as_the_user_gzipped_or_not() {
        let (mut tree, vcap) = base();
        tree.make_dirs("/tmp/d", &vcap, &vcap).unwrap();
        tree.write("/", "/tmp/d/f", &vcap, b"content", true).unwrap();
        let tar = pack(&tree, "/tmp/d", &vcap).unwrap();
        unpack(&mut tree, "in", &vcap, &tar).unwrap();
        let node = tree.get("/home/vcap/in/d/f").unwrap();
        assert_eq!((node.uid, node.len_bytes()), (1000, 7));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &tar).unwrap();
        unpack(&mut tree, "/tmp/gz", &vcap, &gzip.finish().unwrap()).unwrap();
        assert!(tree.get("/tmp/gz/d/f").is_some());
    }

    #[test]
    fn a_tar_cut_at_any_place_inside_a_file_is_an_error() {
        let (mut tree, vcap) = base();
        tree.write("/", "/tmp/f", &vcap, &[7; 1500], true).unwrap();
        let tar = pack(&tree, "/tmp/f", &vcap).unwrap();
        for cut in (1..512 + 1500).step_by(37) {
            assert!(unpack(&mut tree.clone(), "/tmp", &vcap, &tar[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn nothing_leads_out() {
        let (mut tree, _) = base();
        let root = User::root();
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.as_mut_bytes()[..7].copy_from_slice(b"../evil");
        header.set_cksum();
        let tar = [header.as_bytes().as_slice(), &[0; 1024]].concat();
        assert!(unpack(&mut tree, "/tmp", &root, &tar).is_err());
    }
}
