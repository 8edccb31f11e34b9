//! What goes on without being asked: disk usage, deletion of files, destruction that failed.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use protocol::Error;
use tokio::task::JoinHandle;

use crate::{
    backend::remove,
    container::{Host, Pool, blocking},
    slots::Slots,
};

/// How often disk usage is looked at.
const DISK_SCAN_INTERVAL: Duration = Duration::from_secs(10);

/// How often what could not be destroyed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Starts all of it.
pub fn start(host: &Arc<Host>, slots: &Arc<Slots>) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(scan_disks(Arc::clone(host), Arc::clone(slots))),
        tokio::spawn(retry_destroys(Arc::clone(host), Arc::clone(slots))),
        tokio::spawn(empty_trash(Arc::clone(host))),
        tokio::spawn(Pool::fill(Arc::clone(host))),
    ]
}

async fn scan_disks(host: Arc<Host>, slots: Arc<Slots>) {
    loop {
        for container in slots.containers() {
            let scanner = Arc::clone(&host);
            let scan = move || {
                if let Ok(usage) = scanner.store.usage(&container.handle) {
                    *container.disk.lock().unwrap_or_else(PoisonError::into_inner) = usage;
                }
            };
            if blocking(scan).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(DISK_SCAN_INTERVAL).await;
    }
}

async fn retry_destroys(host: Arc<Host>, slots: Arc<Slots>) {
    loop {
        tokio::time::sleep(RETRY_INTERVAL).await;
        for container in slots.containers() {
            let failed = container.half_destroyed.load(Ordering::SeqCst);
            if failed && !container.destroying.swap(true, Ordering::SeqCst) {
                let _ = remove(&host, &slots, &container).await;
            }
        }
    }
}

async fn empty_trash(host: Arc<Host>) {
    loop {
        let emptier = Arc::clone(&host);
        if let Ok(Err(error)) = blocking(move || emptier.store.empty_trash()).await {
            tracing::warn!(error = %Error::failed(&error), "cannot empty the trash");
        }
        host.trash.notified().await;
    }
}
