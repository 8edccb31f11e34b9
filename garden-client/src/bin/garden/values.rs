//! Values on the command line.

use std::{str::FromStr, time::Duration};

use garden_client::protocol::{BindMount, BindMountMode, NetIn};

/// `HANDLE:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub handle: String,
    pub path: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A handle may contain colons; an absolute path shows where it ends.
        let at = text.find(":/").or_else(|| text.find(':'));
        match at.map(|at| (&text[..at], &text[at + 1..])) {
            Some((handle, path)) if !handle.is_empty() => {
                Ok(Place { handle: handle.to_owned(), path: path.to_owned() })
            }
            _ => Err("must be HANDLE:/path".to_owned()),
        }
    }
}

pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// Bytes, with a binary unit: 512M, 1GiB, 4096.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        unit => return Err(format!("{unit:?} is no unit: use K, M, G or T")),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "must be a number, as in 512M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "is too large".to_owned())
}

/// A time with its unit: 500ms, 90s, 5m, 1h.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| "must be a time, as in 90s or 5m".to_owned())?;
    let ms = match &text[digits..] {
        "" if number == 0 => 1,
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "" => return Err(format!("needs a unit, as in {number}s")),
        unit => return Err(format!("{unit:?} is no unit: use ms, s, m or h")),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| "is too long".to_owned())
}

/// `HOST:CONTAINER`.
pub fn ports(text: &str) -> Result<NetIn, String> {
    let port = |text: &str| text.parse().map_err(|_| format!("{text:?} is no port"));
    let (host, container) = text.split_once(':').ok_or("must be HOST:CONTAINER, as in 0:8080")?;
    Ok(NetIn { host_port: port(host)?, container_port: port(container)? })
}

/// `SOURCE:DESTINATION[:ro|:rw]`.
pub fn bind_mount(text: &str) -> Result<BindMount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        [source, destination] | [source, destination, "ro"] => (source, destination, BindMountMode::ReadOnly),
        [source, destination, "rw"] => (source, destination, BindMountMode::ReadWrite),
        _ => return Err("must be SOURCE:DESTINATION or SOURCE:DESTINATION:rw".to_owned()),
    };
    if !source.starts_with('/') || !destination.starts_with('/') {
        return Err("both paths must begin with a slash".to_owned());
    }
    Ok(BindMount { src_path: source.into(), dst_path: destination.into(), mode, ..BindMount::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |handle: &str, path: &str| Ok(Place { handle: handle.into(), path: path.into() });
        assert_eq!("c:/a:b".parse(), place("c", "/a:b"));
        assert_eq!("a:b:/c".parse(), place("a:b", "/c"));
        assert_eq!("c:rel".parse(), place("c", "rel"));
        assert_eq!("c:".parse(), place("c", ""));
        assert!("c".parse::<Place>().is_err() && ":/x".parse::<Place>().is_err());
    }

    #[test]
    fn amounts_have_units() {
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("0"), Ok(0));
        assert!(bytes("M").is_err() && bytes("1x").is_err() && bytes("99999999T").is_err());
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("5").is_err() && duration("-5s").is_err() && duration("1d").is_err());
    }

    #[test]
    fn ports_and_mounts() {
        assert_eq!(ports("0:8080"), Ok(NetIn { host_port: 0, container_port: 8080 }));
        assert!(ports("8080").is_err() && ports("1:70000").is_err());
        assert_eq!(bind_mount("/a:/b:rw").unwrap().mode, BindMountMode::ReadWrite);
        assert_eq!(bind_mount("/a:/b").unwrap().mode, BindMountMode::ReadOnly);
        assert!(bind_mount("/a").is_err() && bind_mount("a:/b").is_err() && bind_mount("/a:/b:x").is_err());
    }

    proptest::proptest! {
        #[test]
        fn an_amount_is_what_it_is_in_smaller_units(count in 0u64..1 << 24) {
            proptest::prop_assert_eq!(bytes(&format!("{count}G")), bytes(&format!("{}kib", count << 20)));
            proptest::prop_assert_eq!(duration(&format!("{count}h")), duration(&format!("{}ms", count * 3_600_000)));
        }

        #[test]
        fn a_place_is_put_together_again(handle in "[a-z:]{1,8}", path in "(/[a-z:]{0,4}){1,3}") {
            let place: Place = format!("{handle}:{path}").parse().unwrap();
            proptest::prop_assert_eq!(format!("{}:{}", place.handle, place.path), format!("{handle}:{path}"));
        }

        #[test]
        fn any_text_is_a_value_or_an_error(text in ".{0,20}") {
            let _ = (text.parse::<Place>(), key_value(&text), bytes(&text), duration(&text));
            let _ = ports(&text);
            if let Ok(bind) = bind_mount(&text) {
                proptest::prop_assert!(bind.src_path.starts_with('/') && bind.dst_path.starts_with('/'));
            }
        }
    }
}
