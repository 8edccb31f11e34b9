//! The packet filter and address translation, on nftables, spoken over netlink: no program is executed for it.
//!
//! What does not depend on one container, the [`ruleset`], is set up once. What one container adds is data, elements
//! of the fixed [`sets`], and a chain of its own if it has outbound [`rules`]: a create and a destroy cost one batch
//! each, however many containers there are. Each batch is atomic: it happens as a whole or not at all.

mod anonymous;
mod expr;
mod foreign;
mod groups;
mod rules;
mod ruleset;
mod sets;
mod spots;
mod table;
mod wire;

use std::collections::HashSet;

use rustix::{io::Errno, net::netlink::NETFILTER};

use super::{Change, Error, Firewall, Member, Outbound, Policy};
use crate::network::{
    lease::Assignment,
    netlink::{self, Message, Socket, attributes, flags},
};
use table::{Family, Table, text};
use wire::{
    BATCH_BEGIN, BATCH_END, DELETE_TABLE, GET_CHAIN, GET_TABLE, NEW_TABLE, SUBSYSTEM, TABLE_NAME, chain,
};

/// Our tables on this host.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    name: String,
    /// Those in which containers have addresses.
    tables: Vec<Table>,
    /// Of the containers that have one: they are called like their links.
    chains: HashSet<String>,
    /// Numbers the sets without names of a batch.
    next_set: u32,
}

impl Nftables {
    /// For the server of this tag, in the calling thread's network namespace.
    pub fn open(tag: &str) -> Result<Nftables, netlink::Error> {
        let name = if tag.is_empty() { "garden".to_owned() } else { format!("garden-{tag}") };
        let socket = Socket::open(Some(NETFILTER))?;
        Ok(Nftables { socket, name, tables: Vec::new(), chains: HashSet::new(), next_set: 0 })
    }

    fn table(&self, family: Family) -> Table {
        Table { family, name: self.name.clone() }
    }

    /// The messages that make a change. `known`: what the container has is there, nobody removed it by hand.
    fn messages(&mut self, change: &Change, known: bool) -> Vec<Message> {
        let each = |of_table: &dyn Fn(&Table) -> Vec<Message>| -> Vec<Message> {
            self.tables.iter().flat_map(of_table).collect()
        };
        match change {
            Change::Admit(assignment) => {
                each(&|table| sets::add(table, &sets::places(table.family, assignment)))
            }
            Change::Open(Member { assignment, ports, outbound }) => {
                let mut messages =
                    each(&|table| sets::add(table, &sets::ports(table.family, assignment, ports)));
                if !outbound.rules.is_empty() {
                    messages.extend(self.chain_messages(assignment, outbound, false));
                }
                messages
            }
            Change::Close { assignment, ports } => {
                each(&|table| sets::remove(table, &sets::ports(table.family, assignment, ports)))
            }
            Change::Replace { assignment, outbound } => self.chain_messages(assignment, outbound, true),
            Change::Expel { assignment, ports } => {
                let mut messages = each(&|table| {
                    let mut elements = sets::places(table.family, assignment);
                    elements.extend(sets::ports(table.family, assignment, ports));
                    sets::remove(table, &elements)
                });
                if self.chains.contains(&assignment.host_link) {
                    messages.extend(each(&|table| without_chain(table, &assignment.host_link, known)));
                }
                messages
            }
        }
    }

    /// Gives a container these rules, `anew` without those that it has.
    fn chain_messages(&mut self, assignment: &Assignment, outbound: &Outbound, anew: bool) -> Vec<Message> {
        let name = &assignment.host_link;
        self.chains.insert(name.clone());
        let mut messages = Vec::new();
        for table in &self.tables {
            messages.push(rules::declare(table, name));
            messages.extend(anew.then(|| rules::flush(table, name)));
            messages.extend(rules::add(table, name, outbound, &mut self.next_set));
            messages.extend(sets::add(table, &[sets::jump(name)]));
        }
        messages
    }

