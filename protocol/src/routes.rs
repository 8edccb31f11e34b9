//! The one table of routes, read by the server (which request is this?) and the client (where does this go?).

use std::{borrow::Cow, sync::LazyLock};

use crate::{Error, Result, extension};

/// Every operation of the protocol, and of its [extension](mod@crate::extension).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Route {
    Ping,
    Capacity,
    List,
    Create,
    BulkInfo,
    BulkMetrics,
    Info,
    Destroy,
    Stop,
    SetGraceTime,
    StreamIn,
    StreamOut,
    BandwidthLimits,
    CpuLimits,
    DiskLimits,
    MemoryLimits,
    NetIn,
    NetOut,
    BulkNetOut,
    Run,
    Attach,
    Stdout,
    Stderr,
    Properties,
    Property,
    SetProperty,
    RemoveProperty,
    Metrics,
    StartProcess,
    ProcessStatus,
    ProcessResult,
    SignalProcess,
    ProcessStream,
    ReplaceNetOut,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct RouteDef {
    /// The operation.
    pub route: Route,
    /// Its name for logs and metrics.
    pub name: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The path; a segment that begins with a colon is a parameter.
    pub path: &'static str,
    /// Whether the connection is handed over to a raw stream after the response's head.
    pub hijacked: bool,
}

pub(crate) const fn ordinary(
    route: Route,
    name: &'static str,
    method: &'static str,
    path: &'static str,
) -> RouteDef {
    RouteDef { route, name, method, path, hijacked: false }
}

const fn hijacked(route: Route, name: &'static str, method: &'static str, path: &'static str) -> RouteDef {
    RouteDef { route, name, method, path, hijacked: true }
}

/// All routes of the protocol; those beside it are [`extension::ROUTES`]. Fixed segments come before parameters in
/// their place (`bulk_info` before `:handle`).
pub const ROUTES: &[RouteDef] = &[
    ordinary(Route::Ping, "ping", "GET", "/ping"),
    ordinary(Route::Capacity, "capacity", "GET", "/capacity"),
    ordinary(Route::Create, "create", "POST", "/containers"),
    ordinary(Route::List, "list", "GET", "/containers"),
    ordinary(Route::BulkInfo, "bulk_info", "GET", "/containers/bulk_info"),
    ordinary(Route::BulkMetrics, "bulk_metrics", "GET", "/containers/bulk_metrics"),
    ordinary(Route::Destroy, "destroy", "DELETE", "/containers/:handle"),
    ordinary(Route::Info, "info", "GET", "/containers/:handle/info"),
    ordinary(Route::Stop, "stop", "PUT", "/containers/:handle/stop"),
    ordinary(Route::SetGraceTime, "set_grace_time", "PUT", "/containers/:handle/grace_time"),
    ordinary(Route::StreamIn, "stream_in", "PUT", "/containers/:handle/files"),
    ordinary(Route::StreamOut, "stream_out", "GET", "/containers/:handle/files"),
    ordinary(Route::BandwidthLimits, "bandwidth_limits", "GET", "/containers/:handle/limits/bandwidth"),
    ordinary(Route::CpuLimits, "cpu_limits", "GET", "/containers/:handle/limits/cpu"),
    ordinary(Route::DiskLimits, "disk_limits", "GET", "/containers/:handle/limits/disk"),
    ordinary(Route::MemoryLimits, "memory_limits", "GET", "/containers/:handle/limits/memory"),
    ordinary(Route::NetIn, "net_in", "POST", "/containers/:handle/net/in"),
    ordinary(Route::NetOut, "net_out", "POST", "/containers/:handle/net/out"),
    ordinary(Route::BulkNetOut, "bulk_net_out", "POST", "/containers/:handle/net/out/bulk"),
    hijacked(Route::Run, "run", "POST", "/containers/:handle/processes"),
    hijacked(Route::Attach, "attach", "GET", "/containers/:handle/processes/:pid"),
    hijacked(Route::Stdout, "stdout", "GET", "/containers/:handle/processes/:pid/attaches/:streamid/stdout"),
    hijacked(Route::Stderr, "stderr", "GET", "/containers/:handle/processes/:pid/attaches/:streamid/stderr"),
    ordinary(Route::Properties, "properties", "GET", "/containers/:handle/properties"),
    ordinary(Route::Property, "property", "GET", "/containers/:handle/properties/:key"),
    ordinary(Route::SetProperty, "set_property", "PUT", "/containers/:handle/properties/:key"),
    ordinary(Route::RemoveProperty, "remove_property", "DELETE", "/containers/:handle/properties/:key"),
    ordinary(Route::Metrics, "metrics", "GET", "/containers/:handle/metrics"),
];

