//! The handles in use, and what each stands for.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::Properties;

use crate::container::Container;

/// What a handle stands for.
pub enum Slot {
    /// A container that is being made, with its properties.
    Creating(Properties),
    /// A container.
    Ready(Arc<Container>),
}

/// All handles in use.
#[derive(Default)]
pub struct Slots(Mutex<SlotMap>);

impl Slots {
    pub fn lock(&self) -> MutexGuard<'_, SlotMap> {
        // The map is whole whatever happened to a thread that had it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn containers(&self) -> Vec<Arc<Container>> {
        let ready = |slot: &Slot| match slot {
            Slot::Ready(container) => Some(Arc::clone(container)),
            Slot::Creating(_) => None,
        };
        self.lock().values().filter_map(ready).collect()
    }
}

/// The slots by handle; changed by its own methods only.
#[derive(Default)]
pub struct SlotMap {
    by_handle: HashMap<String, Slot>,
    /// The unfiltered list, until it changes.
    listed: Option<Arc<[String]>>,
}

impl Deref for SlotMap {
    type Target = HashMap<String, Slot>;

    fn deref(&self) -> &Self::Target {
        &self.by_handle
    }
}

impl SlotMap {
    pub fn insert(&mut self, handle: String, slot: Slot) {
        self.listed = None;
        self.by_handle.insert(handle, slot);
    }

    pub fn remove(&mut self, handle: &str) {
        self.listed = None;
        self.by_handle.remove(handle);
    }

    /// The handles of what has all these properties, in order.
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
        let all = filter.get("garden.state").is_some_and(|state| state == "all");
        let wanted: Vec<_> = filter.iter().filter(|(key, _)| *key != "garden.state").collect();
        let has =
            |properties: &Properties| wanted.iter().all(|(key, value)| properties.get(*key) == Some(value));
        let listed = |slot: &Slot| match slot {
            Slot::Creating(properties) => all && has(properties),
            Slot::Ready(container) => has(&container.record().properties),
        };
        let mut handles: Vec<String> = self
            .by_handle
            .iter()
            .filter(|(_, slot)| listed(slot))
            .map(|(handle, _)| handle.clone())
            .collect();
        handles.sort();
        handles.into()
    }
}

/// A handle that is taken for as long as its container is being made.
pub struct Reservation {
    slots: Arc<Slots>,
    handle: String,
    kept: bool,
}

impl Reservation {
    /// The slot was filled by the caller.
    pub fn new(slots: &Arc<Slots>, handle: &str) -> Self {
        Reservation { slots: Arc::clone(slots), handle: handle.to_owned(), kept: false }
    }

    pub fn handle(&self) -> &str {
        &self.handle
    }

    pub fn keep(mut self, container: Arc<Container>) {
        self.slots.lock().insert(self.handle.clone(), Slot::Ready(container));
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            self.slots.lock().remove(&self.handle);
        }
    }
}
