//! The grace clock: a container that no request or stream refers to for its grace time is destroyed.
//!
//! A container's clock starts when it is made, or found at the server's start. It does not run while somebody has a
//! [`Hold`] on the container, and starts anew when the last one is dropped. Each container with a grace time has one
//! sleeping task; a hold does not wake it, since a deadline only ever moves away: the task finds out when it wakes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use protocol::{Error, Result};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// How long to wait before another attempt to destroy what could not be destroyed, at least.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// As good as never, and no overflow.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

type Destroy = Box<dyn Fn(String) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// The clocks of all containers.
pub(crate) struct GraceClock {
    containers: Mutex<HashMap<String, Container>>,
    destroy: Destroy,
}

#[derive(Default)]
struct Container {
    holds: usize,
    clock: Option<Clock>,
}

impl Container {
    /// Nobody refers to it, and it may live for ever.
    fn is_unused(&self) -> bool {
        self.holds == 0 && self.clock.is_none()
    }
}

struct Clock {
    grace_time: Duration,
    idle_since: Instant,
    task: AbortHandle,
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Somebody refers to the container. Dropped when they are done.
pub(crate) struct Hold {
    clock: Arc<GraceClock>,
    handle: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.clock.release(std::mem::take(&mut self.handle));
    }
}

enum Next {
    Sleep(Instant),
    Expired,
    Gone,
}

impl GraceClock {
    /// A clock that calls `destroy` for each container whose grace time has passed.
    pub(crate) fn new(
        destroy: impl Fn(String) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(GraceClock { containers: Mutex::default(), destroy: Box::new(destroy) })
    }

    /// (Re)starts a container's clock. A grace time of zero stops it for good.
    pub(crate) fn start(self: &Arc<Self>, handle: &str, grace_time: Duration) {
        let mut containers = self.lock();
        let container = containers.entry(handle.to_owned()).or_default();
        container.clock = (!grace_time.is_zero()).then(|| {
            let task = tokio::spawn(self.clone().watch(handle.to_owned())).abort_handle();
            Clock { grace_time, idle_since: Instant::now(), task }
        });
        remove_if_unused(&mut containers, handle);
    }

    /// The container is gone.
    pub(crate) fn forget(&self, handle: &str) {
        let mut containers = self.lock();
        if let Some(container) = containers.get_mut(handle) {
            container.clock = None;
        }
        remove_if_unused(&mut containers, handle);
    }

    /// Holds the container's clock, whether it exists or not.
    pub(crate) fn hold(self: &Arc<Self>, handle: &str) -> Hold {
        self.lock().entry(handle.to_owned()).or_default().holds += 1;
        Hold { clock: self.clone(), handle: handle.to_owned() }
    }

    /// Stops all clocks.
    pub(crate) fn stop(&self) {
        for container in self.lock().values_mut() {
            container.clock = None;
        }
    }

    fn release(&self, handle: String) {
        if let Entry::Occupied(mut entry) = self.lock().entry(handle) {
            let container = entry.get_mut();
            container.holds = container.holds.saturating_sub(1);
            if let Some(clock) = &mut container.clock {
                clock.idle_since = Instant::now();
            }
            if container.is_unused() {
                entry.remove();
            }
        }
    }

    async fn watch(self: Arc<Self>, handle: String) {
        loop {
            match self.next(&handle) {
                Next::Sleep(until) => sleep_until(until).await,
                Next::Expired => self.expire(&handle).await,
                Next::Gone => return,
            }
        }
    }

    fn next(&self, handle: &str) -> Next {
        let containers = self.lock();
        let Some(container) = containers.get(handle) else { return Next::Gone };
        let Some(clock) = &container.clock else { return Next::Gone };
        let now = Instant::now();
        let idle_since = if container.holds > 0 { now } else { clock.idle_since };
        match idle_since.checked_add(clock.grace_time) {
            Some(due) if due <= now => Next::Expired,
            Some(due) => Next::Sleep(due),
            None => Next::Sleep(now + FAR),
        }
    }