/// What a method and a path lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// A route, with the decoded values of its parameters in the path's order.
    Found(Route, Vec<String>),
    /// The path exists, for these methods only: 405 with `Allow`.
    MethodNotAllowed(String),
    /// No such path: 404.
    NotFound,
    /// The path has an escape that is none: 400.
    BrokenEscape,
}

impl Route {
    /// This route's line of the table.
    pub fn def(self) -> &'static RouteDef {
        // Total: `each_route_has_one_line` holds the table to it.
        all().find(|def| def.route == self).unwrap_or(&ROUTES[0])
    }

    /// The path for these parameters, escaped.
    pub fn path(self, parameters: &[&str]) -> String {
        let mut parameters = parameters.iter();
        let mut path = String::new();
        for segment in self.def().path.split('/').skip(1) {
            path.push('/');
            match segment.strip_prefix(':') {
                Some(_) => path.push_str(&escape(parameters.next().copied().unwrap_or_default())),
                None => path.push_str(segment),
            }
        }
        path
    }
}

/// More than any route has: what is longer is found nowhere.
const SEGMENTS_MAX: usize = 8;

/// A line of the table, its path taken apart.
struct Pattern {
    def: &'static RouteDef,
    segments: Vec<&'static str>,
}

impl Pattern {
    /// The decoded parameters, if the path is one of this pattern's.
    fn parameters(&self, path: &[&str]) -> Option<Vec<String>> {
        let is_parameter = |wanted: &&str| wanted.starts_with(':');
        let fits =
            |(wanted, given): (&&str, &&str)| wanted == given || (is_parameter(wanted) && !given.is_empty());
        if path.len() != self.segments.len() || !self.segments.iter().zip(path).all(fits) {
            return None;
        }
        let values = self.segments.iter().zip(path).filter(|(wanted, _)| is_parameter(wanted));
        values.map(|(_, given)| unescape(given)).collect()
    }
}

static PATTERNS: LazyLock<Vec<Pattern>> =
    LazyLock::new(|| all().map(|def| Pattern { def, segments: def.path.split('/').collect() }).collect());

fn all() -> impl Iterator<Item = &'static RouteDef> {
    ROUTES.iter().chain(extension::ROUTES)
}

/// Finds the route of a request by its method and raw (still escaped) path.
pub fn find(method: &str, path: &str) -> Match {
    let mut segments = [""; SEGMENTS_MAX];
    let mut count = 0;
    for segment in path.split('/') {
        let Some(place) = segments.get_mut(count) else { return no_route(path) };
        *place = segment;
        count += 1;
    }
    let mut allowed: Vec<&str> = Vec::new();
    for pattern in PATTERNS.iter() {
        let Some(parameters) = pattern.parameters(&segments[..count]) else { continue };
        if pattern.def.method == method {
            return Match::Found(pattern.def.route, parameters);
        }
        if !allowed.contains(&pattern.def.method) {
            allowed.push(pattern.def.method);
        }
    }
    if allowed.is_empty() { no_route(path) } else { Match::MethodNotAllowed(allowed.join(", ")) }
}

fn no_route(path: &str) -> Match {
    if unescape(path).is_none() { Match::BrokenEscape } else { Match::NotFound }
}

/// Undoes query escaping: `%2F` is `/`, `+` a space. None for a broken escape; bytes that are not UTF-8 become
/// U+FFFD.
pub fn unescape(text: &str) -> Option<String> {
    // No early exit: so it is done many bytes at a time.
    if !text.bytes().fold(false, |any, byte| any | matches!(byte, b'+' | b'%')) {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || (rest.next()? as char).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(match String::from_utf8_lossy(&bytes) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    })
}

