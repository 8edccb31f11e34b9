//! What goes on without being asked: disk usage, deletion of files, destruction that failed.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use protocol::Error;
use tokio::task::JoinHandle;

use crate::{
    container::{Container, Host, Pool, blocking},
    end,
    slots::Slots,
};

/// How often disk usage is looked at.
const DISK_SCAN_INTERVAL: Duration = Duration::from_secs(10);

/// Starts all of it.
pub fn start(host: &Arc<Host>, slots: &Arc<Slots>) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(scan_disks(Arc::clone(host), Arc::clone(slots))),
        tokio::spawn(end::retry_destroys(Arc::clone(host), Arc::clone(slots))),
        tokio::spawn(empty_trash(Arc::clone(host))),
        tokio::spawn(Pool::fill(Arc::clone(host))),
    ]
}

async fn scan_disks(host: Arc<Host>, slots: Arc<Slots>) {
    loop {
        for container in slots.containers() {
            let scanner = Arc::clone(&host);
            let scan = move || scan_disk(&scanner, &container);
            if blocking(scan).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(DISK_SCAN_INTERVAL).await;
    }
}

/// What of the container cannot be measured now keeps its number from before.
fn scan_disk(host: &Host, container: &Container) {
    let own = host.store.usage(&container.handle);
    let record = container.record();
    let of_process = |id: &String| Some((id.clone(), host.store.process_usage(&container.handle, id).ok()?));
    let of_processes = record.apart.keys().filter_map(of_process).collect();
    let mut disk = container.disk.lock().unwrap_or_else(PoisonError::into_inner);
    disk.of_processes = of_processes;
    if let Ok(own) = own {
        disk.own = own;
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
