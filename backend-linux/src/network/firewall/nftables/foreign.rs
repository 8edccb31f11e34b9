//! Other people's forward chains that drop what they do not know.
//!
//! An `accept` in a table of ours does not beat a drop policy in another's (Docker's is one). Where a chain drops, one
//! tagged jump is put at its end: to a chain of ours that accepts what our own table has let through. Whatever other
//! rules there decide before, be they an operator's or Docker's, they decide still.

use super::{
    expr::{Expr, Side},
    ruleset::append,
    table::{Family, Table, text},
    wire::{
        DELETE_CHAIN, DELETE_RULE, GET_CHAIN, GET_RULE, JUMP, LIST_ELEMENT, NEW_CHAIN, NEW_RULE, SUBSYSTEM,
        TABLE_NAME, VERDICT, VERDICT_CHAIN, VERDICT_CODE, chain, rule,
    },
};
use crate::network::{
    firewall::Policy,
    netlink::{Error, Message, Socket, attributes, flags},
};

/// `NFPROTO_INET`: chains of this family see both.
const INET: u8 = 1;
const FORWARD_HOOK: u32 = 2;
const DROP: u32 = 0;

/// A chain that somebody else made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
    /// None: it is jumped to only.
    hook: Option<u32>,
    policy: Option<u32>,
}

/// A rule in such a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    chain: String,
    handle: Vec<u8>,
    end: End,
}

/// How a rule ends, as far as that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Every packet that comes to it is dropped or rejected.
    DropsAll,
    /// No packet gets behind it.
    DecidesAll,
    Jump(String),
    Other,
}

/// What is to be done in one table of somebody's.
pub struct Errand {
    /// Family and name, as `nft list table` takes them.
    pub table: String,
    pub messages: Vec<Message>,
}

/// Finds the forward chains that drop, and makes the messages that let our containers through them, instead of those
/// that did so before.
pub fn pass(socket: &mut Socket, table: &str, policy: &Policy) -> Result<Vec<Errand>, Error> {
    let chains = chains(socket)?;
    let mut errands = Vec::new();
    let mut passed = Vec::new();
    let open = |family: u8| match family {
        _ if family == Family::V6.number() => policy.pool_ipv6.is_some(),
        family => family == Family::V4.number() || family == INET,
    };
    let forward = chains.iter().filter(|chain| chain.hook == Some(FORWARD_HOOK) && open(chain.family));
    for base in forward.filter(|chain| chain.table != "garden" && !chain.table.starts_with("garden-")) {
        let of_table: Vec<Rule> = rules(socket, base.family, &base.table)?;
        let last = of_table.iter().rfind(|rule| rule.chain == base.name);
        if base.policy != Some(DROP) && last.is_none_or(|rule| rule.end != End::DropsAll) {
            continue;
        }
        let mut messages = without_jumps(base, &of_table, table);
        messages.extend(our_chain(base, table, policy));
        messages.push(jump(base, &of_table, table));
        errands.push(Errand { table: base.table_name(), messages });
        passed.push((base.family, base.table.clone()));
    }
    // Those that drop no more, or are gone but for our chain.
    for ours in chains.iter().filter(|chain| chain.name == our_name(table)) {
        if !passed.contains(&(ours.family, ours.table.clone())) {
            errands.push(removal(socket, ours, table)?);
        }
    }
    Ok(errands)
}

/// What removes all of ours from other people's tables.
pub fn retreat(socket: &mut Socket, table: &str) -> Result<Vec<Errand>, Error> {
    let all = chains(socket)?;
    all.iter()
        .filter(|chain| chain.name == our_name(table))
        .map(|ours| removal(socket, ours, table))
        .collect()
}

fn removal(socket: &mut Socket, ours: &Chain, table: &str) -> Result<Errand, Error> {
    let of_table = rules(socket, ours.family, &ours.table)?;
    let mut messages = without_jumps(ours, &of_table, table);
    let name = our_name(table);
    messages.push(ours.message("flush our chain", DELETE_RULE, 0).text(rule::CHAIN, &name));
    messages.push(ours.message("delete our chain", DELETE_CHAIN, 0).text(chain::NAME, &name));
    Ok(Errand { table: ours.table_name(), messages })
}

fn our_name(table: &str) -> String {
    format!("{table}-forward")
}

/// The chain of ours in somebody's table, with its rules and no others.
fn our_chain(base: &Chain, table: &str, policy: &Policy) -> Vec<Message> {
    let name = our_name(table);
    let ours = |side| Expr::Link { side, prefix: policy.link_prefix.clone(), is: true };
    let to_ours = |condition| vec![ours(Side::Out), condition, Expr::Accept];
    let mut rules = vec![vec![ours(Side::In), Expr::Accept]];
    match base.is_of_iptables() {
        true => rules.push(to_ours(Expr::IptablesConntrack)),
        false => {
            rules.push(to_ours(Expr::Established));
            rules.push(to_ours(Expr::DestinationTranslated { is: true }));
        }
    }
    // None of these expressions depends on the family.
    let place = Table { family: Family::V4, name: base.table.clone() };
    let mut messages = vec![
        base.message("add our chain", NEW_CHAIN, flags::CREATE).text(chain::NAME, &name),
        base.message("flush our chain", DELETE_RULE, 0).text(rule::CHAIN, &name),
    ];
    messages.extend(rules.iter().map(|rule| append(&place, &name, rule).of_family(base.family)));
    messages
}

