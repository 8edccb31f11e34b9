//! The packet filter and address translation by the programs of iptables, for hosts whose kernel or whose operator has
//! no nftables.
//!
//! The [`fixed`] chains and what leads to them ([`entrances`]) are made once. What one container adds are rules in
//! chains that all share, and a chain of its own if it has outbound rules ([`containers`]). All changes that are made
//! together are one `iptables-restore`, and for a container without ports and rules there is none to make.
//!
//! A rule can be deleted only if it is there, so it is remembered which are. Where that turns out to be wrong, all
//! containers' rules are written again: a commit then begins with what `iptables-save` says.

mod containers;
mod entrances;
mod fixed;
mod rules;
mod saved;
mod text;
mod tool;

use std::collections::BTreeMap;

use super::{Change, Error, Firewall, Member, Policy};
use crate::network::lease::{self, Assignment};
use saved::Saved;
use text::{Batch, Family, Names, Part};
pub use tool::{Programs, ToolError, Tools};

/// One server's chains on this host.
#[derive(Debug)]
pub struct Iptables {
    tools: Tools,
    names: Names,
    /// None: nothing was installed yet.
    policy: Option<Policy>,
    /// The families in which containers have addresses.
    open: Vec<Family>,
    /// What is in the kernel, by the containers' links.
    members: BTreeMap<String, Member>,
    /// A commit failed: the kernel may have more or less than that.
    unsure: bool,
}

impl Iptables {
    /// For the server of this tag, in the network namespaces of the threads that call.
    pub fn new(tag: &str, tools: Tools) -> Iptables {
        let names = Names::new(tag, lease::prefix(tag));
        Iptables { tools, names, policy: None, open: Vec::new(), members: BTreeMap::new(), unsure: false }
    }

    /// Whether the programs are there, and the kernel answers them.
    pub fn probe(&self) -> Result<(), ToolError> {
        self.save(Family::V4).map(drop)
    }

    fn programs(&self, family: Family) -> &Programs {
        match family {
            Family::V4 => &self.tools.ipv4,
            Family::V6 => &self.tools.ipv6,
        }
    }

    fn save(&self, family: Family) -> Result<Saved, ToolError> {
        Ok(Saved::parse(&self.tools.save(self.programs(family))?))
    }

    fn restore(&self, family: Family, batch: &Batch) -> Result<(), ToolError> {
        match batch.text() {
            text if text.is_empty() => Ok(()),
            text => self.tools.restore(self.programs(family), &text),
        }
    }

    /// The chains of a family in which containers have addresses. What containers have in them stays.
    fn install_open(&self, family: Family, policy: &Policy) -> Result<(), ToolError> {
        let saved = self.save(family)?;
        let mut batch = fixed::open(family, &self.names, policy);
        for shared in fixed::SHARED {
            if !saved.has_chain(shared.0, &self.names.chain(shared.1)) {
                fixed::shared(&mut batch, &self.names, shared);
            }
        }
        self.restore(family, &batch)?;
        entrances::open(&self.tools, self.programs(family), &self.names, &saved, |_| true)?;
        entrances::open_passage(&self.tools, self.programs(family), &self.names)
    }

    fn install_closed(&self, family: Family, policy: &Policy) -> Result<(), ToolError> {
        let mut saved = self.save(family)?;
        if saved.has_chain("filter", &self.names.chain(Part::Forward)) {
            self.uninstall_from(family, &saved)?;
            saved = self.save(family)?;
        }
        self.restore(family, &fixed::closed(&self.names, policy))?;
        let wanted = |part| part == Part::Raw;
        entrances::open(&self.tools, self.programs(family), &self.names, &saved, wanted)
    }

    fn uninstall_from(&self, family: Family, saved: &Saved) -> Result<(), ToolError> {
        entrances::close(&self.tools, self.programs(family), &self.names, saved)?;
        let mut batch = Batch::default();
        for table in saved.tables() {
            let Some(lines) = batch.table(&table.name) else { continue };
            let ours = table.chains.iter().filter(|chain| self.names.is_ours(&chain.name));
            ours.for_each(|chain| lines.remove_chain(&chain.name));
        }
        self.restore(family, &batch)
    }

