//! The fixed chains, as data.
//!
//! They only drop, reject and translate what comes from or goes to our own links and mapped ports; an `accept` here
//! ends our chain and no other, so operators' own tables keep their effect. Whether a packet is a container's is told
//! by the name of the link, not by the address: containers may have addresses outside of the pool.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network};

use super::{
    expr::{Among, Expr, ICMP_V6, Original, Side, TCP},
    sets::{NEIGHBOURS, OUTBOUND, PORTS, SOURCES},
    table::{Family, Table, octets},
    wire::{NEW_CHAIN, NEW_RULE, chain, rule},
};
use crate::network::{
    firewall::Policy,
    netlink::{Message, flags},
};

/// Where in a packet's way a chain stands (`NF_INET_*`).
#[derive(Debug, Clone, Copy)]
enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A chain with all of its rules.
pub struct Chain {
    pub name: &'static str,
    kind: &'static str,
    hook: Hook,
    priority: i32,
    rules: Vec<Vec<Expr>>,
}

/// Before connection tracking.
const RAW: i32 = -300;
const DESTINATION_NAT: i32 = -100;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;

/// The names of all of them.
pub const NAMES: [&str; 6] =
    ["raw-prerouting", "nat-prerouting", "nat-output", "nat-postrouting", "forward", "input"];

/// The chains of a family in which containers have addresses.
pub fn open(family: Family, policy: &Policy) -> Vec<Chain> {
    let [raw_prerouting, nat_prerouting, nat_output, nat_postrouting, forward_chain, input_chain] = NAMES;
    vec![
        Chain {
            name: raw_prerouting,
            kind: "filter",
            hook: Hook::Prerouting,
            priority: RAW,
            rules: raw(family, policy),
        },
        Chain {
            name: nat_prerouting,
            kind: "nat",
            hook: Hook::Prerouting,
            priority: DESTINATION_NAT,
            rules: translate(),
        },
        Chain {
            name: nat_output,
            kind: "nat",
            hook: Hook::Output,
            priority: DESTINATION_NAT,
            rules: translate(),
        },
        Chain {
            name: nat_postrouting,
            kind: "nat",
            hook: Hook::Postrouting,
            priority: SOURCE_NAT,
            rules: masquerade(family, policy),
        },
        Chain {
            name: forward_chain,
            kind: "filter",
            hook: Hook::Forward,
            priority: FILTER,
            rules: forward(family, policy),
        },
        Chain {
            name: input_chain,
            kind: "filter",
            hook: Hook::Input,
            priority: FILTER,
            rules: input(family, policy),
        },
    ]
}

/// The chains of a family in which containers have no addresses: what they send all the same goes nowhere.
pub fn closed(policy: &Policy) -> Vec<Chain> {
    let rules = vec![vec![ours(policy, Side::In, true), Expr::Drop]];
    vec![Chain { name: "raw-prerouting", kind: "filter", hook: Hook::Prerouting, priority: RAW, rules }]
}

fn ours(policy: &Policy, side: Side, is: bool) -> Expr {
    Expr::Link { side, prefix: policy.link_prefix.clone(), is }
}

fn loopback(family: Family) -> IpNetwork {
    match family {
        // The prefix is a constant below 33; otherwise it would be one address.
        Family::V4 => Ipv4Network::new(Ipv4Addr::new(127, 0, 0, 0), 8)
            .map_or(IpNetwork::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST)), IpNetwork::V4),
        Family::V6 => IpNetwork::from(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST)),
    }
}

/// The part of the pool that this family has.
fn pool(family: Family, policy: &Policy) -> Option<IpNetwork> {
    match family {
        Family::V4 => Some(policy.pool.into()),
        Family::V6 => policy.pool_ipv6.map(IpNetwork::V6),
    }
}

fn raw(family: Family, policy: &Policy) -> Vec<Vec<Expr>> {
    // The host reaches mapped ports by its loopback because our links route it (route_localnet). Others must not reach
    // what listens on the loopback through that: CVE-2020-8558.
    let mut rules = vec![vec![Expr::NotFromLoopback, Expr::Destination(loopback(family)), Expr::Drop]];
    if policy.check_sources {
        let bound = Expr::LinkAndSource { side: Side::In, set: SOURCES, is: false };
        rules.push(vec![ours(policy, Side::In, true), bound, Expr::Drop]);
    }
    rules
}

