//! The end of containers: stopped, destroyed, and what could not be destroyed tried again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    container::{self, Container, Host, State, blocking},
    process,
    slots::Slots,
    supervisor::{FailureKind, Request},
};

/// How long processes have between SIGTERM and SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How long SIGKILL may take.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// When what could not be destroyed is tried again: twice as long after each time, up to the second.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Waits for containers that could not be destroyed, and tries until they are.
pub(crate) async fn retry_destroys(host: Arc<Host>, slots: Arc<Slots>) {
    let half_destroyed = |container: &Arc<Container>| container.half_destroyed.load(Ordering::SeqCst);
    loop {
        host.half_destroyed.notified().await;
        let mut pause = RETRY_FIRST;
        while slots.containers().iter().any(half_destroyed) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
            for container in slots.containers().iter().filter(|container| half_destroyed(container)) {
                if !container.destroying.swap(true, Ordering::SeqCst) {
                    // It has been told once, and stays listed.
                    let _ = remove(&host, &slots, container).await;
                }
            }
        }
    }
}

/// Destroys a container and forgets it; on failure it stays, to be tried again.
pub(crate) async fn remove(
    host: &Arc<Host>,
    slots: &Slots,
    container: &Arc<Container>,
) -> std::result::Result<(), container::Error> {
    let gone = container::destroy_container(host, container).await;
    match &gone {
        Ok(()) => {
            // Before its handle is free, which counts as room for another.
            container.ids.give_back();
            slots.lock().remove(&container.handle);
            host.dropped_bytes.fetch_add(container.processes.dropped_bytes(), Ordering::Relaxed);
            container.processes.let_go();
            host.trash.notify_one();
        }
        Err(_) => {
            container.half_destroyed.store(true, Ordering::SeqCst);
            container.destroying.store(false, Ordering::SeqCst);
            host.half_destroyed.notify_one();
        }
    }
    gone
}

/// Ends every process but init: with patience first, unless `kill`.
pub(crate) async fn stop(
    host: &Arc<Host>,
    container: &Arc<Container>,
    kill: bool,
) -> std::result::Result<(), container::Error> {
    let supervisor = &container.supervisor;
    let signal_all = |signal, limit: Duration| async move {
        let request = Request::SignalAll { signal, wait_ms: limit.as_millis() as u64 };
        tokio::time::timeout(limit + KILL_LIMIT, supervisor.command(&request))
            .await
            .unwrap_or(Err(process::Error::Silent(limit)))
    };
    let polite = if kill {
        None
    } else {
        // One at a time: whoever sends a signal to all sends it to the other's helper too.
        let _turn = container.stopping.lock().await;
        Some(signal_all(nix::libc::SIGTERM, STOP_GRACE).await)
    };
    if !matches!(polite, Some(Ok(()))) {
        match signal_all(nix::libc::SIGKILL, KILL_LIMIT).await {
            // Nothing runs where nothing can.
            Err(error) if error.is_gone() || error.refusal() == Some(FailureKind::NotRunning) => {}
            result => result?,
        }
    }
    let (host, container) = (Arc::clone(host), Arc::clone(container));
    blocking(move || container.update(&host.depot, |record| record.state = State::Stopped)).await??;
    Ok(())
}
