//! One picture of the whole host: what a container server could leave behind, as lines that can be saved, printed and
//! compared.
//!
//! Only what others change all the time is left out: counters, ids, and what systemd makes for its own services.

mod files;
mod kernel;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    str::FromStr,
};

/// The host at one moment: by section, each line with how often it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture(BTreeMap<String, BTreeMap<String, usize>>);

/// Directories that hold a server's files, beside those for temporary ones.
const GARDEN_DIRECTORIES: &[&str] = &["/run/garden", "/var/lib/garden"];

impl Picture {
    /// Takes it.
    pub fn take() -> Self {
        let directories: Vec<PathBuf> = GARDEN_DIRECTORIES.iter().map(PathBuf::from).collect();
        let mut picture = Picture::default();
        picture.add("mount", kernel::mounts());
        picture.add("link", network::links());
        picture.add("address", network::addresses());
        picture.add("route", network::routes());
        picture.add("policy", network::policies());
        picture.add("nftables", network::nftables());
        picture.add("iptables", network::iptables());
        picture.add("cgroup", kernel::cgroups());
        picture.add("process", kernel::processes());
        picture.add("loop device", kernel::loop_devices());
        picture.add("namespaces", kernel::namespaces());
        picture.add("sysctl", kernel::sysctls());
        picture.add("device", files::devices());
        picture.add("file", files::below(&directories));
        picture.add("temporary file", files::temporary());
        picture
    }

    fn add(&mut self, section: &str, lines: Vec<String>) {
        let counts = self.0.entry(section.into()).or_default();
        for line in lines {
            // A picture's text has a line for each, so that none may hold a newline.
            *counts.entry(line.replace('\n', "\\n")).or_default() += 1;
        }
    }

    /// The lines of one section.
    pub fn section(&self, section: &str) -> Vec<&str> {
        self.0.get(section).into_iter().flatten().map(|(line, _)| line.as_str()).collect()
    }

    /// What became of it: a line for each difference to `after`, empty if there is none.
    pub fn differences(&self, after: &Picture) -> Vec<String> {
        let empty = BTreeMap::new();
        let mut differences = Vec::new();
        let sections: BTreeSet<_> = self.0.keys().chain(after.0.keys()).collect();
        for section in sections {
            let (old, new) = (self.0.get(section).unwrap_or(&empty), after.0.get(section).unwrap_or(&empty));
            let lines: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for line in lines {
                let count = |counts: &BTreeMap<String, usize>| counts.get(line).copied().unwrap_or(0);
                let (before, now) = (count(old), count(new));
                let (sign, times) = if now > before { ('+', now - before) } else { ('-', before - now) };
                for _ in 0..times {
                    differences.push(format!("{sign} {section}: {line}"));
                }
            }
        }
        differences
    }
}

/// One line for each thing: section, tab, line.
impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (section, counts) in &self.0 {
            for (line, count) in counts {
                for _ in 0..*count {
                    writeln!(f, "{section}\t{line}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Picture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut picture = Picture::default();
        for (number, line) in text.lines().enumerate() {
            let (section, line) =
                line.split_once('\t').ok_or_else(|| format!("line {}: no tab in it", number + 1))?;
            picture.add(section, vec![line.into()]);
        }
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(lines: &[(&str, &str)]) -> Picture {
        let mut picture = Picture::default();
        for (section, line) in lines {
            picture.add(section, vec![(*line).into()]);
        }
        picture
    }

    #[test]
    fn what_is_saved_is_what_is_read() {
        let taken = Picture::take();
        assert!(!taken.section("mount").is_empty());
        assert!(!taken.section("device").is_empty());
        let read: Picture = taken.to_string().parse().unwrap();
        assert_eq!(taken.differences(&read), [""; 0]);
        // Sections without a line are not in the text.
        assert_eq!(taken.to_string(), read.to_string());
    }

    #[test]
    fn what_came_and_went_is_named() {
        let before = picture(&[("mount", "/a"), ("mount", "/b"), ("link", "lo"), ("link", "lo")]);
        let after = picture(&[("mount", "/a"), ("mount", "/c"), ("link", "lo"), ("route", "x")]);
        assert_eq!(before.differences(&after), ["- link: lo", "- mount: /b", "+ mount: /c", "+ route: x"]);
        assert_eq!(before.differences(&before), [""; 0]);
    }

    #[test]
    fn a_new_temporary_directory_is_noticed() {
        let before = Picture::take();
        let directory = tempfile::Builder::new().prefix("garden-picture-").tempdir().unwrap();
        let name = directory.path().display().to_string();
        let seen =
            |picture: &Picture| picture.section("temporary file").iter().any(|line| line.contains(&name));
        assert!(!seen(&before));
        assert!(seen(&Picture::take()));
        drop(directory);
        assert!(!seen(&Picture::take()));
    }
}
