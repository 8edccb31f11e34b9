//! Names, address families, and the text that `iptables-restore` reads.

use std::{
    fmt::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::{IpNetwork, Ipv4Network};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }

    /// The host's own, on its loopback link.
    pub fn loopback(self) -> IpNetwork {
        match self {
            // The prefix is a constant below 33; otherwise it would be one address.
            Family::V4 => Ipv4Network::new(Ipv4Addr::new(127, 0, 0, 0), 8)
                .map_or(IpNetwork::from(IpAddr::V4(Ipv4Addr::LOCALHOST)), IpNetwork::V4),
            Family::V6 => IpNetwork::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        }
    }

    /// Tells the sender that nobody may.
    pub fn reject(self) -> &'static str {
        match self {
            Family::V4 => "REJECT --reject-with icmp-admin-prohibited",
            Family::V6 => "REJECT --reject-with icmp6-adm-prohibited",
        }
    }
}

/// The fixed chains of one server, which share a beginning. Each is at most 28 characters long, and longer than a tag, so
/// that no tag's chain is another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What comes in with an address that it cannot have. In `raw`.
    Raw,
    /// Published ports, to their containers. In `nat`, as are the next two.
    Ports,
    /// Under which address packets go out.
    Masquerade,
    /// Containers that reach their own published ports.
    Hairpin,
    /// What containers send through the host. In `filter`, as are the rest.
    Forward,
    /// To another container's link.
    Neighbours,
    /// To another container's link, and not in a subnet that both share.
    Apart,
    /// To the chain of the container that sends.
    Outbound,
    /// Where containers must not go.
    Denied,
    /// What containers send to the host.
    Input,
    /// Lets through what is ours and was not refused, where somebody else's chain would drop it.
    Passage,
}

impl Part {
    pub const ALL: [Part; 11] = [
        Part::Raw,
        Part::Ports,
        Part::Masquerade,
        Part::Hairpin,
        Part::Forward,
        Part::Neighbours,
        Part::Apart,
        Part::Outbound,
        Part::Denied,
        Part::Input,
        Part::Passage,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Part::Raw => "raw",
            Part::Ports => "ports",
            Part::Masquerade => "masquerade",
            Part::Hairpin => "hairpin",
            // Not "forward": nftables puts a chain of that name into a table that iptables may show.
            Part::Forward => "routed",
            Part::Neighbours => "neighbours",
            Part::Apart => "apart",
            Part::Outbound => "outbound",
            Part::Denied => "denied",
            Part::Input => "input",
            Part::Passage => "passage",
        }
    }
}

/// By what a server's chains and links are known.
#[derive(Debug, Clone)]
pub struct Names {
    /// Of everything: `garden`, or `garden-` and the tag.
    pub owner: String,
    /// Beginning of the links' names, which are those of the containers' chains too.
    pub links: String,
}

impl Names {
    pub fn new(tag: &str, links: String) -> Names {
        let owner = if tag.is_empty() { "garden".to_owned() } else { format!("garden-{tag}") };
        Names { owner, links }
    }

    pub fn chain(&self, part: Part) -> String {
        format!("{}-{}", self.owner, part.name())
    }

    /// Whether a chain is this server's.
    pub fn is_ours(&self, chain: &str) -> bool {
        chain.starts_with(&self.links) || Part::ALL.into_iter().any(|part| self.chain(part) == chain)
    }
}

/// Whether a chain is one of the fixed ones of a server, whatever its tag.
pub fn is_fixed(chain: &str) -> bool {
    let Some(rest) = chain.strip_prefix("garden-") else { return false };
    let part = rest.split_once('-').map_or(rest, |(_, part)| part);
    Part::ALL.into_iter().any(|known| known.name() == part)
}

/// The lines for one table: chains first, since rules may lead to any of them.
#[derive(Debug, Default)]
pub struct Lines {
    chains: String,
    rules: String,
}

impl Lines {
    /// The chain is there now, and without rules.
    pub fn empty_chain(&mut self, chain: &str) {
        // Into a string, as in `rule`: cannot fail.
        let _ = writeln!(self.chains, ":{chain} - [0:0]");
    }

    pub fn append(&mut self, chain: &str, rule: impl fmt::Display) {
        self.rule(format_args!("-A {chain} {rule}"));
    }

    /// Before all other rules.
    pub fn prepend(&mut self, chain: &str, rule: impl fmt::Display) {
        self.rule(format_args!("-I {chain} 1 {rule}"));
    }

    pub fn delete(&mut self, chain: &str, rule: impl fmt::Display) {
        self.rule(format_args!("-D {chain} {rule}"));
    }

    /// Removes a chain, there or not, that nothing leads to any more.
    pub fn remove_chain(&mut self, chain: &str) {
        self.empty_chain(chain);
        self.rule(format_args!("-X {chain}"));
    }

    fn rule(&mut self, line: fmt::Arguments<'_>) {
        let _ = writeln!(self.rules, "{line}");
    }

    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.rules.is_empty()
    }
}

/// The input of one `iptables-restore`.
#[derive(Debug, Default)]
pub struct Batch {
    pub raw: Lines,
    pub filter: Lines,
    pub nat: Lines,
}

impl Batch {
    /// Empty where there is nothing to do. The filter comes first, so that no port is open before its rules.
    pub fn text(&self) -> String {
        let tables = [("raw", &self.raw), ("filter", &self.filter), ("nat", &self.nat)];
        let some = tables.into_iter().filter(|(_, lines)| !lines.is_empty());
        some.map(|(name, lines)| format!("*{name}\n{}{}COMMIT\n", lines.chains, lines.rules)).collect()
    }

    /// The lines for a table of this name; none: nothing of ours is in it.
    pub fn table(&mut self, name: &str) -> Option<&mut Lines> {
        match name {
            "raw" => Some(&mut self.raw),
            "filter" => Some(&mut self.filter),
            "nat" => Some(&mut self.nat),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_no_tags_chain_is_anothers() {
        let (tagged, plain) = (Names::new("ab", "gab-".to_owned()), Names::new("", "g-".to_owned()));
        for part in Part::ALL {
            let (own, others) = (tagged.chain(part), plain.chain(part));
            assert!(own.len() <= 28 && is_fixed(&own) && is_fixed(&others));
            assert!(tagged.is_ours(&own) && !tagged.is_ours(&others) && !plain.is_ours(&own));
            assert!(part.name().len() > 2);
        }
        assert!(tagged.is_ours("gab-12345678") && !plain.is_ours("gab-12345678"));
        assert!(!is_fixed("garden-centre") && !plain.is_ours("garden-centre"));
    }

    #[test]
    fn only_tables_with_something_to_do_are_named() {
        let mut batch = Batch::default();
        assert_eq!(batch.text(), "");
        batch.nat.append("garden-ports", "-j RETURN");
        assert_eq!(batch.text(), "*nat\n-A garden-ports -j RETURN\nCOMMIT\n");
    }
}
