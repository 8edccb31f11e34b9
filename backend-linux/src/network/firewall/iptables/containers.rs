//! What one container has in the shared chains, and its own chain if it has outbound rules.

use std::net::IpAddr;

use protocol::NetIn;

use super::{
    rules,
    text::{Batch, Family, Names, Part},
};
use crate::network::{firewall::Member, lease::Assignment, outbound::Rule};

/// All of a container's part, where nothing of it is there.
pub fn add(batch: &mut Batch, family: Family, names: &Names, member: &Member) {
    add_neighbours(batch, family, names, &member.assignment);
    add_ports(batch, family, names, &member.assignment, &member.ports);
    if !member.outbound.rules.is_empty() {
        add_chain(batch, family, names, member);
        lead_to_chain(batch, names, &member.assignment);
    }
}

/// All of a container's part, all of which is there.
pub fn remove(batch: &mut Batch, family: Family, names: &Names, member: &Member) {
    let assignment = &member.assignment;
    if let Some(rule) = neighbours(family, assignment) {
        batch.filter.delete(&names.chain(Part::Neighbours), rule);
    }
    remove_ports(batch, family, names, assignment, &member.ports);
    if !member.outbound.rules.is_empty() {
        remove_chain(batch, names, assignment);
    }
}

/// The container's chain, which is there, and what leads to it.
pub fn remove_chain(batch: &mut Batch, names: &Names, assignment: &Assignment) {
    batch.filter.delete(&names.chain(Part::Outbound), jump(&assignment.host_link));
    batch.filter.remove_chain(&assignment.host_link);
}

/// Where the container's subnet is shared, its neighbours are reached.
pub fn add_neighbours(batch: &mut Batch, family: Family, names: &Names, assignment: &Assignment) {
    if let Some(rule) = neighbours(family, assignment) {
        batch.filter.prepend(&names.chain(Part::Neighbours), rule);
    }
}

/// Publishes ports that are not published yet.
pub fn add_ports(batch: &mut Batch, family: Family, names: &Names, assignment: &Assignment, ports: &[NetIn]) {
    for port in ports {
        if let Some([translate, hairpin]) = port_rules(family, assignment, *port) {
            batch.nat.append(&names.chain(Part::Ports), translate);
            batch.nat.append(&names.chain(Part::Hairpin), hairpin);
        }
    }
}

/// Closes ports that are published.
pub fn remove_ports(
    batch: &mut Batch,
    family: Family,
    names: &Names,
    assignment: &Assignment,
    ports: &[NetIn],
) {
    for port in ports {
        if let Some([translate, hairpin]) = port_rules(family, assignment, *port) {
            batch.nat.delete(&names.chain(Part::Ports), translate);
            batch.nat.delete(&names.chain(Part::Hairpin), hairpin);
        }
    }
}

/// The container's chain, with all of its rules, whether it is there or not.
pub fn add_chain(batch: &mut Batch, family: Family, names: &Names, member: &Member) {
    let chain = &member.assignment.host_link;
    batch.filter.empty_chain(chain);
    let rules = member.outbound.rules.iter().rev();
    for line in rules.flat_map(|rule| rules::lines(family, rule, &member.outbound.log_prefix)) {
        batch.filter.append(chain, line);
    }
    batch.filter.append(chain, format_args!("-g {}", names.chain(Part::Denied)));
}

/// Rules for a container whose chain is there, before its other ones: the last one that matches counts.
pub fn add_rules(batch: &mut Batch, family: Family, chain: &str, rules: &[Rule], log_prefix: &str) {
    for rule in rules {
        // The first of them is to be the first of the chain.
        let mut lines = rules::lines(family, rule, log_prefix);
        lines.reverse();
        for line in lines {
            batch.filter.prepend(chain, line);
        }
    }
}

/// Nothing led to the chain yet.
pub fn lead_to_chain(batch: &mut Batch, names: &Names, assignment: &Assignment) {
    batch.filter.prepend(&names.chain(Part::Outbound), jump(&assignment.host_link));
}

fn jump(link: &str) -> String {
    format!("-i {link} -g {link}")
}

/// None: its subnet has no other container.
fn neighbours(family: Family, assignment: &Assignment) -> Option<String> {
    let subnet = assignment.subnet;
    let shared = family == Family::V4 && subnet.is_shared();
    shared.then(|| format!("-d {} -i {} -j RETURN", subnet.network(), assignment.host_link))
}

/// From the host's port to the container's, and for the container itself, which would not take a packet from its own
/// address. None: it has no address of the family.
fn port_rules(family: Family, assignment: &Assignment, port: NetIn) -> Option<[String; 2]> {
    let address = address(family, assignment)?;
    let (host_port, container_port) = (port.host_port, port.container_port);
    let to = std::net::SocketAddr::new(address, container_port);
    let link = &assignment.host_link;
    Some([
        format!("-p tcp -m tcp --dport {host_port} -j DNAT --to-destination {to}"),
        format!("-s {address} -o {link} -p tcp -m tcp --dport {container_port} -j MASQUERADE"),
    ])
}

fn address(family: Family, assignment: &Assignment) -> Option<IpAddr> {
    match family {
        Family::V4 => Some(assignment.container_ip.into()),
        Family::V6 => assignment.ipv6.map(|pair| pair.container_ip.into()),
    }
}
