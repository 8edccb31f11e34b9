//! Who a process runs as: the accounts of the fake's only root filesystem.

use protocol::{Error, Result};

/// An account in the containers' `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's number; the group has the account's name.
    pub gid: u32,
    /// Its home directory.
    pub home: String,
}

impl User {
    /// An account whose group has the same number and whose home is `/home/NAME`.
    pub fn new(name: &str, id: u32) -> Self {
        User { name: name.into(), uid: id, gid: id, home: format!("/home/{name}") }
    }

    pub(crate) fn root() -> Self {
        User { name: "root".into(), uid: 0, gid: 0, home: "/root".into() }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// Finds `NAME`, `uid`, `uid:gid` or `user:group`; empty is root.
pub(crate) fn find(users: &[User], wanted: &str) -> Result<User> {
    let (name, group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let mut user = match name.parse::<u32>() {
        Ok(uid) => {
            let known = users.iter().find(|user| user.uid == uid).cloned();
            known.unwrap_or(User { name: String::new(), uid, gid: 0, home: "/".into() })
        }
        Err(_) if name.is_empty() => User::root(),
        Err(_) => users
            .iter()
            .find(|user| user.name == name)
            .cloned()
            .ok_or_else(|| unknown("user", name, "passwd"))?,
    };
    if let Some(group) = group {
        user.gid = match group.parse() {
            Ok(gid) => gid,
            Err(_) => users
                .iter()
                .find(|user| user.name == group)
                .map(|user| user.gid)
                .ok_or_else(|| unknown("group", group, "group"))?,
        };
    }
    Ok(user)
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::Failed { message: format!("unable to find {what} {name}: no matching entries in {file} file") }
}

pub(crate) fn passwd(users: &[User]) -> String {
    users.iter().map(|u| format!("{}:x:{}:{}::{}:/bin/sh\n", u.name, u.uid, u.gid, u.home)).collect()
}

pub(crate) fn group(users: &[User]) -> String {
    users.iter().map(|u| format!("{}:x:{}:\n", u.name, u.gid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_user_is_understood() {
        let users = [User::root(), User::new("vcap", 1000)];
        let ids = |wanted| find(&users, wanted).map(|user| (user.uid, user.gid));
        assert_eq!(ids(""), Ok((0, 0)));
        assert_eq!(ids("vcap"), Ok((1000, 1000)));
        assert_eq!(ids("1000"), Ok((1000, 1000)));
        assert_eq!(ids("77"), Ok((77, 0)));
        assert_eq!(ids("77:88"), Ok((77, 88)));
        assert_eq!(ids("root:vcap"), Ok((0, 1000)));
        let error = find(&users, "nobody").unwrap_err();
        assert_eq!(error.to_string(), "unable to find user nobody: no matching entries in passwd file");
    }
}