/// Escapes text for a path segment or a query, so that [`unescape`] gives it back.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The pairs of a query string, in order, decoded. A pair with a broken escape or an unescaped semicolon is an error:
/// the reference leaves such pairs out, so that a filter of which one is missing finds more than was asked for.
pub fn query_pairs(query: &str) -> Result<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| if text.contains(';') { None } else { unescape(text) };
        decode(key).zip(decode(value)).ok_or_else(|| Error::BadRequest {
            reason: format!("the query's {pair:?} cannot be understood: write % as %25 and ; as %3B"),
        })
    });
    decoded.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_one_line() {
        assert_eq!(ROUTES.len(), 28);
        for def in all() {
            assert_eq!(all().filter(|other| other.route == def.route).count(), 1, "{:?}", def.route);
            assert_eq!(all().filter(|other| other.name == def.name).count(), 1, "{}", def.name);
        }
    }

    #[test]
    fn what_is_ours_is_below_v1_and_nothing_else_is() {
        assert!(extension::ROUTES.iter().all(|def| def.path.starts_with("/v1/")));
        assert!(!ROUTES.iter().any(|def| def.path.starts_with("/v1")));
    }

    #[test]
    fn each_route_finds_itself() {
        for def in all() {
            let parameters: Vec<&str> =
                def.path.split('/').filter(|s| s.starts_with(':')).map(|_| "a/b c+%é").collect();
            let found = find(def.method, &def.route.path(&parameters));
            assert_eq!(found, Match::Found(def.route, parameters.iter().map(|p| (*p).to_owned()).collect()));
        }
    }

    #[test]
    fn a_path_with_another_method_says_which_are_allowed() {
        assert_eq!(find("PATCH", "/containers"), Match::MethodNotAllowed("POST, GET".into()));
        assert_eq!(find("GET", "/nosuch"), Match::NotFound);
        assert_eq!(find("GET", "/containers/c/properties/a/b"), Match::NotFound);
        assert_eq!(find("DELETE", "/containers/"), Match::NotFound);
    }

    #[test]
    fn a_path_is_what_it_is() {
        for path in [
            "",
            "/",
            "*",
            "/ping/",
            "//ping",
            "/./ping",
            "/containers/../ping",
            "/PING",
            "/containers//info",
            "/containers/c/",
            "/containers/c//info",
            "/containers/c/properties/../x",
            "/ping;v=1",
            "ping",
        ] {
            assert_eq!(find("GET", path), Match::NotFound, "{path}");
        }
        assert_eq!(find("get", "/ping"), Match::MethodNotAllowed("GET".into()), "methods have a case");
        // Two dots are a handle like another here; what cannot be a container's is refused by its name.
        assert_eq!(find("GET", "/containers/../info"), Match::Found(Route::Info, vec!["..".into()]));
        // A fixed segment is not found under an escape, a handle is: so that every handle can be named.
        assert_eq!(find("GET", "/containers/bulk%5Finfo"), Match::MethodNotAllowed("DELETE".into()));
        assert_eq!(
            find("DELETE", "/containers/bulk_info"),
            Match::Found(Route::Destroy, vec!["bulk_info".into()])
        );
        assert_eq!(find("PATCH", "/containers/bulk_info"), Match::MethodNotAllowed("GET, DELETE".into()));
    }

    #[test]
    fn a_broken_escape_is_told_from_a_path_that_is_not_there() {
        for path in
            ["/containers/a%zz", "/containers/a%2", "/containers/%", "/%", "/nosuch/%G0/x", "/containers/%+1"]
        {
            assert_eq!(find("GET", path), Match::BrokenEscape, "{path}");
        }
    }

    #[test]
    fn a_query_is_decoded_as_a_form() {
        for (query, pairs) in [
            ("", &[][..]),
            ("a=1&a=2", &[("a", "1"), ("a", "2")]),
            ("a&b=&=c&=", &[("a", ""), ("b", ""), ("", "c"), ("", "")]),
            ("&&a=1&", &[("a", "1")]),
            ("a+b=c+d%2B%2c", &[("a b", "c d+,")]),
            ("a=b=c&%61=%62%26", &[("a", "b=c"), ("a", "b&")]),
            ("a=%00&b=%ff&c=%C3%A9&d=é", &[("a", "\0"), ("b", "\u{fffd}"), ("c", "é"), ("d", "é")]),
            ("a=1%3B2&garden.state=all&a/b?c=d", &[("a", "1;2"), ("garden.state", "all"), ("a/b?c", "d")]),
        ] {
            let pairs: Vec<_> =
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(query_pairs(query).unwrap(), pairs, "{query}");
        }
        for (query, pair) in
            [("a=1&b=%zz", "b=%zz"), ("%=1", "%=1"), ("a=%2", "a=%2"), ("a=1;b=2&c=3", "a=1;b=2")]
        {
            let error = query_pairs(query).unwrap_err().to_string();
            assert!(error.contains(&format!("{pair:?}")), "{query}: {error}");
        }
    }

    #[test]
    fn path_parameters_are_unescaped_as_queries_are() {
        let found = find("GET", "/containers/h/properties/p+q%2Fr");
        assert_eq!(found, Match::Found(Route::Property, vec!["h".into(), "p q/r".into()]));
    }

    proptest::proptest! {
        #[test]
        fn unescape_undoes_escape(text in ".*") {
            proptest::prop_assert_eq!(unescape(&escape(&text)), Some(text));
        }

        #[test]
        fn no_path_panics(method in "[A-Z]{1,8}", path in ".*") {
            find(&method, &path);
            let _ = query_pairs(&path);
        }
    }
}
