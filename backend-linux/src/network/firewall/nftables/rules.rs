//! A container's own chain: its outbound rules, the last one first.

use super::{
    anonymous,
    expr::{Among, Expr, ICMP, ICMP_V6, Original, TCP, UDP},
    groups::{Kind, Ranges, runs},
    ruleset::prepend,
    table::{Family, Table},
    wire::{DELETE_CHAIN, DELETE_RULE, NEW_CHAIN, chain, rule},
};
use crate::network::{
    firewall::Outbound,
    netlink::{Message, flags},
    outbound::IcmpKind,
};

/// The chain, where it is not there.
pub fn declare(table: &Table, name: &str) -> Message {
    table.message("add container's firewall chain", NEW_CHAIN, flags::CREATE).text(chain::NAME, name)
}

/// Removes all rules of a chain that is there.
pub fn flush(table: &Table, name: &str) -> Message {
    table.message("flush firewall chain", DELETE_RULE, 0).text(rule::CHAIN, name)
}

/// Deletes a chain without rules that nothing leads to.
pub fn delete(table: &Table, name: &str) -> Message {
    table.message("delete firewall chain", DELETE_CHAIN, 0).text(chain::NAME, name)
}

/// Puts rules before those that the chain has: the last one that matches counts. `next_set` counts the sets of a batch.
pub fn add(table: &Table, name: &str, outbound: &Outbound, next_set: &mut u32) -> Vec<Message> {
    let mut messages = Vec::new();
    for run in runs(table.family, &outbound.rules) {
        let mut conditions: Vec<Vec<Expr>> = Vec::new();
        for group in &run.groups {
            let mut among = |what: Original, ranges: &Ranges| {
                let ranges = ranges.as_deref()?;
                let among = match ranges {
                    [range] => Among::range(range, what.len(table.family)),
                    ranges => {
                        *next_set += 1;
                        messages.extend(anonymous::of_ranges(table, *next_set, what, ranges));
                        Among::Set { id: *next_set }
                    }
                };
                Some(Expr::Original { what, among })
            };
            let (to, ports) = (among(Original::Address, &group.to), among(Original::Port, &group.ports));
            conditions.push(to.into_iter().chain(protocol(table.family, group.kind)).chain(ports).collect());
        }
        for spots in &run.spots {
            *next_set += 1;
            messages.extend(anonymous::of_spots(table, *next_set, spots));
            conditions.push(vec![Expr::OriginalSpot { id: *next_set }]);
        }
        let log = run.log.then(|| Expr::Log { prefix: outbound.log_prefix.clone() });
        for mut expressions in conditions {
            expressions.extend(log.clone());
            expressions.push(Expr::Accept);
            messages.push(prepend(table, name, &expressions));
        }
    }
    messages
}

fn protocol(family: Family, kind: Kind) -> Vec<Expr> {
    let icmp = match family {
        Family::V4 => ICMP,
        Family::V6 => ICMP_V6,
    };
    match kind {
        Kind::All => Vec::new(),
        Kind::Tcp => vec![Expr::Protocol(TCP)],
        Kind::Udp => vec![Expr::Protocol(UDP)],
        Kind::Icmp(None) => vec![Expr::Protocol(icmp)],
        Kind::Icmp(Some(IcmpKind { message_type, code })) => {
            let mut expressions = vec![Expr::Protocol(icmp), Expr::IcmpType(message_type..=message_type)];
            expressions.extend(code.map(Expr::IcmpCode));
            expressions
        }
    }
}