    /// The names of the chains that are in a table.
    fn chains_of(&mut self, table: &Table) -> Result<Vec<String>, netlink::Error> {
        let request = table.message("list firewall chains", GET_CHAIN, flags::DUMP);
        // The kernel lists the chains of all tables of the family.
        let named = |payload: &[u8]| -> Option<(String, String)> {
            let find = |wanted| attributes(payload.get(4..)?).find(|(kind, _)| *kind == wanted);
            Some((text(find(TABLE_NAME)?.1), text(find(chain::NAME)?.1)))
        };
        let all = self.socket.dump(request, named)?;
        Ok(all.into_iter().filter(|(of, _)| *of == table.name).map(|(_, name)| name).collect())
    }

    /// The fixed chains of a family in which containers have addresses. Containers' elements and chains stay.
    fn install_open(&mut self, table: &Table, policy: &Policy) -> Result<(), netlink::Error> {
        let fixed = ruleset::open(table.family, policy);
        let mut batch = vec![table.message("add firewall table", NEW_TABLE, flags::CREATE)];
        batch.extend(sets::declarations(table));
        let found = self.chains_of(table)?;
        let stale: Vec<&String> =
            found.iter().filter(|name| !name.starts_with(&policy.link_prefix)).collect();
        batch.extend(stale.iter().map(|name| rules::flush(table, name)));
        let unknown = stale.iter().filter(|name| fixed.iter().all(|chain| chain.name != name.as_str()));
        batch.extend(unknown.map(|name| rules::delete(table, name)));
        let chains: Vec<Message> = fixed.iter().flat_map(|chain| chain.messages(table)).collect();
        batch.extend(chains.clone());
        if self.batch(batch).is_ok() {
            return Ok(());
        }
        // Another version's sets may have other types: then all of the table goes, and adoption fills it again.
        self.batch([anew(table), sets::declarations(table), chains].concat())
    }

    /// Makes `rest` of a table's containers those of `members`, one by one: each of them is without its rules at no
    /// moment, and no batch grows with their number.
    fn replace_chains(&mut self, table: &Table, members: &[Member]) -> Result<(), netlink::Error> {
        let found = self.chains_of(table)?;
        let has_rules = |member: &&Member| !member.outbound.rules.is_empty();
        let kept: HashSet<&str> =
            members.iter().filter(has_rules).map(|member| member.assignment.host_link.as_str()).collect();
        let fixed: HashSet<&str> = ruleset::NAMES.into_iter().collect();
        let gone =
            found.iter().filter(|name| !kept.contains(name.as_str()) && !fixed.contains(name.as_str()));
        let gone: Vec<Message> = gone.flat_map(|name| without_chain(table, name, false)).collect();
        self.batch(gone)?;
        for member in members.iter().filter(has_rules) {
            let name = &member.assignment.host_link;
            let mut messages = vec![rules::declare(table, name), rules::flush(table, name)];
            messages.extend(rules::add(table, name, &member.outbound, &mut self.next_set));
            messages.extend(sets::add(table, &[sets::jump(name)]));
            self.batch(messages)?;
        }
        Ok(())
    }

    fn try_apply(&mut self, changes: &[Change], known: bool) -> Result<(), netlink::Error> {
        let messages = changes.iter().flat_map(|change| self.messages(change, known)).collect();
        self.batch(messages)
    }

    /// Does all of `messages` or none.
    fn batch(&mut self, mut messages: Vec<Message>) -> Result<(), netlink::Error> {
        // The batch is done as a whole: the last one's confirmation is that of all.
        let Some(last) = messages.pop() else { return Ok(()) };
        messages.push(last.acknowledged());
        let boundary = |what, kind| Message::new(what, kind, 0, &[0, 0, 0, SUBSYSTEM]);
        messages.insert(0, boundary("commit firewall changes", BATCH_BEGIN));
        messages.push(boundary("end firewall changes", BATCH_END));
        self.socket.transact(messages)
    }
}

fn is_missing(error: &netlink::Error) -> bool {
    error.errno() == Some(Errno::NOENT)
}

/// Removes a container's chain and what leads to it; unless that is `known` to be there, it is made first. A jump that
/// is added has the kernel go through all rules.
fn without_chain(table: &Table, name: &str, known: bool) -> Vec<Message> {
    let jump = [sets::jump(name)];
    let mut messages = Vec::new();
    if !known {
        messages.push(rules::declare(table, name));
        messages.extend(sets::add(table, &jump));
    }
    messages.extend(sets::delete(table, &jump));
    messages.extend([rules::flush(table, name), rules::delete(table, name)]);
    messages
}

