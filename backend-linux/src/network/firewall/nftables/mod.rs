//! The packet filter and address translation, on nftables, spoken over netlink: no program is executed for it.
//!
//! What does not depend on one container, the [`ruleset`], is set up once. What one container adds is data, elements
//! of one set and one map ([`elements`]): a create and a destroy cost one batch each, however many containers there
//! are. Each batch is atomic: it happens as a whole or not at all.

mod elements;
mod expr;
mod ruleset;

use rustix::{io::Errno, net::netlink::NETFILTER};

use super::{Change, Error, Firewall, Member, Policy};
use crate::network::netlink::{self, Message, Socket, attributes, flags};

/// Families of tables (`NFPROTO_*`).
const IPV4: u8 = 2;
const IPV6: u8 = 10;

const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
const DELETE_RULE: u8 = 8;
const NEW_SET: u8 = 9;
const NEW_ELEMENT: u8 = 12;
const DELETE_ELEMENT: u8 = 14;

/// `NFTA_TABLE_NAME`
const TABLE_NAME: u16 = 1;

/// Our tables on this host.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    table: String,
}

impl Nftables {
    /// For the server of this tag, in the calling thread's network namespace.
    pub fn open(tag: &str) -> Result<Nftables, netlink::Error> {
        let table = if tag.is_empty() { "garden".to_owned() } else { format!("garden-{tag}") };
        Ok(Nftables { socket: Socket::open(Some(NETFILTER))?, table })
    }

    /// The messages that make a change.
    fn messages(&self, change: &Change) -> Vec<Message> {
        let table = &self.table;
        match change {
            Change::Admit(assignment) => elements::add_sources(table, [assignment]),
            Change::Open(member) => {
                elements::add_ports(table, [(&member.assignment, member.ports.as_slice())])
            }
            // Deleting what is not there fails the whole batch, after milliseconds; adding it first costs microseconds
            // and makes sure that it is there.
            Change::Close { assignment, ports } => {
                let add = elements::add_ports(table, [(assignment, ports.as_slice())]);
                [add, elements::delete_ports(table, assignment, ports)].concat()
            }
            Change::Replace { .. } => Vec::new(),
            Change::Expel { assignment, ports } => {
                let mut messages = elements::add_sources(table, [assignment]);
                messages.extend(elements::add_ports(table, [(assignment, ports.as_slice())]));
                messages.extend(elements::delete_sources(table, assignment));
                messages.extend(elements::delete_ports(table, assignment, ports));
                messages
            }
        }
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

impl Firewall for Nftables {
    fn install(&mut self, policy: &Policy) -> Result<(), Error> {
        let fixed = ruleset::ipv4(&self.table, policy);
        let flush = table_message("flush firewall table", DELETE_RULE, 0, IPV4, &self.table);
        if self.batch([ruleset::declarations(&self.table), vec![flush], fixed.clone()].concat()).is_err() {
            // Another version's sets may have other types: then all of the table goes, and adoption fills it again.
            let anew = vec![
                table_message("add firewall table", NEW_TABLE, flags::CREATE, IPV4, &self.table),
                table_message("delete firewall table", DELETE_TABLE, 0, IPV4, &self.table),
            ];
            self.batch([anew, ruleset::declarations(&self.table), fixed].concat())?;
        }
        if !policy.ipv6 {
            return Ok(());
        }
        let anew = vec![
            table_message("add IPv6 firewall table", NEW_TABLE, flags::CREATE, IPV6, &self.table),
            table_message("delete IPv6 firewall table", DELETE_TABLE, 0, IPV6, &self.table),
        ];
        Ok(self.batch([anew, ruleset::ipv6(&self.table, policy)].concat())?)
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Error> {
        let removes = |change: &Change| matches!(change, Change::Close { .. } | Change::Expel { .. });
        match self.batch(changes.iter().flat_map(|change| self.messages(change)).collect()) {
            // Where the table itself is gone, so is all of it.
            Err(error) if error.errno() == Some(Errno::NOENT) && changes.iter().all(removes) => Ok(()),
            result => Ok(result?),
        }
    }

    fn replace_all(&mut self, members: &[Member]) -> Result<(), Error> {
        let mut batch = elements::flush(&self.table);
        batch.extend(elements::add_sources(&self.table, members.iter().map(|member| &member.assignment)));
        let ports = members.iter().map(|member| (&member.assignment, member.ports.as_slice()));
        batch.extend(elements::add_ports(&self.table, ports));
        Ok(self.batch(batch)?)
    }

    fn tidy(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn uninstall(&mut self) -> Result<(), Error> {
        for family in [IPV4, IPV6] {
            match self.batch(vec![table_message(
                "delete firewall table",
                DELETE_TABLE,
                0,
                family,
                &self.table,
            )]) {
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
        let kind = message_kind(GET_TABLE);
        let request = Message::new("list firewall tables", kind, flags::DUMP, &family_header(IPV4));
        let names = self.socket.dump(request, |payload| {
            let (_, name) = attributes(payload.get(4..)?).find(|(kind, _)| *kind == TABLE_NAME)?;
            Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
        })?;
        Ok(names.iter().any(|name| *name != self.table && (name == "garden" || name.starts_with("garden-"))))
    }
}

fn message_kind(operation: u8) -> u16 {
    u16::from_be_bytes([SUBSYSTEM, operation])
}

fn family_header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// A message about an IPv4 table or what is in it.
fn message(what: &'static str, operation: u8, flags: u16, table: &str) -> Message {
    table_message(what, operation, flags, IPV4, table)
}

/// Each object's messages name their table with attribute 1 (`NFTA_*_TABLE`, `NFTA_TABLE_NAME`).
fn table_message(what: &'static str, operation: u8, flags: u16, family: u8, table: &str) -> Message {
    Message::new(what, message_kind(operation), flags, &family_header(family)).text(TABLE_NAME, table)
}
