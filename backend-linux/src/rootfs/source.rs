//! What a root filesystem's URI means: pure.

use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Where a root filesystem comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Packed from the host's busybox.
    Busybox,
    /// A directory, or a tar file.
    Path(PathBuf),
}

/// Takes a spec's URI apart.
pub(super) fn parse(uri: &str) -> Result<Source> {
    if uri.is_empty() {
        return Ok(Source::Busybox);
    }
    if let Some(scheme) = scheme(uri) {
        return Err(Error::UnsupportedScheme { uri: uri.into(), scheme: scheme.into() });
    }
    let path = Path::new(uri);
    if !path.is_absolute() {
        return Err(Error::NotAbsolute { uri: uri.into() });
    }
    if uri.contains('\0') {
        return Err(Error::Missing { uri: uri.into() });
    }
    Ok(Source::Path(path.into()))
}

/// `docker` of `docker://…`, `preloaded` of `preloaded:name`; a path that only has a colon in it has no scheme.
fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let mut bytes = scheme.bytes();
    let named = bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    named.then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_absolute_path_is_a_source() {
        assert_eq!(parse("/srv/a:b").unwrap(), Source::Path("/srv/a:b".into()));
        assert_eq!(parse("").unwrap(), Source::Busybox);
    }

    #[test]
    fn a_scheme_that_is_not_known_is_named_with_what_works() {
        for (uri, scheme) in [
            ("docker:///busybox", "docker"),
            ("oci:///srv/image#1", "oci"),
            ("preloaded:base", "preloaded"),
            ("raw:///srv", "raw"),
        ] {
            let text = parse(uri).unwrap_err().to_string();
            for part in [uri, scheme, "not supported yet by this version", ".tar.gz"] {
                assert!(text.contains(part), "{text:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn a_relative_path_is_refused() {
        assert!(matches!(parse("srv/image"), Err(Error::NotAbsolute { .. })));
    }

    proptest! {
        #[test]
        fn whatever_the_uri_a_path_source_is_absolute(uri in ".{0,60}") {
            if let Ok(Source::Path(path)) = parse(&uri) {
                prop_assert!(path.is_absolute());
            }
        }
    }
}
