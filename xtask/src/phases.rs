//! A run of several phases, each timed, with a summary at the end.

use std::time::{Duration, Instant};

use crate::{Outcome, shell};

/// What became of a phase.
enum End {
    Passed,
    Failed(String),
    Skipped(String),
}

/// The phases so far.
#[derive(Default)]
pub struct Phases {
    done: Vec<(&'static str, End, Duration)>,
}

impl Phases {
    /// Runs a phase unless one before it failed. Answers whether it passed.
    pub fn run(&mut self, name: &'static str, work: impl FnOnce() -> Outcome) -> bool {
        !self.any_failed() && self.run_anyway(name, work)
    }

    /// Runs a phase whatever became of those before.
    pub fn run_anyway(&mut self, name: &'static str, work: impl FnOnce() -> Outcome) -> bool {
        println!("\n== {name}");
        let begun = Instant::now();
        let end = match work() {
            Ok(()) => End::Passed,
            Err(why) => {
                println!("== {name} FAILED: {why}");
                End::Failed(why)
            }
        };
        let passed = matches!(end, End::Passed);
        self.done.push((name, end, begun.elapsed()));
        passed
    }

    /// Leaves a phase out, and says why. Where nothing may be left out, that is a failure.
    pub fn skip(&mut self, name: &'static str, why: &str) {
        if shell::is_ci() {
            self.run_anyway(name, || Err(format!("{why}, and CI=true allows no skip")));
        } else {
            self.leave_out(name, why);
        }
    }

    /// Leaves a phase out that may be left out anywhere, and says why.
    pub fn leave_out(&mut self, name: &'static str, why: &str) {
        println!("\n== {name}: left out: {why}");
        self.done.push((name, End::Skipped(why.to_owned()), Duration::ZERO));
    }

    fn any_failed(&self) -> bool {
        self.done.iter().any(|(_, end, _)| matches!(end, End::Failed(_)))
    }

    /// Prints what became of each, and fails if one did.
    pub fn finish(self) -> Outcome {
        println!();
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for (name, end, took) in &self.done {
            let (word, why) = match end {
                End::Passed => {
                    passed += 1;
                    ("ok", "")
                }
                End::Failed(why) => {
                    failed += 1;
                    ("FAILED", why.as_str())
                }
                End::Skipped(why) => {
                    skipped += 1;
                    ("skipped", why.as_str())
                }
            };
            println!("{word:8} {:7.1} s  {name} {why}", took.as_secs_f64());
        }
        println!("phases: {passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 { Ok(()) } else { Err("not everything passed".to_owned()) }
    }
}
