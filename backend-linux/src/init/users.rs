//! Users and groups, from the container's own files.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
};

use rustix::fs::OFlags;

/// Longer files are not read: they come from the container.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub home: String,
}

impl User {
    /// Root, without a look into any file.
    pub fn root() -> User {
        User { name: "root".to_owned(), uid: 0, gid: 0, groups: Vec::new(), home: "/root".to_owned() }
    }
}

/// Finds the user of a spec in the files of the root that this process has.
pub fn find(spec: &str) -> Result<User, String> {
    find_in(spec, &read("/etc/passwd")?, &read("/etc/group")?)
}

fn read(path: &str) -> Result<String, String> {
    // Not blocking, in case it is a pipe.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let text = file.and_then(|file| {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::with_capacity(metadata.len().min(MAX_FILE_BYTES) as usize + 1);
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    match text {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|error| format!("cannot read {path} of the container: {error}")),
    }
}

/// The colon-separated fields of each line that has enough of them.
fn entries(file: &str, fields: usize) -> impl Iterator<Item = Vec<&str>> {
    file.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(move |line| line.len() >= fields)
}

/// An id. The highest number is none: to the kernel it means "as it is".
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// `name`, `uid`, `user:group` in names or numbers; empty: root.
fn find_in(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, group_name) = match spec.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (spec, None),
    };
    let name = if name.is_empty() { "root" } else { name };
    let number = id(name);
    let entry = entries(passwd, 6)
        .find(|line| line[0] == name)
        .or_else(|| number.and_then(|uid| entries(passwd, 6).find(|line| id(line[2]) == Some(uid))));
    let parsed = entry.and_then(|line| {
        let home = if line[5].is_empty() { "/" } else { line[5] };
        Some((line[0], id(line[2])?, id(line[3])?, home))
    });
    let (name, uid, gid, home) = match (parsed, number) {
        (Some(found), _) => found,
        (None, Some(uid)) => (name, uid, 0, "/"),
        (None, None) if name == "root" => ("root", 0, 0, "/root"),
        (None, None) => {
            return Err(format!("unable to find user {name}: no matching entries in passwd file"));
        }
    };
    let mut user = User { name: name.to_owned(), uid, gid, groups: Vec::new(), home: home.to_owned() };
    match group_name {
        Some(wanted) if !wanted.is_empty() => {
            let entry = entries(group, 3).find(|line| line[0] == wanted);
            user.gid = entry
                .and_then(|line| id(line[2]))
                .or_else(|| id(wanted))
                .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?;
        }
        // A group that is named stands alone; else those that have the user as a member count.
        _ => {
            for line in entries(group, 4).filter(|line| line[3].split(',').any(|member| member == user.name))
            {
                user.groups.extend(id(line[2]).filter(|gid| *gid != user.gid));
            }
        }
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nvcap:x:1000:1000::/home/vcap:/bin/sh\nbroken\n7:x:77:7::/:/x\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:vcap,other\nvcap:x:1000:\nstaff:x:50:vcap\n";

    fn ids(spec: &str) -> (u32, u32, Vec<u32>) {
        let user = find_in(spec, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.groups)
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(ids(""), (0, 0, vec![]));
        assert_eq!(ids("root"), (0, 0, vec![]));
        assert_eq!(ids("vcap"), (1000, 1000, vec![29, 50]));
        assert_eq!(ids("1000"), (1000, 1000, vec![29, 50]));
        assert_eq!(ids("vcap:audio"), (1000, 29, vec![]));
        assert_eq!(ids("vcap:4242"), (1000, 4242, vec![]));
        assert_eq!(ids("4711"), (4711, 0, vec![]));
        assert_eq!(ids("4711:12"), (4711, 12, vec![]));
        assert_eq!(ids("7"), (77, 7, vec![]), "a name that is a number is a name first");
        assert_eq!(find_in("vcap", PASSWD, GROUP).unwrap().home, "/home/vcap");
    }

    #[test]
    fn root_needs_no_passwd_file() {
        assert_eq!(find_in("", "", "").unwrap().home, "/root");
        assert_eq!(find_in("root", "", "").unwrap().uid, 0);
    }

    #[test]
    fn unknown_names_are_errors() {
        let error = find_in("nobody-here", PASSWD, GROUP).unwrap_err();
        assert_eq!(error, "unable to find user nobody-here: no matching entries in passwd file");
        assert!(find_in("vcap:nogroup", PASSWD, GROUP).unwrap_err().contains("nogroup"));
        for none in ["99999999999", "4294967295", "vcap:4294967295", "last"] {
            assert!(find_in(none, &format!("{PASSWD}last:x:4294967295:1::/:/x\n"), GROUP).is_err(), "{none}");
        }
    }
}

/// The fuzz targets: name, function, seeds. `cargo xtask fuzz` includes this file.
#[cfg(any(test, fuzzing))]
#[allow(clippy::type_complexity, reason = "as `backend_linux::fuzz::Target`")]
pub const FUZZ_TARGETS: &[(&str, fn(&[u8]), &[&str])] = &[("users", spec_and_files, &[])];

/// A spec on the first line, `/etc/passwd` up to an empty line, `/etc/group`.
#[cfg(any(test, fuzzing))]
fn spec_and_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (spec, files) = text.split_once('\n').unwrap_or((&text, ""));
    let (passwd, group) = files.split_once("\n\n").unwrap_or((files, ""));
    match find_in(spec, passwd, group) {
        Ok(user) => {
            assert!([user.uid, user.gid].iter().chain(&user.groups).all(|id| *id != u32::MAX), "{user:?}");
            assert!(!user.groups.contains(&user.gid), "{user:?}");
            assert!(!user.home.is_empty());
            assert!(!user.name.contains(['\n', ':']), "{user:?}");
            // Only a number, or nobody in the files, makes root of a name that is not root's.
            let named = spec.split(':').next().unwrap_or_default();
            let in_file = |name: &str| passwd.lines().any(|line| line.starts_with(&format!("{name}:")));
            let is_number = named.bytes().all(|byte| byte.is_ascii_digit() || byte == b'+');
            assert!(
                user.uid != 0 || named == "root" || is_number || in_file(named),
                "{spec:?} became {user:?}"
            );
        }
        Err(error) => assert!(error.contains("no matching entries"), "{error}"),
    }
}

#[cfg(test)]
#[path = "../../../tests/fuzz/brief.rs"]
mod brief;

#[test]
fn no_seed_and_no_mutation_breaks_a_promise() {
    brief::run(FUZZ_TARGETS, 3_000);
}
