//! Which capabilities this server lacks, and what containers miss for it.

use rustix::thread::{CapabilitySet, capabilities};

/// Without these no container can be made.
const NEEDED: [(CapabilitySet, &str); 9] = [
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::MKNOD, "CAP_MKNOD"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
];

/// The capabilities that privileged containers have where the host has them: 0 to 37.
const PRIVILEGED: u64 = 0x3f_ffff_ffff;

/// What a set of capabilities is too small for.
#[derive(Debug, PartialEq, Eq)]
pub struct Lacking {
    /// By name: without these nothing works.
    pub needed: Vec<&'static str>,
    /// A sentence for each thing that containers do without.
    pub consequences: Vec<String>,
}

/// What this process lacks.
pub fn lacking() -> std::io::Result<Lacking> {
    Ok(lacking_of(capabilities(None)?.effective))
}

fn lacking_of(have: CapabilitySet) -> Lacking {
    let needed = NEEDED.iter().filter(|(capability, _)| !have.contains(*capability));
    let mut consequences = Vec::new();
    if !have.contains(CapabilitySet::SYS_RESOURCE) {
        consequences.push(
            "CAP_SYS_RESOURCE is missing: a process whose limits (rlimits) are above the server's own hard ones \
             gets those"
                .to_owned(),
        );
    }
    let fewer = PRIVILEGED & !have.bits();
    if fewer != 0 {
        consequences
            .push(format!("privileged containers lack the capabilities {fewer:#018x}, as this server does"));
    }
    Lacking { needed: needed.map(|(_, name)| *name).collect(), consequences }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_all_capabilities_nothing_is_lacking() {
        let all = CapabilitySet::from_bits_retain(PRIVILEGED);
        assert_eq!(lacking_of(all), Lacking { needed: vec![], consequences: vec![] });
    }

    #[test]
    fn what_is_lacking_is_said_with_what_it_costs() {
        let all = CapabilitySet::from_bits_retain(PRIVILEGED);
        let found = lacking_of(all - CapabilitySet::SYS_RESOURCE);
        assert!(found.needed.is_empty());
        assert!(found.consequences[0].contains("rlimits"), "{found:?}");
        assert!(found.consequences[1].contains("0x0000000001000000"), "{found:?}");
        let found = lacking_of(all - CapabilitySet::SYS_ADMIN - CapabilitySet::NET_ADMIN);
        assert_eq!(found.needed, ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
    }
}
