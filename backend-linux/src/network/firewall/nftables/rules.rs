//! A container's own chain: its outbound rules, the last one first.

use super::{
    expr::{Expr, ICMP, ICMP_V6, TCP, UDP},
    ruleset::prepend,
    table::{Family, Table},
    wire::{DELETE_CHAIN, DELETE_RULE, NEW_CHAIN, chain, rule},
};
use crate::network::{
    firewall::Outbound,
    netlink::{Message, flags},
    outbound::{Addresses, IcmpKind, Rule, What},
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

/// Puts rules before those that the chain has: the last one that matches counts.
pub fn add(table: &Table, name: &str, outbound: &Outbound) -> Vec<Message> {
    let of_family =
        outbound.rules.iter().filter_map(|rule| expressions(table.family, rule, &outbound.log_prefix));
    of_family.map(|expressions| prepend(table, name, &expressions)).collect()
}

/// None: no packet of the family can match.
fn expressions(family: Family, rule: &Rule, log_prefix: &str) -> Option<Vec<Expr>> {
    let mut expressions = Vec::new();
    match &rule.to {
        Addresses::All => {}
        Addresses::Range(range) if !family.has(*range.start()) => return None,
        Addresses::Range(range) => expressions.push(Expr::OriginalDestination(range.clone())),
    }
    match (&rule.what, family) {
        (What::All, _) => {}
        (What::Tcp(ports), _) => expressions.extend([Expr::Protocol(TCP), Expr::OriginalPort(ports.clone())]),
        (What::Udp(ports), _) => expressions.extend([Expr::Protocol(UDP), Expr::OriginalPort(ports.clone())]),
        (What::Icmp(kind), Family::V4) => expressions.extend(icmp(ICMP, *kind)),
        (What::IcmpV6(kind), Family::V6) => expressions.extend(icmp(ICMP_V6, *kind)),
        (What::Icmp(_), Family::V6) | (What::IcmpV6(_), Family::V4) => return None,
    }
    if rule.log {
        expressions.push(Expr::Log { prefix: log_prefix.to_owned() });
    }
    expressions.push(Expr::Accept);
    Some(expressions)
}

fn icmp(protocol: u8, kind: Option<IcmpKind>) -> Vec<Expr> {
    let mut expressions = vec![Expr::Protocol(protocol)];
    if let Some(IcmpKind { message_type, code }) = kind {
        expressions.push(Expr::IcmpType(message_type..=message_type));
        expressions.extend(code.map(Expr::IcmpCode));
    }
    expressions
}
