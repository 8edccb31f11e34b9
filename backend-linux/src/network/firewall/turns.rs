//! Turns at the firewall: changes that wait at the same moment are made together.
//!
//! Whoever gets the firewall makes all that wait, its own among them: with a program to be executed for each commit,
//! eight creates at once cost one or two commits and not eight.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use super::{Change, Error as FirewallError, Firewall};
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

/// Makes them all at once; where that fails, one by one, so that each hears of its own error only. Where no change can be
/// made, they do not all wait for that one after the other.
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
    let mut together = (changes.len() > 1).then(|| firewall.apply(&changes));
    let all_made = matches!(together, Some(Ok(())));
    let mut hopeless = false;
    for (change, (finish, answer)) in changes.iter().zip(prepared) {
        let link = &change.assignment().host_link;
        let made = match together.take() {
            _ if all_made => Ok(()),
            _ if hopeless => Err(FirewallError::NotTried),
            Some(Err(error)) if error.is_of_any_change() => Err(error),
            _ => firewall.apply(std::slice::from_ref(change)),
        };
        hopeless |= made.as_ref().is_err_and(FirewallError::is_of_any_change);
        if made.is_ok() {
            finish();
        }
        drop(answer.send(made.map_err(|source| Error::Firewall { what: format!("link {link}"), source })));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::network::{
        Assignment, Subnet,
        firewall::{Member, Policy, ToolError},
        netlink,
    };

    /// Counts its commits, and refuses those with a change for a link of this name, or any if it is empty.
    #[derive(Debug, Default)]
    struct Counting {
        commits: Arc<AtomicUsize>,
        refused: Option<String>,
    }

    impl Firewall for Counting {
        fn install(&mut self, _: &Policy) -> Result<(), FirewallError> {
            Ok(())
        }

        fn apply(&mut self, changes: &[Change]) -> Result<(), FirewallError> {
            self.commits.fetch_add(1, Ordering::Relaxed);
            let refused = |change: &Change| Some(&change.assignment().host_link) == self.refused.as_ref();
            if self.refused.as_deref() == Some("") {
                return Err(ToolError::Locked { tool: "test", wait_seconds: 1 }.into());
            }
            match changes.iter().any(refused) {
                true => Err(netlink::Error::NoAnswer { what: "test" }.into()),
                false => Ok(()),
            }
        }

        fn replace_all(&mut self, _: &[Member]) -> Result<(), FirewallError> {
            Ok(())
        }

        fn uninstall(&mut self) -> Result<(), FirewallError> {
            Ok(())
        }

        fn has_siblings(&mut self) -> Result<bool, FirewallError> {
            Ok(false)
        }
    }

    fn admit(link: &str) -> Change {
        let subnet = Subnet::try_from("10.254.0.0/30".parse::<ipnetwork::Ipv4Network>().unwrap()).unwrap();
        Change::Admit(Assignment {
            subnet,
            host_ip: subnet.host_address(),
            container_ip: subnet.container_address(),
            host_link: link.to_owned(),
            mtu: 1500,
            ipv6: None,
        })
    }

    /// What comes of changes for these links that all wait when the firewall becomes free, and the number of commits.
    fn together(links: &[&str], refused: Option<&str>) -> (Vec<bool>, usize) {
        let commits = Arc::new(AtomicUsize::new(0));
        let firewall = Counting { commits: Arc::clone(&commits), refused: refused.map(str::to_owned) };
        let turns = Turns::new(Box::new(firewall));
        let held = turns.firewall();
        let made = thread::scope(|scope| {
            let change = |link: String| {
                let turns = turns.clone();
                scope.spawn(move || turns.change(&link.clone(), move || Ok(admit(&link)), || {}).is_ok())
            };
            let threads: Vec<_> = links.iter().map(|link| change((*link).to_owned())).collect();
            let start = Instant::now();
            while turns.waiting().len() < links.len() {
                assert!(start.elapsed() < Duration::from_secs(10), "not all of them wait");
                thread::yield_now();
            }
            drop(held);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        (made, commits.load(Ordering::Relaxed))
    }

    #[test]
    fn sixteen_changes_that_wait_are_one_commit() {
        let links: Vec<String> = (0..16).map(|n| format!("g-{n}")).collect();
        let links: Vec<&str> = links.iter().map(String::as_str).collect();
        assert_eq!(together(&links, None), (vec![true; 16], 1));
    }

    #[test]
    fn changes_of_one_container_are_a_commit_each() {
        assert_eq!(together(&["g-1", "g-1"], None), (vec![true; 2], 2));
    }

    #[test]
    fn where_nothing_can_be_changed_it_is_tried_once_for_all() {
        assert_eq!(together(&["g-1", "g-2", "g-3"], Some("")), (vec![false; 3], 1));
    }

    #[test]
    fn a_change_that_is_refused_fails_alone() {
        let (made, commits) = together(&["g-1", "g-2", "g-3"], Some("g-2"));
        // All together, and then each by itself.
        assert_eq!((made, commits), (vec![true, false, true], 4));
    }
}
