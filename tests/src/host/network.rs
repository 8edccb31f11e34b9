//! Links, addresses, routes and firewall rules, as the tools print them that people use.

use std::process::Command;

/// What a program prints; one line that says so if it cannot be run or fails.
fn output(program: &str, args: &[&str]) -> Vec<String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
        }
        // The reason may differ from run to run; that there is no answer does not.
        Ok(_) => vec![format!("({program} {} fails)", args.join(" "))],
        Err(_) => vec![format!("({program} is not installed)")],
    }
}

/// Names, flags and addresses, without their numbers.
pub(super) fn links() -> Vec<String> {
    let lines = output("ip", &["-o", "link", "show"]);
    lines.into_iter().map(|line| without_number(&line)).collect()
}

fn without_number(line: &str) -> String {
    match line.split_once(": ") {
        Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => rest.to_owned(),
        _ => line.to_owned(),
    }
}

/// Of all links, without how long they are valid.
pub(super) fn addresses() -> Vec<String> {
    let lines = output("ip", &["-o", "addr", "show"]);
    let line = |line: String| {
        let line = without_number(&line);
        line.split("valid_lft").next().unwrap_or_default().trim_end_matches(['\\', ' ']).to_owned()
    };
    lines.into_iter().map(line).collect()
}

/// Of all tables, without when they expire.
pub(super) fn routes() -> Vec<String> {
    let lines =
        ["-4", "-6"].into_iter().flat_map(|family| output("ip", &[family, "route", "show", "table", "all"]));
    lines.map(|line| line.split(" expires").next().unwrap_or_default().trim().to_owned()).collect()
}

/// Which table is asked for what.
pub(super) fn policies() -> Vec<String> {
    let rules = |family| {
        output("ip", &[family, "rule", "show"]).into_iter().map(move |rule| format!("{family} {rule}"))
    };
    ["-4", "-6"].into_iter().flat_map(rules).collect()
}

/// Every rule with its table and chain, without counters.
pub(super) fn nftables() -> Vec<String> {
    let mut lines = with_headings(&output("nft", &["--stateless", "list", "ruleset"]));
    lines.retain(|line| !is_empty_iptables(line));
    lines
}

/// The chains that the programs of iptables make when they are first used, and never remove: they do nothing.
fn is_empty_iptables(line: &str) -> bool {
    const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];
    let parts: Vec<&str> = line.split(" / ").collect();
    let table = parts[0].strip_prefix("table ip6 ").or_else(|| parts[0].strip_prefix("table ip "));
    let is_base_chain = |name: &str| name.strip_prefix("chain ").is_some_and(is_built_in);
    table.is_some_and(|table| TABLES.contains(&table))
        && match parts[1..] {
            [] => true,
            [chain] => is_base_chain(chain),
            [chain, hook] => {
                is_base_chain(chain) && hook.starts_with("type ") && hook.ends_with("policy accept;")
            }
            _ => false,
        }
}

fn is_built_in(chain: &str) -> bool {
    ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&chain)
}

/// Puts before each line those that it is nested in.
fn with_headings(lines: &[String]) -> Vec<String> {
    let mut headings: Vec<&str> = Vec::new();
    let mut full = Vec::new();
    for line in lines.iter().map(|line| line.trim()) {
        if let Some(heading) = line.strip_suffix('{') {
            headings.push(heading.trim());
            full.push(headings.join(" / "));
        } else if line == "}" {
            headings.pop();
        } else if !line.is_empty() {
            full.push(format!("{} / {line}", headings.join(" / ")));
        }
    }
    full
}

/// Every rule with its table, without counters and dates.
pub(super) fn iptables() -> Vec<String> {
    let mut rules = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let mut table = String::new();
        for line in output(program, &[]) {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if !line.starts_with('#') && line != "COMMIT" {
                let rule = line.split(" [").next().unwrap_or_default();
                if rule
                    .strip_prefix(':')
                    .and_then(|rule| rule.strip_suffix(" ACCEPT"))
                    .is_some_and(is_built_in)
                {
                    continue;
                }
                rules.push(format!("{program} {table} {rule}"));
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_chains_of_iptables_are_none_and_what_is_in_them_is_something() {
        let hook = "type filter hook forward priority filter; policy";
        for line in ["", " / chain FORWARD", &format!(" / chain FORWARD / {hook} accept;")] {
            assert!(is_empty_iptables(&format!("table ip filter{line}")), "{line}");
            assert!(!is_empty_iptables(&format!("table ip garden{line}")), "{line}");
        }
        for line in
            [" / chain DOCKER", " / chain FORWARD / drop", &format!(" / chain FORWARD / {hook} drop;")]
        {
            assert!(!is_empty_iptables(&format!("table ip filter{line}")), "{line}");
        }
    }

    #[test]
    fn each_rule_says_where_it_is() {
        let text = "table ip t {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\n\tchain c {\n\t\tdrop\n\t}\n}\n";
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(
            with_headings(&lines),
            [
                "table ip t",
                "table ip t / set s",
                "table ip t / set s / type ipv4_addr",
                "table ip t / chain c",
                "table ip t / chain c / drop"
            ]
        );
    }

    #[test]
    fn what_changes_by_itself_is_left_out() {
        assert_eq!(without_number("12: lo: <LOOPBACK>"), "lo: <LOOPBACK>");
        assert_eq!(without_number("(ip is not installed)"), "(ip is not installed)");
    }
}
