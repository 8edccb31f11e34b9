//! Faults on demand: errors, delays and stops at any operation.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol::{Error, Result};
use tokio::sync::watch;

use crate::sync::lock;

/// Where something can go wrong: every operation of [`Backend`](protocol::Backend), and what a client does with a
/// process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    Ping,
    Capacity,
    /// In its middle: the container is there, half-made.
    Create,
    /// In its middle: the container is being destroyed. After an error it is as before.
    Destroy,
    List,
    Info,
    BulkInfo,
    Metrics,
    BulkMetrics,
    /// Before the first signal.
    Stop,
    SetGraceTime,
    GraceTime,
    StreamIn,
    /// Before the first byte; for the middle see [`Faults::break_next_stream_out`].
    StreamOut,
    BandwidthLimits,
    CpuLimits,
    DiskLimits,
    MemoryLimits,
    NetIn,
    NetOut,
    ReplaceNetOut,
    Run,
    Attach,
    Properties,
    Property,
    SetProperty,
    RemoveProperty,
    /// Each reader of a standard output, before its first byte.
    Stdout,
    /// Each reader of a standard error, before its first byte.
    Stderr,
    WriteStdin,
    CloseStdin,
    Signal,
    SetTty,
    /// Hearing of a process's end, once it has ended.
    Exit,
}

/// What is to go wrong, by operation.
#[derive(Default)]
pub struct Faults {
    planned: Mutex<HashMap<Op, Plan>>,
    broken_stream_out: Mutex<Option<String>>,
}

#[derive(Default, Clone)]
struct Plan {
    error: Option<Error>,
    next_error: Option<Error>,
    delay: Duration,
    held: Option<Arc<Gate>>,
}

impl Faults {
    /// Every `op` fails with `error`, until [`clear`](Faults::clear).
    pub fn fail(&self, op: Op, error: Error) {
        lock(&self.planned).entry(op).or_default().error = Some(error);
    }

    /// The next `op` fails with `error`.
    pub fn fail_once(&self, op: Op, error: Error) {
        lock(&self.planned).entry(op).or_default().next_error = Some(error);
    }

    /// Every `op` takes this much longer, until [`clear`](Faults::clear).
    pub fn delay(&self, op: Op, delay: Duration) {
        lock(&self.planned).entry(op).or_default().delay = delay;
    }

    /// Every `op` waits until the answer is released or dropped.
    #[must_use = "dropping it releases what it holds"]
    pub fn hold(&self, op: Op) -> Hold {
        let gate = Arc::new(Gate::default());
        lock(&self.planned).entry(op).or_default().held = Some(gate.clone());
        Hold(gate)
    }

    /// The next `stream_out` sends the first half of its tar and then this error.
    pub fn break_next_stream_out(&self, message: impl Into<String>) {
        *lock(&self.broken_stream_out) = Some(message.into());
    }

    /// Nothing goes wrong with `op` any more. What it holds stays held.
    pub fn clear(&self, op: Op) {
        lock(&self.planned).remove(&op);
    }

    /// What every operation passes through.
    pub(crate) async fn enter(&self, op: Op) -> Result<()> {
        let plan = {
            let mut planned = lock(&self.planned);
            let Some(plan) = planned.get_mut(&op) else { return Ok(()) };
            let taken = plan.clone();
            plan.next_error = None;
            taken
        };
        if let Some(gate) = plan.held {
            gate.pass().await;
        }
        if !plan.delay.is_zero() {
            tokio::time::sleep(plan.delay).await;
        }
        plan.next_error.or(plan.error).map_or(Ok(()), Err)
    }

    pub(crate) fn take_broken_stream_out(&self) -> Option<String> {
        lock(&self.broken_stream_out).take()
    }
}

/// Operations that wait; they go on when it is released or dropped.
pub struct Hold(Arc<Gate>);

#[derive(Default)]
struct Gate {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn pass(&self) {
        self.arrived.send_modify(|count| *count += 1);
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

impl Hold {
    /// Waits until `count` operations have come as far as the hold.
    pub async fn arrived(&self, count: usize) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.0.arrived.subscribe().wait_for(|arrived| *arrived >= count).await;
    }

    /// Lets them go on, and later ones pass.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.open.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fault_comes_once_or_until_it_is_cleared() {
        let faults = Faults::default();
        let error = |message: &str| Error::Failed { message: message.into() };
        faults.fail_once(Op::Ping, error("once"));
        assert_eq!(faults.enter(Op::Ping).await, Err(error("once")));
        assert_eq!(faults.enter(Op::Ping).await, Ok(()));
        faults.fail(Op::Ping, error("always"));
        assert_eq!(faults.enter(Op::Ping).await, Err(error("always")));
        assert_eq!(faults.enter(Op::Ping).await, Err(error("always")));
        assert_eq!(faults.enter(Op::List).await, Ok(()));
        faults.clear(Op::Ping);
        assert_eq!(faults.enter(Op::Ping).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_takes_virtual_time() {
        let faults = Faults::default();
        faults.delay(Op::Ping, Duration::from_secs(3600));
        let begun = tokio::time::Instant::now();
        faults.enter(Op::Ping).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_waits_for_its_release() {
        let faults = Arc::new(Faults::default());
        let hold = faults.hold(Op::Ping);
        let held = tokio::spawn({
            let faults = faults.clone();
            async move { faults.enter(Op::Ping).await }
        });
        hold.arrived(1).await;
        assert!(!held.is_finished());
        hold.release();
        assert_eq!(held.await.unwrap(), Ok(()));
        assert_eq!(faults.enter(Op::Ping).await, Ok(()));
    }
}
