//! The fixed chains, as data.
//!
//! They only drop, reject and translate what comes from or goes to our own links and mapped ports; an `accept` here
//! ends our chain and no other, so operators' own tables keep their effect. Whether a packet is a container's is told
//! by the name of the link, not by the address: containers may have addresses outside of the pool.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::{
    IPV4, IPV6, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_TABLE,
    expr::{Expr, Side},
    message, table_message,
};
use crate::network::{
    firewall::Policy,
    netlink::{Message, flags},
};

/// Host-side link and container address that belong together.
pub const SOURCES: &str = "sources";
/// Host port to container address and port.
pub const PORTS: &str = "ports";

/// Where in a packet's way a chain stands (`NF_INET_*`).
#[derive(Debug, Clone, Copy)]
enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

struct Chain {
    name: &'static str,
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

fn chains(policy: &Policy) -> Vec<Chain> {
    let ours = |side, is| Expr::Link { side, prefix: policy.link_prefix.clone(), is };
    let bound = |side, is| Expr::LinkAndSource { side, set: SOURCES, is };
    // The prefix is a constant below 33; otherwise it would be one address.
    let loopback = Ipv4Network::new(Ipv4Addr::new(127, 0, 0, 0), 8).unwrap_or(Ipv4Addr::LOCALHOST.into());
    let translate = || vec![Expr::Tcp, Expr::ToHost, Expr::TranslateByPort { map: PORTS }];

    let mut input = vec![vec![ours(Side::In, true), Expr::Established, Expr::Accept]];
    if !policy.allow_host_access {
        input.push(vec![ours(Side::In, true), Expr::Reject]);
    }
    // The host reaches mapped ports by its loopback because our links route it (route_localnet). Others must not reach
    // what listens on the loopback through that: CVE-2020-8558.
    let mut raw = vec![vec![Expr::NotFromLoopback, Expr::Destination(loopback), Expr::Drop]];
    if policy.check_sources {
        raw.push(vec![ours(Side::In, true), bound(Side::In, false), Expr::Drop]);
    }
    vec![
        Chain { name: "raw-prerouting", kind: "filter", hook: Hook::Prerouting, priority: RAW, rules: raw },
        Chain {
            name: "nat-prerouting",
            kind: "nat",
            hook: Hook::Prerouting,
            priority: DESTINATION_NAT,
            rules: vec![translate()],
        },
        Chain {
            name: "nat-output",
            kind: "nat",
            hook: Hook::Output,
            priority: DESTINATION_NAT,
            rules: vec![translate()],
        },
        Chain {
            name: "nat-postrouting",
            kind: "nat",
            hook: Hook::Postrouting,
            priority: SOURCE_NAT,
            rules: vec![
                vec![ours(Side::In, true), ours(Side::Out, false), Expr::Masquerade],
                // Back to where it came from, through a port of its own: a container would not take a packet from its
                // own address.
                vec![bound(Side::Out, true), Expr::Masquerade],
                // From the host's loopback to a mapped port.
                vec![ours(Side::Out, true), Expr::Source(loopback), Expr::Masquerade],
            ],
        },
        Chain {
            name: "forward",
            kind: "filter",
            hook: Hook::Forward,
            priority: FILTER,
            rules: vec![
                vec![Expr::Established, Expr::Accept],
                vec![Expr::DestinationTranslated, Expr::Accept],
                vec![ours(Side::In, true), ours(Side::Out, true), Expr::Reject],
                // Nor out to the world under the address of a container that is not there.
                vec![ours(Side::In, true), Expr::Destination(policy.pool), Expr::Reject],
            ],
        },
        Chain { name: "input", kind: "filter", hook: Hook::Input, priority: FILTER, rules: input },
    ]
}

/// The table, its set and its map, made where they are not there.
pub fn declarations(table: &str) -> Vec<Message> {
    vec![message("add firewall table", NEW_TABLE, flags::CREATE, table), sources(table), ports(table)]
}

/// The chains and rules, for a table that has none.
pub fn ipv4(table: &str, policy: &Policy) -> Vec<Message> {
    chains(policy).iter().flat_map(|chain| chain.messages(IPV4, table)).collect()
}

/// All of the IPv6 table: containers have no IPv6, and what they send of it all the same goes nowhere.
pub fn ipv6(table: &str, policy: &Policy) -> Vec<Message> {
    let ours = Expr::Link { side: Side::In, prefix: policy.link_prefix.clone(), is: true };
    let chain = Chain {
        name: "raw-prerouting",
        kind: "filter",
        hook: Hook::Prerouting,
        priority: RAW,
        rules: vec![vec![ours, Expr::Drop]],
    };
    let mut messages = vec![table_message("add IPv6 firewall table", NEW_TABLE, flags::CREATE, IPV6, table)];
    messages.extend(chain.messages(IPV6, table));
    messages
}

impl Chain {
    fn messages(&self, family: u8, table: &str) -> Vec<Message> {
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        const KIND: u16 = 7;
        const ACCEPT: u32 = 1;
        let chain = table_message("add firewall chain", NEW_CHAIN, flags::CREATE, family, table)
            .text(NAME, self.name)
            .nested(HOOK, |m| m.u32_be(1, self.hook as u32).bytes(2, &self.priority.to_be_bytes()))
            .u32_be(POLICY, ACCEPT)
            .text(KIND, self.kind);
        let rules = self.rules.iter().map(|rule| {
            const CHAIN: u16 = 2;
            const EXPRESSIONS: u16 = 4;
            table_message("add firewall rule", NEW_RULE, flags::CREATE | flags::APPEND, family, table)
                .text(CHAIN, self.name)
                .nested(EXPRESSIONS, |list| rule.iter().fold(list, |list, expr| expr.put(list)))
        });
        std::iter::once(chain).chain(rules).collect()
    }
}

const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;

/// What `nft` shows values as; the kernel does not look at it. A concatenation has six bits for each of its types.
const TYPE_IPV4_ADDRESS: u32 = 7;
const TYPE_PORT: u32 = 13;
const TYPE_LINK_NAME: u32 = 41;

fn sources(table: &str) -> Message {
    message("add firewall set", NEW_SET, flags::CREATE, table)
        .text(SET_NAME, SOURCES)
        .u32_be(SET_FLAGS, 0)
        .u32_be(SET_KEY_TYPE, TYPE_LINK_NAME << 6 | TYPE_IPV4_ADDRESS)
        .u32_be(SET_KEY_LEN, 20)
        .u32_be(SET_ID, 1)
}

fn ports(table: &str) -> Message {
    const MAP: u32 = 8;
    message("add firewall map", NEW_SET, flags::CREATE, table)
        .text(SET_NAME, PORTS)
        .u32_be(SET_FLAGS, MAP)
        .u32_be(SET_KEY_TYPE, TYPE_PORT)
        .u32_be(SET_KEY_LEN, 2)
        .u32_be(SET_DATA_TYPE, TYPE_IPV4_ADDRESS << 6 | TYPE_PORT)
        .u32_be(SET_DATA_LEN, 8)
        .u32_be(SET_ID, 2)
}
