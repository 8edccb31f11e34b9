//! The fixed chains.
//!
//! They drop, reject and translate what comes from or goes to our own links and published ports. What passes goes back
//! to the chain that ours was called from, by RETURN, so that operators' rules keep their effect: what is entered by
//! `-g` returns over the head of the chain before it. Whether a packet is a container's is told by the name of the
//! link, not by the address: containers may have addresses outside of the pool.

use ipnetwork::IpNetwork;

use super::text::{Batch, Family, Names, Part};
use crate::network::{firewall::Policy, link::CONTAINERS_GROUP};

const ESTABLISHED: &str = "-m conntrack --ctstate RELATED,ESTABLISHED";
const NOT_TRANSLATED: &str = "-m conntrack ! --ctstate DNAT";

/// What leads from the kernel's chains to ours: table, chain, condition, ours. Before what others have there.
pub const ENTRANCES: [(&str, &str, &str, Part); 6] = [
    ("raw", "PREROUTING", "", Part::Raw),
    ("nat", "PREROUTING", "-m addrtype --dst-type LOCAL", Part::Ports),
    ("nat", "OUTPUT", "-m addrtype --dst-type LOCAL", Part::Ports),
    ("nat", "POSTROUTING", "", Part::Masquerade),
    ("filter", "FORWARD", "", Part::Forward),
    ("filter", "INPUT", "", Part::Input),
];

/// Chains that containers have rules in: table, chain, and where they lead after those.
pub const SHARED: [(&str, Part, Option<Part>); 4] = [
    ("nat", Part::Ports, None),
    ("nat", Part::Hairpin, None),
    ("filter", Part::Neighbours, Some(Part::Apart)),
    ("filter", Part::Outbound, Some(Part::Denied)),
];

/// A shared chain without what containers have in it.
pub fn shared(batch: &mut Batch, names: &Names, (table, part, then): (&str, Part, Option<Part>)) {
    let Some(lines) = batch.table(table) else { return };
    let chain = names.chain(part);
    lines.empty_chain(&chain);
    if let Some(then) = then {
        lines.append(&chain, format_args!("-g {}", names.chain(then)));
    }
}

/// The chains of a family in which containers have addresses, without those that are shared.
pub fn open(family: Family, names: &Names, policy: &Policy) -> Batch {
    let mut batch = Batch::default();
    let links = format!("{}+", policy.link_prefix);
    raw(&mut batch, family, names, policy, &links);
    masquerade(&mut batch, family, names, &links);
    forward(&mut batch, family, names, policy, &links);
    input(&mut batch, family, names, policy, &links);

    let passage = names.chain(Part::Passage);
    batch.filter.empty_chain(&passage);
    // Whoever calls this chain may do so before the other is called.
    batch.filter.append(&passage, format_args!("-j {}", names.chain(Part::Forward)));
    batch.filter.append(&passage, format_args!("-i {links} -j ACCEPT"));
    batch.filter.append(&passage, format_args!("-o {links} {ESTABLISHED} -j ACCEPT"));
    batch.filter.append(&passage, format_args!("-o {links} -m conntrack --ctstate DNAT -j ACCEPT"));
    batch
}

/// The chain of a family in which containers have no addresses: what they send all the same goes nowhere.
pub fn closed(names: &Names, policy: &Policy) -> Batch {
    let mut batch = Batch::default();
    let chain = names.chain(Part::Raw);
    batch.raw.empty_chain(&chain);
    batch.raw.append(&chain, format_args!("-i {}+ -j DROP", policy.link_prefix));
    batch
}

