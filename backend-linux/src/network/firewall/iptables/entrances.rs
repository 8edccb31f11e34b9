//! What leads from other people's chains to ours.

use super::{
    fixed::ENTRANCES,
    saved::{Saved, Table, target},
    text::{Names, Part},
    tool::{Programs, ToolError, Tools},
};

/// Beyond a rule of just one of these there is nothing.
const VERDICTS: [&str; 4] = ["ACCEPT", "DROP", "RETURN", "REJECT"];

/// Makes those that are not there, for the parts that `wanted` has.
pub fn open(
    tools: &Tools,
    programs: &Programs,
    names: &Names,
    saved: &Saved,
    wanted: impl Fn(Part) -> bool,
) -> Result<(), ToolError> {
    for (table, chain, condition, part) in ENTRANCES.into_iter().filter(|(.., part)| wanted(*part)) {
        let ours = names.chain(part);
        let there = saved.table(table).is_some_and(|table| leads(table, chain, &ours));
        if !there {
            let owner = &names.owner;
            let rule = format!("-I {chain} 1 {condition} -m comment --comment {owner} -j {ours}");
            tools.command(programs, table, &rule)?;
        }
    }
    Ok(())
}

/// Where other people's chain would drop all that passes ours, lets it pass, behind what their operators have there;
/// where it would no more, leaves it alone.
pub fn open_passage(tools: &Tools, programs: &Programs, names: &Names) -> Result<(), ToolError> {
    let saved = Saved::parse(&tools.save(programs)?);
    let Some(filter) = saved.table("filter") else { return Ok(()) };
    let passage = names.chain(Part::Passage);
    let there = filter.rules.iter().find(|rule| rule.target() == Some(&passage));
    match (there, drops(filter)) {
        (None, true) => {}
        (Some(_), true) | (None, false) => return Ok(()),
        (Some(jump), false) => {
            return tools.command(programs, "filter", &format!("-D {} {}", jump.chain, jump.text));
        }
    }
    let chain = "FORWARD";
    let rules: Vec<&str> = filter.rules_of(chain).collect();
    let place = match rules.last() {
        Some(last) if verdict(last).is_some() => format!("-I {chain} {}", rules.len()),
        _ => format!("-A {chain}"),
    };
    tracing::info!(
        chain,
        "the host's own firewall drops what is forwarded: containers' packets pass it there"
    );
    tools.command(programs, "filter", &format!("{place} -m comment --comment {} -j {passage}", names.owner))
}

/// Removes all of them.
pub fn close(tools: &Tools, programs: &Programs, names: &Names, saved: &Saved) -> Result<(), ToolError> {
    for table in ["raw", "nat", "filter"] {
        let Some(saved) = saved.table(table) else { continue };
        let others = saved.rules.iter().filter(|rule| !names.is_ours(&rule.chain));
        for rule in others.filter(|rule| rule.target().is_some_and(|target| names.is_ours(target))) {
            tools.command(programs, table, &format!("-D {} {}", rule.chain, rule.text))?;
        }
    }
    Ok(())
}

fn leads(table: &Table, chain: &str, to: &str) -> bool {
    table.rules_of(chain).any(|rule| target(rule) == Some(to))
}

/// Whether nothing gets to the end of the chain of what is forwarded, or nothing beyond it.
fn drops(filter: &Table) -> bool {
    let policy = filter.chain("FORWARD").is_some_and(|chain| chain.policy == "DROP");
    let last = filter.rules_of("FORWARD").last().and_then(verdict);
    policy || matches!(last, Some("DROP" | "REJECT"))
}

/// The verdict of a rule without conditions.
fn verdict(rule: &str) -> Option<&str> {
    let target = without_comment(rule).strip_prefix("-j ")?.split(' ').next()?;
    VERDICTS.contains(&target).then_some(target)
}

/// A comment is printed first of a rule's matches, in quotes where it has anything but letters in it.
fn without_comment(rule: &str) -> &str {
    let Some(comment) = rule.strip_prefix("-m comment --comment ") else { return rule };
    let end = match comment.strip_prefix('"') {
        Some(_) => comment.find("\" "),
        None => comment.find(' '),
    };
    end.map_or("", |end| comment[end..].trim_start_matches(['"', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_that_of_a_rule_without_conditions() {
        assert_eq!(verdict("-j REJECT --reject-with icmp-port-unreachable"), Some("REJECT"));
        assert_eq!(verdict("-m comment --comment all -j DROP"), Some("DROP"));
        assert_eq!(verdict("-m comment --comment \"all the rest\" -j DROP"), Some("DROP"));
        for other in
            ["-i eth0 -j DROP", "-j DOCKER", "-m comment --comment \"-j DROP\" -i eth0 -j DROP", "-m"]
        {
            assert_eq!(verdict(other), None, "{other}");
        }
    }
}