    /// All containers' rules are written again after a failure, by a program that has a limited time: no one of them may
    /// have so many that there is none left for the others.
    fn check_lines(&self, change: &Change) -> Result<(), Error> {
        let (held, added) = match change {
            Change::Open(Member { assignment, outbound, .. }) => {
                let known = self.members.get(&assignment.host_link);
                (known.map_or(&[][..], |known| &known.outbound.rules), &outbound.rules)
            }
            Change::Replace { outbound, .. } => (&[][..], &outbound.rules),
            Change::Admit(_) | Change::Close { .. } | Change::Expel { .. } => return Ok(()),
        };
        if added.is_empty() {
            return Ok(());
        }
        let rules = held.iter().chain(added);
        let of_family = |rule| self.open.iter().map(move |family| rules::lines(*family, rule, "").len());
        let mut lines = rules.flat_map(of_family).scan(0, |all, more| {
            *all += more;
            Some(*all)
        });
        match lines.any(|all| all > LINES_MAX) {
            true => Err(Error::TooManyLines { lines: LINES_MAX }),
            false => Ok(()),
        }
    }

    /// Notes a change, and adds what it is for the kernel.
    fn change(&mut self, change: &Change, batches: &mut [(Family, Batch)]) {
        let names = &self.names;
        match change {
            Change::Admit(assignment) => {
                if self.members.contains_key(&assignment.host_link) {
                    return;
                }
                for (family, batch) in batches {
                    containers::add_neighbours(batch, *family, names, assignment);
                }
                self.members.insert(assignment.host_link.clone(), member(assignment));
            }
            Change::Open(opened) => {
                let known = self.members.entry(opened.assignment.host_link.clone());
                let known = known.or_insert_with(|| member(&opened.assignment));
                let mut ports = opened.ports.clone();
                ports.retain(|port| !known.ports.contains(port));
                known.ports.extend(&ports);
                let had_chain = !known.outbound.rules.is_empty();
                known.outbound.rules.extend(opened.outbound.rules.iter().cloned());
                known.outbound.log_prefix.clone_from(&opened.outbound.log_prefix);
                for (family, batch) in batches {
                    containers::add_ports(batch, *family, names, &known.assignment, &ports);
                    let rules = &opened.outbound.rules;
                    match (rules.is_empty(), had_chain) {
                        (true, _) => {}
                        (false, true) => {
                            let chain = &known.assignment.host_link;
                            containers::add_rules(batch, *family, chain, rules, &known.outbound.log_prefix);
                        }
                        (false, false) => {
                            containers::add_chain(batch, *family, names, known);
                            containers::lead_to_chain(batch, names, &known.assignment);
                        }
                    }
                }
            }
            Change::Close { assignment, ports } => {
                let Some(known) = self.members.get_mut(&assignment.host_link) else { return };
                let (closed, kept) = known.ports.iter().partition(|port| ports.contains(port));
                known.ports = kept;
                for (family, batch) in batches {
                    containers::remove_ports(batch, *family, names, assignment, &closed);
                }
            }
            Change::Replace { assignment, outbound } => {
                let known = self.members.entry(assignment.host_link.clone());
                let known = known.or_insert_with(|| member(assignment));
                let had_chain = !known.outbound.rules.is_empty();
                known.outbound = outbound.clone();
                for (family, batch) in batches {
                    match (outbound.rules.is_empty(), had_chain) {
                        (true, false) => {}
                        (true, true) => containers::remove_chain(batch, names, assignment),
                        (false, _) => containers::add_chain(batch, *family, names, known),
                    }
                    if !outbound.rules.is_empty() && !had_chain {
                        containers::lead_to_chain(batch, names, assignment);
                    }
                }
            }
            Change::Expel { assignment, .. } => {
                let Some(known) = self.members.remove(&assignment.host_link) else { return };
                for (family, batch) in batches {
                    containers::remove(batch, *family, names, &known);
                }
            }
        }
    }