fn raw(batch: &mut Batch, family: Family, names: &Names, policy: &Policy, links: &str) {
    let chain = names.chain(Part::Raw);
    batch.raw.empty_chain(&chain);
    // The host reaches published ports by its loopback because our links route it (route_localnet). Others must not
    // reach what listens on the loopback through that: CVE-2020-8558.
    batch.raw.append(&chain, format_args!("! -i lo -d {} -j DROP", family.loopback()));
    if policy.check_sources {
        // The host has one route by each link, to the container's address: what has another source would not be
        // answered by that link. The kernel lets some through that it would not answer at all.
        let unanswered: &[&str] = match family {
            Family::V4 => &["0.0.0.0/8"],
            Family::V6 => &["::/128", "fe80::/10"],
        };
        for source in unanswered {
            batch.raw.append(&chain, format_args!("-i {links} -s {source} -j DROP"));
        }
        batch.raw.append(&chain, format_args!("-i {links} -m rpfilter --invert -j DROP"));
    }
}

fn masquerade(batch: &mut Batch, family: Family, names: &Names, links: &str) {
    let chain = names.chain(Part::Masquerade);
    batch.nat.empty_chain(&chain);
    batch.nat.append(&chain, format_args!("-i {links} ! -o {links} -j MASQUERADE"));
    // From the host's loopback to a published port.
    batch.nat.append(&chain, format_args!("-s {} -o {links} -j MASQUERADE", family.loopback()));
    batch.nat.append(&chain, format_args!("-g {}", names.chain(Part::Hairpin)));
}

fn forward(batch: &mut Batch, family: Family, names: &Names, policy: &Policy, links: &str) {
    let lines = &mut batch.filter;
    let chain = names.chain(Part::Forward);
    lines.empty_chain(&chain);
    lines.append(&chain, format_args!("{ESTABLISHED} -j RETURN"));
    // What neither begins a connection nor belongs to one: nothing is known of where it was meant to go.
    lines.append(&chain, format_args!("-i {links} -m conntrack ! --ctstate NEW -j DROP"));
    // Nor do containers of another server on this host reach ours.
    lines.append(
        &chain,
        format_args!(
            "-m devgroup --src-group {CONTAINERS_GROUP:#x} ! -i {links} -o {links} {NOT_TRANSLATED} -j {}",
            family.reject()
        ),
    );
    lines.append(&chain, format_args!("! -i {links} -j RETURN"));
    lines.append(&chain, format_args!("-o {links} -g {}", names.chain(Part::Neighbours)));
    // Nor out to the world under the address of a container that is not there.
    if let Some(pool) = pool(family, policy) {
        lines.append(&chain, format_args!("-d {pool} {NOT_TRANSLATED} -j {}", family.reject()));
    }
    lines.append(&chain, format_args!("-g {}", names.chain(Part::Outbound)));

    let apart = names.chain(Part::Apart);
    lines.empty_chain(&apart);
    lines.append(&apart, format_args!("{NOT_TRANSLATED} -j {}", family.reject()));
    lines.append(&apart, format_args!("-g {}", names.chain(Part::Outbound)));

    let denied = names.chain(Part::Denied);
    lines.empty_chain(&denied);
    for network in policy.denied.iter().filter(|network| family.has(network.ip())) {
        lines.append(&denied, format_args!("-m conntrack --ctorigdst {network} -j {}", family.reject()));
    }
}

/// The part of the pool that this family has.
fn pool(family: Family, policy: &Policy) -> Option<IpNetwork> {
    match family {
        Family::V4 => Some(policy.pool.into()),
        Family::V6 => policy.pool_ipv6.map(IpNetwork::V6),
    }
}

fn input(batch: &mut Batch, family: Family, names: &Names, policy: &Policy, links: &str) {
    let lines = &mut batch.filter;
    let chain = names.chain(Part::Input);
    lines.empty_chain(&chain);
    if policy.allow_host_access {
        return;
    }
    lines.append(&chain, format_args!("{ESTABLISHED} -j RETURN"));
    if family == Family::V6 {
        // The gateway's link address is found by these: solicitations and advertisements of neighbours.
        for message_type in [135, 136] {
            let discovery = format_args!("-p ipv6-icmp -m icmp6 --icmpv6-type {message_type} -j RETURN");
            lines.append(&chain, discovery);
        }
    }
    lines.append(&chain, format_args!("-i {links} -j {}", family.reject()));
}
