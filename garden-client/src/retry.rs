//! When to try again, and when no longer.
//!
//! Two things are tried again: connecting, since nothing has been asked before there is a connection, and a request
//! that changes nothing whose connection was lost. Whatever else was on its way may have been done.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The pauses between the attempts of one request, longer each time, within the request's bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    until: Instant,
    pause: Duration,
}

impl Backoff {
    /// Attempts begin for this long; with zero there is one.
    pub fn new(limit: Duration) -> Self {
        Backoff { until: Instant::now() + limit, pause: FIRST_PAUSE }
    }

    /// Waits for the time of the next attempt; false, at once, if there is to be none.
    pub async fn pause(&mut self) -> bool {
        if Instant::now() + self.pause > self.until {
            return false;
        }
        sleep(self.pause).await;
        self.pause = LONGEST_PAUSE.min(2 * self.pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_within_the_limit() {
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let mut attempts_ms = Vec::new();
        while backoff.pause().await {
            attempts_ms.push(begun.elapsed().as_millis());
        }
        assert_eq!(attempts_ms, [20, 60, 140, 300, 550, 800]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_time_there_is_no_second_attempt() {
        assert!(!Backoff::new(Duration::ZERO).pause().await);
    }
}
