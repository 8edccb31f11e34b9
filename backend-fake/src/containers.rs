//! The containers there are, and the list of them that clients poll.

use std::{collections::BTreeMap, sync::Arc};

use protocol::Properties;

use crate::container::{Container, Phase};

/// All containers, also those that are being made or destroyed.
#[derive(Default)]
pub(crate) struct Containers {
    pub by_handle: BTreeMap<String, Arc<Container>>,
    /// The unfiltered list, until it changes.
    pub listed: Option<Arc<[String]>>,
}

impl Containers {
    /// The handles that fit a filter; the same answer again as long as nothing has changed.
    pub fn list(&mut self, filter: &Properties) -> Arc<[String]> {
        if !filter.is_empty() {
            return self.matching(filter);
        }
        if self.listed.is_none() {
            self.listed = Some(self.matching(filter));
        }
        self.listed.clone().unwrap_or_default()
    }

    fn matching(&self, filter: &Properties) -> Arc<[String]> {
        let mut wanted = filter.clone();
        let state = wanted.remove("garden.state").unwrap_or_else(|| "created".into());
        let matching = self.by_handle.values().filter(|container| {
            let in_state = match state.as_str() {
                "all" => true,
                "created" => container.phase() == Phase::Created,
                _ => false,
            };
            in_state && container.has_properties(&wanted)
        });
        matching.map(|container| container.handle.clone()).collect()
    }
}