    fn commit(&mut self, batches: &[(Family, Batch)]) -> Result<(), ToolError> {
        if !self.unsure {
            let tried = batches.iter().try_for_each(|(family, batch)| self.restore(*family, batch));
            self.unsure = tried.is_err();
            match tried {
                // Perhaps somebody deleted what was to be deleted.
                Err(ToolError::Failed { .. }) => {}
                result => return result,
            }
        }
        self.rewrite()
    }

    /// Makes `members` what the kernel has of containers. What stays of them is never missing.
    fn rewrite(&mut self) -> Result<(), ToolError> {
        let Some(policy) = &self.policy else { return Ok(()) };
        for family in &self.open {
            let mut batch = fixed::open(*family, &self.names, policy);
            for shared in fixed::SHARED {
                fixed::shared(&mut batch, &self.names, shared);
            }
            for member in self.members.values() {
                containers::add(&mut batch, *family, &self.names, member);
            }
            let saved = self.save(*family)?;
            for chain in saved.table("filter").into_iter().flat_map(|filter| &filter.chains) {
                let has_chain =
                    |name| self.members.get(name).is_some_and(|member| !member.outbound.rules.is_empty());
                if chain.name.starts_with(&self.names.links) && !has_chain(&chain.name) {
                    batch.filter.remove_chain(&chain.name);
                }
            }
            self.restore(*family, &batch)?;
        }
        self.unsure = false;
        Ok(())
    }
}

/// How many lines the outbound rules of one container may be.
const LINES_MAX: usize = 8192;

/// A container with nothing yet.
fn member(assignment: &Assignment) -> Member {
    Member { assignment: assignment.clone(), ports: Vec::new(), outbound: Default::default() }
}

impl Firewall for Iptables {
    fn install(&mut self, policy: &Policy) -> Result<(), Error> {
        self.policy = Some(policy.clone());
        self.open = vec![Family::V4];
        if policy.ipv6 && policy.pool_ipv6.is_some() {
            self.open.push(Family::V6);
        }
        for family in &self.open {
            self.install_open(*family, policy)?;
        }
        if policy.ipv6 && policy.pool_ipv6.is_none() {
            self.install_closed(Family::V6, policy)?;
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), Error> {
        changes.iter().try_for_each(|change| self.check_lines(change))?;
        let links = changes.iter().map(|change| change.assignment().host_link.clone());
        let before: Vec<(String, Option<Member>)> =
            links.map(|link| (link.clone(), self.members.get(&link).cloned())).collect();
        let mut batches: Vec<_> = self.open.iter().map(|family| (*family, Batch::default())).collect();
        for change in changes {
            self.change(change, &mut batches);
        }
        let made = self.commit(&batches);
        if made.is_err() {
            // Backwards: of several changes of one container the first one's is what was there.
            for (link, member) in before.into_iter().rev() {
                match member {
                    Some(member) => drop(self.members.insert(link, member)),
                    None => drop(self.members.remove(&link)),
                }
            }
        }
        Ok(made?)
    }

    fn replace_all(&mut self, members: &[Member]) -> Result<(), Error> {
        let by_link = |member: &Member| (member.assignment.host_link.clone(), member.clone());
        self.members = members.iter().map(by_link).collect();
        self.unsure = true;
        Ok(self.rewrite()?)
    }

    fn uninstall(&mut self) -> Result<(), Error> {
        self.members.clear();
        for family in [Family::V4, Family::V6] {
            match self.save(family) {
                Ok(saved) => self.uninstall_from(family, &saved)?,
                // Who cannot even look has never had anything here.
                Err(ToolError::Missing { .. }) => {}
                Err(error @ ToolError::Failed { .. }) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot look for iptables chains of an earlier server");
                }
                Err(error) => Err(error)?,
            }
        }
        Ok(())
    }

    fn has_siblings(&mut self) -> Result<bool, Error> {
        let saved = match self.save(Family::V4) {
            Ok(saved) => saved,
            Err(ToolError::Missing { .. } | ToolError::Failed { .. }) => return Ok(false),
            Err(error) => Err(error)?,
        };
        let mut chains = saved.tables().iter().flat_map(|table| &table.chains);
        Ok(chains.any(|chain| text::is_fixed(&chain.name) && !self.names.is_ours(&chain.name)))
    }
}
