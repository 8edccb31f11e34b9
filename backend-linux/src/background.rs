//! What goes on without being asked: disk usage, deletion of files, destruction that failed.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use protocol::Error;
use tokio::task::JoinHandle;

use crate::{
    container::{Container, Host, Pool, RootUsage, blocking},
    end,
    rootfs::{self, Usage},
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
    // They are never written to: each is measured once, for as long as somebody uses it.
    let mut images = HashMap::new();
    loop {
        let mut used = HashSet::new();
        for container in slots.containers() {
            used.extend(container.record().images().cloned());
            let (scanner, mut known) = (Arc::clone(&host), images);
            let scan = move || {
                scan_disk(&scanner, &container, &mut known);
                known
            };
            images = match blocking(scan).await {
                Ok(images) => images,
                Err(_) => return,
            };
        }
        images.retain(|image, _| used.contains(image));
        tokio::time::sleep(DISK_SCAN_INTERVAL).await;
    }
}

/// What of the container cannot be measured now keeps its number from before.
fn scan_disk(host: &Host, container: &Container, images: &mut HashMap<PathBuf, Usage>) {
    let record = container.record();
    let mut of_image = |image: Option<&PathBuf>| {
        let Some(image) = image else { return Usage::default() };
        if let Some(known) = images.get(image) {
            return *known;
        }
        let Ok(measured) = rootfs::usage(image) else { return Usage::default() };
        images.insert(image.clone(), measured);
        measured
    };
    let written = host.store.usage(&container.handle);
    let image = of_image(record.image.as_ref());
    let of_processes = record.apart.iter().filter_map(|(id, apart)| {
        let written = host.store.process_usage(&container.handle, id).ok()?;
        Some((id.clone(), RootUsage { written, image: of_image(apart.image.as_ref()) }))
    });
    let of_processes = of_processes.collect();
    let mut disk = container.disk.lock().unwrap_or_else(PoisonError::into_inner);
    disk.of_processes = of_processes;
    disk.own.image = image;
    if let Ok(written) = written {
        disk.own.written = written;
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
