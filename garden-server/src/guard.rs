//! Refuses what a browser sends for somebody else's page.
//!
//! Whoever can send a request is root on the host, and a browser on the host sends requests for any page. Two rules,
//! besides that a page can make no unix socket's request at all unless something forwards it:
//!
//! - **Origin.** Browsers add it to what a page sends elsewhere, and to most of what it sends home. It must name the
//!   very host that the request is for (`Host`); `null` is foreign. So is any `Sec-Fetch-Site` but `same-origin` and
//!   `none` (typed by the user), which newer browsers also send where they leave `Origin` out. Other clients send
//!   neither.
//! - **Host, on TCP.** A page whose own name was made to resolve to our address (DNS rebinding) is of the same
//!   origin to the browser. Its name gives it away: `Host` must be an IP address, `localhost` or a name below it,
//!   `api` (what the Go client says on every socket), or a name that the operator allowed. A request without `Host`
//!   is from no browser. On a unix socket any `Host` will do.

use std::{net::IpAddr, sync::Arc};

use hyper::{
    HeaderMap, StatusCode,
    header::{HOST, HeaderName, ORIGIN},
};

use crate::{connection::has, response};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(String);

impl Refusal {
    pub(crate) fn into_response(self) -> warp::reply::Response {
        response::error(StatusCode::FORBIDDEN, &protocol::Error::BadRequest { reason: self.0 })
    }
}

/// The rules of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) allowed_hosts: Arc<[String]>,
}

impl Guard {
    /// Refuses a request that a browser sent for another site.
    pub(crate) fn check(&self, headers: &HeaderMap, over_tcp: bool) -> Result<(), Refusal> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("(not text)"));
        if over_tcp
            && let Some(host) = text(HOST)
            && !is_known(host, &self.allowed_hosts)
        {
            return Err(Refusal(format!(
                "Host: {host:?} is not a name of this server: call it by its address, or start it with \
                 --allowed-host {}",
                name_of(host)
            )));
        }
        // What only browsers send is looked for once.
        if !has(headers, &ORIGIN) && !has(headers, &SEC_FETCH_SITE) {
            return Ok(());
        }
        if let Some(origin) = text(ORIGIN) {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            if authority.is_none() || authority != text(HOST) {
                return Err(Refusal(format!("Origin: {origin:?} is another site")));
            }
        }
        match text(SEC_FETCH_SITE) {
            None | Some("same-origin" | "none") => Ok(()),
            Some(site) => Err(Refusal(format!("Sec-Fetch-Site: {site:?}: sent for another site"))),
        }
    }
}

fn is_known(host: &str, allowed_hosts: &[String]) -> bool {
    let name = name_of(host);
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    is("api")
        || is("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
        || allowed_hosts.iter().any(|allowed| is(allowed))
}

/// The name in a `Host`, without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_headers(over_tcp: bool, headers: &[(&'static str, &str)]) -> bool {
        let map = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let guard = Guard { allowed_hosts: ["garden.example".to_owned()].into() };
        guard.check(&map, over_tcp).is_ok()
    }

    #[test]
    fn clients_are_let_in() {
        for host in
            ["api", "127.0.0.1:7777", "[::1]:7777", "::1", "localhost:7777", "LOCALHOST", "a.localhost"]
        {
            assert!(check_headers(true, &[("host", host)]), "{host}");
        }
        assert!(check_headers(true, &[]));
        assert!(check_headers(true, &[("host", "garden.example:7777")]));
        assert!(check_headers(false, &[("host", "anything")]));
        assert!(check_headers(true, &[("host", "localhost:7777"), ("origin", "http://localhost:7777")]));
        assert!(check_headers(true, &[("host", "localhost"), ("sec-fetch-site", "none")]));
    }

    #[test]
    fn pages_of_other_sites_are_not() {
        for host in
            ["evil.example", "evil.example:7777", "127.0.0.1.evil.example", "localhost.evil.example", ""]
        {
            assert!(!check_headers(true, &[("host", host)]), "{host}");
        }
        for origin in ["null", "http://evil.example", "http://localhost:80", "http://localhost"] {
            let headers = [("host", "localhost:7777"), ("origin", origin)];
            assert!(!check_headers(true, &headers), "{origin}");
            assert!(!check_headers(false, &headers), "{origin}");
        }
        assert!(!check_headers(true, &[("host", "localhost"), ("sec-fetch-site", "cross-site")]));
    }

    proptest::proptest! {
        #[test]
        fn a_name_below_anothers_domain_is_not_ours(name in "[a-z0-9.-]{0,20}", port in "(:[0-9]{1,5})?") {
            let (foreign, ours) = (format!("{name}.evil.example{port}"), format!("{name}.localhost{port}"));
            proptest::prop_assert!(!is_known(&foreign, &[]), "{}", foreign);
            proptest::prop_assert!(is_known(&ours, &[]), "{}", ours);
        }

        #[test]
        fn a_host_without_its_port_is_a_part_of_it(host in ".{0,30}") {
            proptest::prop_assert!(host.starts_with(name_of(&host)));
            is_known(&host, &[]);
        }
    }
}
