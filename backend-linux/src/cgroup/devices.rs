//! Which devices containers may use: rules, and how a group gets them.
//!
//! On v1 the rules are written into each container's group, which takes 23 µs (attaching a program: 6).
//! On v2 they are one program for all containers, loaded when the server starts.

use std::{fmt, fs, io::Write, path::Path, str::FromStr};

use crate::sys;

use super::{Cgroups, Error, Place, Result, device_program};

/// The kernel's numbers for devices are this wide.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// Whether a container is kept to the list of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// It has those of the list only.
    Listed,
    /// It has what the server itself has.
    All,
}

/// The two kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Char,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

/// Devices that containers may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// None: both.
    pub(super) kind: Option<Kind>,
    /// None: all.
    pub(super) major: Option<u32>,
    /// None: all.
    pub(super) minor: Option<u32>,
    pub(super) access: Access,
}

const ALL: Access = Access { read: true, write: true, mknod: true };
const MKNOD: Access = Access { read: false, write: false, mknod: true };

const fn rule(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> DeviceRule {
    DeviceRule { kind: Some(kind), major, minor, access }
}

/// What every container may use: it may make any node, as nodes alone give nothing, and use those of its `/dev`.
const DEFAULT: [DeviceRule; 11] = [
    rule(Kind::Char, None, None, MKNOD),
    rule(Kind::Block, None, None, MKNOD),
    rule(Kind::Char, Some(1), Some(3), ALL), // null
    rule(Kind::Char, Some(1), Some(5), ALL), // zero
    rule(Kind::Char, Some(1), Some(7), ALL), // full
    rule(Kind::Char, Some(1), Some(8), ALL), // random
    rule(Kind::Char, Some(1), Some(9), ALL), // urandom
    rule(Kind::Char, Some(5), Some(0), ALL), // tty
    rule(Kind::Char, Some(5), Some(1), ALL), // console
    rule(Kind::Char, Some(5), Some(2), ALL), // ptmx
    rule(Kind::Char, Some(136), None, ALL),  // pts
];

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no device rule: write a type (a, b or c), numbers or `*`, and what of rwm is allowed, as in \
     \"c 10:229 rwm\""
)]
pub struct DeviceRuleError {
    text: String,
}

impl FromStr for DeviceRule {
    type Err = DeviceRuleError;