fn translate() -> Vec<Vec<Expr>> {
    vec![vec![Expr::Protocol(TCP), Expr::ToHost, Expr::TranslateByPort { map: PORTS }]]
}

fn masquerade(family: Family, policy: &Policy) -> Vec<Vec<Expr>> {
    vec![
        vec![ours(policy, Side::In, true), ours(policy, Side::Out, false), Expr::Masquerade],
        // Back to where it came from, through a port of its own: a container would not take a packet from its own
        // address.
        vec![Expr::LinkAndSource { side: Side::Out, set: SOURCES, is: true }, Expr::Masquerade],
        // From the host's loopback to a mapped port.
        vec![ours(policy, Side::Out, true), Expr::Source(loopback(family)), Expr::Masquerade],
    ]
}

fn forward(family: Family, policy: &Policy) -> Vec<Vec<Expr>> {
    let untranslated = || Expr::DestinationTranslated { is: false };
    let mut rules = vec![
        vec![Expr::Established, Expr::Accept],
        vec![ours(policy, Side::In, true), Expr::Stray, Expr::Drop],
        // Nor do containers of another server on this host reach ours.
        vec![
            Expr::FromContainers,
            ours(policy, Side::In, false),
            ours(policy, Side::Out, true),
            untranslated(),
            Expr::Reject,
        ],
        vec![ours(policy, Side::In, false), Expr::Accept],
        vec![ours(policy, Side::Out, true), Expr::LinkAndDestination { set: NEIGHBOURS }, Expr::Accept],
        vec![ours(policy, Side::Out, true), untranslated(), Expr::Reject],
    ];
    // Nor out to the world under the address of a container that is not there.
    rules
        .extend(pool(family, policy).map(|pool| vec![Expr::Destination(pool), untranslated(), Expr::Reject]));
    rules.push(vec![Expr::VerdictByLink { map: OUTBOUND }]);
    let denied = policy.denied.iter().filter(|network| family.has(network.ip()));
    rules.extend(denied.map(|network| {
        let among = Among::Range { start: octets(network.network()), end: octets(network.broadcast()) };
        vec![Expr::Original { what: Original::Address, among }, Expr::Reject]
    }));
    rules
}

fn input(family: Family, policy: &Policy) -> Vec<Vec<Expr>> {
    let mut rules = vec![vec![ours(policy, Side::In, true), Expr::Established, Expr::Accept]];
    if policy.allow_host_access {
        return rules;
    }
    if family == Family::V6 {
        // The gateway's link address is found by these: solicitations and advertisements of neighbours.
        let discovery = vec![Expr::Protocol(ICMP_V6), Expr::IcmpType(135..=136), Expr::Accept];
        rules.push(std::iter::once(ours(policy, Side::In, true)).chain(discovery).collect());
    }
    rules.push(vec![ours(policy, Side::In, true), Expr::Reject]);
    rules
}

impl Chain {
    /// The chain, where it is not there, and its rules, where it has none.
    pub fn messages(&self, table: &Table) -> Vec<Message> {
        const ACCEPT: u32 = 1;
        let chain = table
            .message("add firewall chain", NEW_CHAIN, flags::CREATE)
            .text(chain::NAME, self.name)
            .nested(chain::HOOK, |m| m.u32_be(1, self.hook as u32).bytes(2, &self.priority.to_be_bytes()))
            .u32_be(chain::POLICY, ACCEPT)
            .text(chain::KIND, self.kind);
        let rules = self.rules.iter().map(|rule| append(table, self.name, rule));
        std::iter::once(chain).chain(rules).collect()
    }
}

/// Adds a rule after all others of its chain.
pub fn append(table: &Table, chain: &str, expressions: &[Expr]) -> Message {
    put(
        table.message("add firewall rule", NEW_RULE, flags::CREATE | flags::APPEND),
        table,
        chain,
        expressions,
    )
}

/// Adds a rule before all others of its chain.
pub fn prepend(table: &Table, chain: &str, expressions: &[Expr]) -> Message {
    put(table.message("add firewall rule", NEW_RULE, flags::CREATE), table, chain, expressions)
}

fn put(message: Message, table: &Table, chain: &str, expressions: &[Expr]) -> Message {
    message
        .text(rule::CHAIN, chain)
        .nested(rule::EXPRESSIONS, |list| expressions.iter().fold(list, |list, e| e.put(list, table.family)))
}
