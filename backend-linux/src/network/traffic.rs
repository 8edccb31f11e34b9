//! What the containers' links have carried.

use std::{collections::HashMap, fs};

use protocol::NetworkStat;

use super::{Attachment, Error};

/// All links of this network namespace. In one file, whose reading waits for no lock of the network's.
const FILE: &str = "/proc/thread-self/net/dev";

/// Where the columns of a link's line are, after its name.
const RECEIVED_BYTES: usize = 0;
const TRANSMITTED_BYTES: usize = 8;

/// What each link of the host had carried when this was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traffic(HashMap<String, NetworkStat>);

impl Traffic {
    /// Asks the kernel. Blocks for a moment.
    pub fn read() -> Result<Traffic, Error> {
        let text = fs::read_to_string(FILE)
            .map_err(|source| Error::System { what: "read /proc/thread-self/net/dev", source })?;
        Ok(Traffic::parse(&text))
    }

    /// As the container sees it: the host's end of its link transmits what it receives. None once the link is gone.
    /// Nor is it known which link is the host's end of what plug-ins have made.
    pub fn of(&self, attachment: &Attachment) -> Option<NetworkStat> {
        match attachment {
            Attachment::Own(assignment) => self.0.get(&assignment.host_link).copied(),
            Attachment::Plugged(_) => None,
        }
    }

    /// Lines without a name and numbers are headings.
    fn parse(text: &str) -> Traffic {
        let link = |line: &str| {
            let (name, numbers) = line.split_once(':')?;
            let number = |column| numbers.split_whitespace().nth(column)?.parse().ok();
            let (rx_bytes, tx_bytes) = (number(TRANSMITTED_BYTES)?, number(RECEIVED_BYTES)?);
            Some((name.trim_start().to_owned(), NetworkStat { rx_bytes, tx_bytes }))
        };
        Traffic(text.lines().filter_map(link).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_hosts_end_transmits_the_container_receives() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
g-0123abcd:11111111 2 0 0 0 0 0 0 2222222222222 3 0 0 0 0 0 0
 broken: 1 2 3
";
        let traffic = Traffic::parse(text);
        let own = NetworkStat { rx_bytes: 2_222_222_222_222, tx_bytes: 11_111_111 };
        assert_eq!(traffic.0.get("g-0123abcd"), Some(&own));
        assert_eq!(traffic.0.len(), 2);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fail(text in "[ -~\n]{0,400}") {
            Traffic::parse(&text);
        }
    }
}