    async fn expire(&self, handle: &str) {
        tracing::info!(handle, "grace time is over: destroying the container");
        // In a task of its own: this one is aborted when the clock is set anew.
        let destroyed = match tokio::spawn((self.destroy)(handle.to_owned())).await {
            Ok(result) => result,
            Err(error) => Err(Error::Failed { message: error.to_string() }),
        };
        match destroyed {
            Ok(()) | Err(Error::ContainerNotFound { .. }) => self.forget(handle),
            Err(error) => {
                tracing::warn!(handle, %error, "cannot destroy a container whose grace time is over: will retry");
                if let Some(clock) = self.lock().get_mut(handle).and_then(|c| c.clock.as_mut()) {
                    let wait = clock.grace_time.max(RETRY_MIN);
                    clock.idle_since = Instant::now() + (wait - clock.grace_time);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Container>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_if_unused(containers: &mut HashMap<String, Container>, handle: &str) {
    if containers.get(handle).is_some_and(Container::is_unused) {
        containers.remove(handle);
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        sync::mpsc,
        time::{advance, sleep},
    };

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn clock() -> (Arc<GraceClock>, mpsc::UnboundedReceiver<(String, Instant)>) {
        let (destroyed, seen) = mpsc::unbounded_channel();
        let clock = GraceClock::new(move |handle| {
            let destroyed = destroyed.clone();
            Box::pin(async move {
                destroyed.send((handle.clone(), Instant::now())).unwrap();
                match handle.as_str() {
                    "stuck" => Err(Error::Failed { message: "busy".into() }),
                    _ => Ok(()),
                }
            })
        });
        (clock, seen)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_container_goes_when_its_time_is_over() {
        let (clock, mut seen) = clock();
        let begin = Instant::now();
        clock.start("c", GRACE);
        clock.start("never", Duration::ZERO);
        assert_eq!(seen.recv().await.unwrap(), ("c".into(), begin + GRACE));
        sleep(GRACE * 10).await;
        seen.try_recv().unwrap_err();
        assert!(clock.lock().is_empty(), "nothing is remembered of containers without a clock");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_stops_the_clock_and_its_end_starts_it_anew() {
        let (clock, mut seen) = clock();
        clock.start("c", GRACE);
        advance(GRACE / 2).await;
        let (first, second) = (clock.hold("c"), clock.hold("c"));
        sleep(GRACE * 5).await;
        drop(first);
        sleep(GRACE * 5).await;
        seen.try_recv().unwrap_err();
        let released = Instant::now();
        drop(second);
        assert_eq!(seen.recv().await.unwrap().1, released + GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_grace_time_counts_from_when_it_is_set() {
        let (clock, mut seen) = clock();
        clock.start("c", GRACE);
        clock.start("d", GRACE);
        advance(GRACE / 2).await;
        clock.start("c", Duration::from_secs(1));
        clock.start("d", Duration::ZERO);
        let (handle, at) = seen.recv().await.unwrap();
        assert_eq!((handle.as_str(), at), ("c", Instant::now()));
        sleep(GRACE * 5).await;
        seen.try_recv().unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_destroyed_is_tried_again() {
        let (clock, mut seen) = clock();
        clock.start("stuck", Duration::from_millis(1));
        let first = seen.recv().await.unwrap().1;
        assert_eq!(seen.recv().await.unwrap().1, first + RETRY_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_destroyed_container_and_a_stopped_clock_are_left_alone() {
        let (clock, mut seen) = clock();
        clock.start("c", GRACE);
        let hold = clock.hold("c");
        clock.forget("c");
        drop(hold);
        assert!(clock.lock().is_empty());
        clock.start("d", GRACE);
        clock.stop();
        sleep(GRACE * 2).await;
        seen.try_recv().unwrap_err();
    }
}