/// Deletes the jumps to our chain.
fn without_jumps(base: &Chain, rules: &[Rule], table: &str) -> Vec<Message> {
    let ours = End::Jump(our_name(table));
    let delete = |rule: &Rule| {
        let message = base.message("delete jump to our chain", DELETE_RULE, 0);
        message.text(rule::CHAIN, &rule.chain).bytes(rule::HANDLE, &rule.handle)
    };
    rules.iter().filter(|rule| rule.end == ours).map(delete).collect()
}

/// The jump, as the chain's last rule but for one that lets nothing get behind it.
fn jump(base: &Chain, rules: &[Rule], table: &str) -> Message {
    const POSITION: u16 = 6;
    const USER_DATA: u16 = 7;
    let last = rules.iter().rfind(|rule| rule.chain == base.name && rule.end != End::Jump(our_name(table)));
    let before = last.filter(|rule| matches!(rule.end, End::DropsAll | End::DecidesAll));
    let place = if before.is_some() { flags::CREATE } else { flags::CREATE | flags::APPEND };
    let message = base.message("add jump to our chain", NEW_RULE, place).text(rule::CHAIN, &base.name);
    let message = message.nested(rule::EXPRESSIONS, |list| {
        list.nested(LIST_ELEMENT, |m| {
            m.text(1, "immediate").nested(2, |m| {
                m.u32_be(1, 0).nested(2, |m| {
                    m.nested(VERDICT, |m| m.u32_be(VERDICT_CODE, JUMP).text(VERDICT_CHAIN, &our_name(table)))
                })
            })
        })
    });
    // As `nft` keeps a comment: type 0, its length, the text.
    let comment = [&[0, table.len() as u8 + 1], table.as_bytes(), &[0]].concat();
    let message = message.bytes(USER_DATA, &comment);
    match before {
        Some(rule) => message.bytes(POSITION, &rule.handle),
        None => message,
    }
}

impl Chain {
    fn table_name(&self) -> String {
        let family = match self.family {
            INET => "inet",
            family if family == Family::V6.number() => "ip6",
            _ => "ip",
        };
        format!("{family} {}", self.table)
    }

    /// Whether the programs of iptables show and change it.
    fn is_of_iptables(&self) -> bool {
        self.family != INET && self.table == "filter" && self.name == "FORWARD"
    }

    fn message(&self, what: &'static str, operation: u8, flags: u16) -> Message {
        about(what, operation, flags, self.family).text(TABLE_NAME, &self.table)
    }

    fn parse(payload: &[u8]) -> Option<Chain> {
        let find = |wanted| find(payload.get(4..)?, wanted);
        let number = |bytes: &[u8]| Some(u32::from_be_bytes(*bytes.first_chunk()?));
        Some(Chain {
            family: *payload.first()?,
            table: text(find(TABLE_NAME)?),
            name: text(find(chain::NAME)?),
            hook: find(chain::HOOK).and_then(|hook| number(self::find(hook, 1)?)),
            policy: find(chain::POLICY).and_then(number),
        })
    }
}

impl Rule {
    fn parse(payload: &[u8]) -> Option<Rule> {
        let find = |wanted| find(payload.get(4..)?, wanted);
        let expressions = find(rule::EXPRESSIONS).unwrap_or_default();
        Some(Rule {
            chain: text(find(rule::CHAIN)?),
            handle: find(rule::HANDLE)?.to_vec(),
            end: End::parse(expressions).unwrap_or(End::Other),
        })
    }
}

impl End {
    /// None: it depends on the packet.
    fn parse(expressions: &[u8]) -> Option<End> {
        let mut all = attributes(expressions)
            .filter(|(kind, _)| *kind == LIST_ELEMENT)
            .map(|(_, value)| (text(find(value, 1).unwrap_or_default()), find(value, 2).unwrap_or_default()));
        // Every packet passes these, among the matches of iptables comments.
        let passes = |(name, data): &(String, &[u8])| {
            matches!(name.as_str(), "counter" | "log")
                || name == "match" && find(data, 1).map(text).as_deref() == Some("comment")
        };
        let (name, data) = all.find(|expression| !passes(expression))?;
        match name.as_str() {
            "reject" => Some(End::DropsAll),
            "target" => match find(data, 1).map(text).as_deref() {
                Some("REJECT" | "DROP") => Some(End::DropsAll),
                _ => None,
            },
            "immediate" => {
                let verdict = find(find(data, 2)?, VERDICT)?;
                let code = u32::from_be_bytes(*find(verdict, VERDICT_CODE)?.first_chunk()?);
                match code {
                    DROP => Some(End::DropsAll),
                    JUMP => Some(End::Jump(text(find(verdict, VERDICT_CHAIN)?))),
                    _ => Some(End::DecidesAll),
                }
            }
            _ => None,
        }
    }
}

fn chains(socket: &mut Socket) -> Result<Vec<Chain>, Error> {
    const ALL_FAMILIES: u8 = 0;
    socket.dump(about("list firewall chains", GET_CHAIN, flags::DUMP, ALL_FAMILIES), Chain::parse)
}

fn rules(socket: &mut Socket, family: u8, table: &str) -> Result<Vec<Rule>, Error> {
    let request = about("list firewall rules", GET_RULE, flags::DUMP, family).text(TABLE_NAME, table);
    socket.dump(request, Rule::parse)
}

fn about(what: &'static str, operation: u8, flags: u16, family: u8) -> Message {
    Message::new(what, u16::from_be_bytes([SUBSYSTEM, operation]), flags, &[family, 0, 0, 0])
}

fn find(fields: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(fields).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