/// A table with nothing in it.
fn anew(table: &Table) -> Vec<Message> {
    vec![
        table.message("add firewall table", NEW_TABLE, flags::CREATE),
        table.message("delete firewall table", DELETE_TABLE, 0),
        table.message("add firewall table", NEW_TABLE, flags::CREATE),
    ]
}

impl Firewall for Nftables {
    fn install(&mut self, policy: &Policy) -> Result<(), Error> {
        self.tables = vec![self.table(Family::V4)];
        if policy.ipv6 && policy.pool_ipv6.is_some() {
            self.tables.push(self.table(Family::V6));
        }
        for table in self.tables.clone() {
            self.install_open(&table, policy)?;
        }
        if policy.ipv6 && policy.pool_ipv6.is_none() {
            let table = self.table(Family::V6);
            let closed = ruleset::closed(policy);
            let chains = closed.iter().flat_map(|chain| chain.messages(&table));
            self.batch(anew(&table).into_iter().chain(chains).collect())?;
        }
        for foreign::Errand { table, messages } in foreign::pass(&mut self.socket, &self.name, policy)? {
            if let Err(error) = self.batch(messages) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    table,
                    error,
                    "somebody's firewall table drops what containers send, and takes no rule that lets it through: \
                     have its owner allow links whose names begin with {}",
                    policy.link_prefix
                );
            }
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Error> {
        let removes = |change: &Change| matches!(change, Change::Close { .. } | Change::Expel { .. });
        let mut made = self.try_apply(changes, true);
        if made.as_ref().is_err_and(is_missing) {
            made = self.try_apply(changes, false);
        }
        match made {
            // Where the table itself is gone, so is all of it.
            Err(error) if is_missing(&error) && changes.iter().all(removes) => {}
            Err(source) if is_missing(&source) => {
                return Err(Error::Gone { table: self.name.clone(), source });
            }
            made => made?,
        }
        for change in changes {
            if let Change::Expel { assignment, .. } = change {
                self.chains.remove(&assignment.host_link);
            }
        }
        Ok(())
    }

    fn replace_all(&mut self, members: &[Member]) -> Result<(), Error> {
        for table in self.tables.clone() {
            let mut batch = sets::flush(&table);
            let elements: Vec<_> =
                members.iter().flat_map(|member| sets::places(table.family, &member.assignment)).collect();
            batch.extend(sets::add(&table, &elements));
            let ports = members
                .iter()
                .flat_map(|member| sets::ports(table.family, &member.assignment, &member.ports));
            batch.extend(sets::add(&table, &ports.collect::<Vec<_>>()));
            self.batch(batch)?;
            self.replace_chains(&table, members)?;
        }
        let with_rules = members.iter().filter(|member| !member.outbound.rules.is_empty());
        self.chains = with_rules.map(|member| member.assignment.host_link.clone()).collect();
        Ok(())
    }

    fn uninstall(&mut self) -> Result<(), Error> {
        for errand in foreign::retreat(&mut self.socket, &self.name)? {
            self.batch(errand.messages)?;
        }
        for family in [Family::V4, Family::V6] {
            let delete = self.table(family).message("delete firewall table", DELETE_TABLE, 0);
            match self.batch(vec![delete]) {
                Err(error)
                    if matches!(
                        error.errno(),
                        Some(Errno::NOENT | Errno::AFNOSUPPORT | Errno::OPNOTSUPP)
                    ) => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn has_siblings(&mut self) -> Result<bool, Error> {
        let table = self.table(Family::V4);
        let kind = u16::from_be_bytes([SUBSYSTEM, GET_TABLE]);
        let request =
            Message::new("list firewall tables", kind, flags::DUMP, &[table.family.number(), 0, 0, 0]);
        let names = self.socket.dump(request, |payload| {
            let (_, name) = attributes(payload.get(4..)?).find(|(kind, _)| *kind == TABLE_NAME)?;
            Some(text(name))
        })?;
        Ok(names.iter().any(|name| *name != self.name && (name == "garden" || name.starts_with("garden-"))))
    }
}
