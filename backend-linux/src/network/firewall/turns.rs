//! Turns at the firewall: changes that wait at the same moment are made together.
//!
//! Whoever gets the firewall makes all that wait, its own among them: with a program to be executed for each commit,
//! eight creates at once cost one or two commits and not eight.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use super::{Change, Firewall};
use crate::network::Error;

/// The firewall and what waits for it; clones share both.
#[derive(Clone)]
pub struct Turns {
    firewall: Arc<Mutex<Box<dyn Firewall>>>,
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

struct Waiting {
    /// Nothing else of this owner's is made in the same commit, so that each change is prepared after the earlier ones.
    owner: String,
    prepare: Box<dyn FnOnce() -> Result<Change, Error> + Send>,
    finish: Box<dyn FnOnce() + Send>,
    answer: mpsc::SyncSender<Result<(), Error>>,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turns").field(&self.firewall).finish()
    }
}

impl Turns {
    pub fn new(firewall: Box<dyn Firewall>) -> Turns {
        Turns { firewall: Arc::new(Mutex::new(firewall)), waiting: Arc::default() }
    }

    /// The firewall, for what is not one container's, on a thread that may block.
    pub fn firewall(&self) -> MutexGuard<'_, Box<dyn Firewall>> {
        // A netlink socket drains what an interrupted batch left before it sends the next; programs run to their end.
        self.firewall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, on a thread that may block. `prepare` says which, and `finish` notes that it was made, both with
    /// the firewall in hand.
    pub fn change(
        &self,
        owner: &str,
        prepare: impl FnOnce() -> Result<Change, Error> + Send + 'static,
        finish: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let (answer, result) = mpsc::sync_channel(1);
        let (prepare, finish) = (Box::new(prepare), Box::new(finish));
        self.waiting().push(Waiting { owner: owner.to_owned(), prepare, finish, answer });
        let mut firewall = self.firewall();
        let all = std::mem::take(&mut *self.waiting());
        let mut together: Vec<Waiting> = Vec::new();
        let mut owners = HashSet::new();
        for one in all {
            if !owners.insert(one.owner.clone()) {
                commit(firewall.as_mut(), std::mem::take(&mut together));
                owners = HashSet::from([one.owner.clone()]);
            }
            together.push(one);
        }
        commit(firewall.as_mut(), together);
        drop(firewall);
        result.recv().unwrap_or(Err(Error::WorkerLost))
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes them all at once; where that fails, one by one, so that each hears of its own error only.
fn commit(firewall: &mut dyn Firewall, waiting: Vec<Waiting>) {
    let mut changes = Vec::with_capacity(waiting.len());
    let mut prepared = Vec::with_capacity(waiting.len());
    for one in waiting {
        match (one.prepare)() {
            Ok(change) => {
                changes.push(change);
                prepared.push((one.finish, one.answer));
            }
            // Who asked may have gone away.
            Err(error) => drop(one.answer.send(Err(error))),
        }
    }
    if changes.is_empty() {
        return;
    }
    let all_made = changes.len() > 1 && firewall.apply(&changes).is_ok();
    for (change, (finish, answer)) in changes.iter().zip(prepared) {
        let link = &change.assignment().host_link;
        let made = if all_made { Ok(()) } else { firewall.apply(std::slice::from_ref(change)) };
        if made.is_ok() {
            finish();
        }
        drop(answer.send(made.map_err(|source| Error::Firewall { what: format!("link {link}"), source })));
    }
}