    /// As `docker run --device-cgroup-rule` has it.
    fn from_str(text: &str) -> std::result::Result<Self, DeviceRuleError> {
        parse(text).ok_or_else(|| DeviceRuleError { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<DeviceRule> {
    let mut words = text.split(' ');
    let (kind, numbers, letters) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = numbers.split_once(':')?;
    if words.next().is_some() || letters.is_empty() {
        return None;
    }
    let kind = match kind {
        "a" => None,
        "b" => Some(Kind::Block),
        "c" => Some(Kind::Char),
        _ => return None,
    };
    let mut access = Access { read: false, write: false, mknod: false };
    for letter in letters.bytes() {
        let allowed = match letter {
            b'r' => &mut access.read,
            b'w' => &mut access.write,
            b'm' => &mut access.mknod,
            _ => return None,
        };
        if std::mem::replace(allowed, true) {
            return None;
        }
    }
    Some(DeviceRule { kind, major: number(major, MAJOR_MAX)?, minor: number(minor, MINOR_MAX)?, access })
}

fn number(text: &str, max: u32) -> Option<Option<u32>> {
    if text == "*" {
        return Some(None);
    }
    // No sign, and no leading zero, which some would read as octal.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number: u32 = text.parse().ok().filter(|number| plain && *number <= max)?;
    Some(Some(number))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Block => "b",
            Kind::Char => "c",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.read, "r"), (self.write, "w"), (self.mknod, "m")];
        letters.into_iter().filter(|(allowed, _)| *allowed).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        match self.kind {
            Some(kind) => write!(f, "{kind}")?,
            None => f.write_str("a")?,
        }
        write!(f, " {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// The whole list, each rule for one kind of device: to the kernel's v1 files "a" means everything, whatever follows.
fn list(more: &[DeviceRule]) -> Vec<DeviceRule> {
    let kinds = |rule: &DeviceRule| match rule.kind {
        Some(kind) => vec![kind],
        None => vec![Kind::Block, Kind::Char],
    };
    let all = DEFAULT.iter().chain(more);
    all.flat_map(|rule| kinds(rule).into_iter().map(|kind| DeviceRule { kind: Some(kind), ..*rule }))
        .collect()
}

/// How this host's groups are kept to the list.
#[derive(Debug)]
pub(super) enum DeviceList {
    /// By what is written into each group.
    V1(Vec<DeviceRule>),
    /// By a program that is attached to each group.
    V2(sys::DeviceProgram),
    /// Not at all.
    None,
}

impl DeviceList {
    /// By v1 where that is there: v2's program would be asked as well, but says nothing else.
    pub(super) fn new(place: Option<Place<'_>>, has_v2: bool, more: &[DeviceRule]) -> DeviceList {
        let rules = list(more);
        if matches!(place, Some(Place::V1(_))) {
            return DeviceList::V1(rules);
        }
        if !has_v2 {
            return DeviceList::None;
        }
        match sys::DeviceProgram::load(&device_program::assemble(&rules)) {
            Ok(program) => DeviceList::V2(program),
            Err(error) => {
                tracing::warn!(%error, "the kernel does not take a program for the list of devices");
                DeviceList::None
            }
        }
    }
}

impl Cgroups {
    /// Keeps a new group of ours to the list of devices. Before anything enters it.
    pub(super) fn restrict_devices(&self, directory: &str) -> Result<()> {
        match (&self.devices, self.place("devices"), &self.v2) {
            (DeviceList::V1(rules), Some(Place::V1(base)), _) => write_rules(&base.join(directory), rules),
            (DeviceList::V2(program), _, Some(v2)) => {
                let group = v2.base.join(directory);
                let attached = fs::File::open(&group).and_then(|opened| program.attach(&opened));
                attached.map_err(|source| Error::DeviceProgram { group, source })
            }
            _ => Ok(()),
        }
    }
}

/// The files stay open over their writes: opening one costs as much as several writes.
fn write_rules(group: &Path, rules: &[DeviceRule]) -> Result<()> {
    let write_all = |name: &str, values: &mut dyn Iterator<Item = String>| -> Result<()> {
        let path = group.join(name);
        let failed = |value: &str, source| Error::Write { file: path.clone(), value: value.into(), source };
        let mut file = fs::OpenOptions::new().write(true).open(&path).map_err(|source| failed("", source))?;
        for value in values {
            file.write_all(value.as_bytes()).map_err(|source| failed(&value, source))?;
        }
        Ok(())
    };
    write_all("devices.deny", &mut std::iter::once("a".to_owned()))?;
    write_all("devices.allow", &mut rules.iter().map(DeviceRule::to_string))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::cgroup) fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))];
        let major = proptest::option::of(0..=MAJOR_MAX);
        let minor = proptest::option::of(0..=MINOR_MAX);
        let access = (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_filter("something", |(read, write, mknod)| *read || *write || *mknod)
            .prop_map(|(read, write, mknod)| Access { read, write, mknod });
        (kind, major, minor, access).prop_map(|(kind, major, minor, access)| DeviceRule {
            kind,
            major,
            minor,
            access,
        })
    }

    #[test]
    fn rules_are_read_as_docker_has_them() {
        let fuse = DeviceRule { kind: Some(Kind::Char), major: Some(10), minor: Some(229), access: ALL };
        assert_eq!("c 10:229 rwm".parse(), Ok(fuse));
        assert_eq!("c 10:229 mwr".parse(), Ok(fuse));
        let any = DeviceRule {
            kind: None,
            major: None,
            minor: None,
            access: Access { read: true, write: false, mknod: false },
        };
        assert_eq!("a *:* r".parse(), Ok(any));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "c",
            "c 1:3",
            "c 1:3 ",
            "c 1:3 x",
            "c 1:3 rr",
            "c 1:3 rwmr",
            "d 1:3 r",
            "C 1:3 r",
            "c 1 r",
            "c :3 r",
            "c 1: r",
            "c -1:3 r",
            "c +1:3 r",
            "c 01:3 r",
            "c 1:3 r ",
            " c 1:3 r",
            "c  1:3 r",
            "c 4096:0 r",
            "c 1:1048576 r",
            "c 1:3 r\nc 1:4 r",
            "c **:3 r",
            "c 1:3:4 r",
            "c\t1:3\tr",
        ] {
            assert!(text.parse::<DeviceRule>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_rule_for_both_kinds_becomes_one_for_each() {
        let texts: Vec<String> =
            list(&["a 7:* rw".parse().unwrap()]).iter().map(DeviceRule::to_string).collect();
        assert_eq!(texts[DEFAULT.len()..], ["b 7:* rw", "c 7:* rw"]);
        assert!(texts.iter().all(|text| !text.starts_with('a')), "{texts:?}");
    }

    proptest! {
        #[test]
        fn a_rule_is_read_as_it_is_written(rule in any_rule()) {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }

        #[test]
        fn any_text_is_a_rule_or_an_error(text in "[abc ]{0,2}[0-9*: ]{0,12}[rwm ]{0,4}|.{0,20}") {
            if let Ok(rule) = text.parse::<DeviceRule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
                prop_assert!(rule.major.is_none_or(|major| major <= MAJOR_MAX));
            }
        }
    }
}
