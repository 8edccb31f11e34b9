//! Options of `gdn server` that this server does not have.
//!
//! Those that name helper programs have no meaning here: they are accepted with a warning, so that an operator's
//! command line carries over. Those that carry policy, or that are not there yet, are refused with a reason: an
//! operator who asks for a rule must not be served without it.

/// Options that name helper programs and their places. Each takes a value.
const HELPERS: &[&str] = &[
    "assets-dir",
    "dadoo-bin",
    "graph-cleanup-bin",
    "init-bin",
    "iptables-bin",
    "iptables-restore-bin",
    "kawasaki-bin",
    "newgidmap-bin",
    "newuidmap-bin",
    "nstar-bin",
    "runc-root",
    "tar-bin",
];

/// Options that hand a decision to a foreign program.
const PLUGINS: &[&str] = &[
    "image-plugin",
    "image-plugin-extra-arg",
    "privileged-image-plugin",
    "privileged-image-plugin-extra-arg",
    "runtime-plugin",
    "runtime-plugin-extra-arg",
];

/// Options that hand the network to a program with a protocol of Garden's own.
const NETWORK_PLUGINS: &[&str] = &["network-plugin", "network-plugin-extra-arg"];

/// Options that FLAGS names and that have no function yet.
const NOT_YET: &[&str] = &[
    "cpu-throttling-check-interval",
    "docker-registry",
    "enable-cpu-throttling",
    "insecure-docker-registry",
    "preloaded",
    "tls-ca",
    "tls-cert",
    "tls-client-ca",
    "tls-key",
];

/// What to do with an option's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not one of these: the command line's own business.
    Ours,
    /// Accepted, without effect: the warning.
    Ignored(String),
    /// Refused: the reason.
    Refused(String),
}

/// Judges an option by its long name, without dashes.
pub(crate) fn judge(name: &str) -> Verdict {
    if HELPERS.contains(&name) {
        return Verdict::Ignored(format!(
            "--{name} is ignored: this server needs no such helper program, it does that work itself"
        ));
    }
    if NETWORK_PLUGINS.contains(&name) {
        return Verdict::Refused(format!(
            "--{name} is refused: this server does not speak the protocol of Garden's own network plug-ins; plug-ins \
             of CNI it calls by --cni-config and --cni-plugin-dir"
        ));
    }
    if PLUGINS.contains(&name) {
        return Verdict::Refused(format!(
            "--{name} is refused: plugins carry policy, and this server does not call any; remove the option if \
             its policy is not needed"
        ));
    }
    if NOT_YET.contains(&name) {
        return Verdict::Refused(format!(
            "--{name} is refused: this version does not have it yet, and will not start as if it had"
        ));
    }
    Verdict::Ours
}

/// The options that are refused.
pub(crate) fn refused_names() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().chain(NETWORK_PLUGINS).chain(NOT_YET).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_verdict() {
        assert!(matches!(judge("dadoo-bin"), Verdict::Ignored(_)));
        assert!(matches!(judge("image-plugin"), Verdict::Refused(_)));
        assert!(
            matches!(judge("network-plugin"), Verdict::Refused(reason) if reason.contains("--cni-config"))
        );
        assert!(matches!(judge("preloaded"), Verdict::Refused(_)));
        assert_eq!(judge("network-pool"), Verdict::Ours);
    }
}
