//! What a process has that others share with the container: a root filesystem.
//!
//! It is made before the process starts and goes when that has ended, at the latest with the container, whose directories
//! hold it.

use std::sync::Arc;

use super::{Container, Error, Host, blocking};
use crate::{
    process::Entry,
    rootfs::WriteLayer,
    spec::Own,
    supervisor::{ApartRequest, OwnRoot, Rootfs, RunRequest},
};

/// Starts a process, with what it is to have of its own. Whoever drops this leaves a process that was started to itself,
/// and what was made for it to the container.
pub async fn run(
    host: &Arc<Host>,
    container: &Arc<Container>,
    process: RunRequest,
    own: Own,
) -> Result<Arc<Entry>, Error> {
    if own.image.is_empty() {
        return Ok(container.processes.run(process.into()).await?);
    }
    let id = process.id.clone();
    let (maker, made_for, name) = (Arc::clone(host), Arc::clone(container), id.clone());
    let root = blocking(move || make_root(&maker, &made_for, &name, own)).await??;
    let request = ApartRequest { process, cgroup: None, root: Some(root) };
    match container.processes.run(request).await {
        Ok(entry) => {
            follow(host, container, &id, &entry);
            Ok(entry)
        }
        Err(error) => {
            discard(host, container, &id).await;
            Err(error.into())
        }
    }
}

/// Takes up what an earlier server began for a process: to remove what it has of its own at its end.
pub fn adopt(host: &Arc<Host>, container: &Arc<Container>, id: &str, entry: &Arc<Entry>) {
    if host.store.has_process_layer(&container.handle, id) {
        follow(host, container, id, entry);
    }
}

fn make_root(host: &Host, container: &Container, id: &str, own: Own) -> Result<OwnRoot, Error> {
    let image = host.store.image(&own.image)?;
    let handle = &container.handle;
    let WriteLayer { upper, work } = host.store.create_process_layer(handle, id, container.ids.root())?;
    let rootfs = Rootfs::Overlay { lower: image.lower, upper, work };
    let mount_point = host.depot.directory(handle).join(super::MOUNT_POINT);
    Ok(OwnRoot { mount_point, rootfs, binds: own.binds })
}

fn follow(host: &Arc<Host>, container: &Arc<Container>, id: &str, entry: &Arc<Entry>) {
    let (host, container, id) = (Arc::clone(host), Arc::clone(container), id.to_owned());
    let entry = Arc::clone(entry);
    tokio::spawn(async move {
        entry.ended().await;
        drop(entry);
        discard(&host, &container, &id).await;
    });
}

async fn discard(host: &Arc<Host>, container: &Arc<Container>, id: &str) {
    let (remover, handle, process) = (Arc::clone(host), container.handle.clone(), id.to_owned());
    match blocking(move || remover.store.discard_process_layer(&handle, &process)).await {
        Ok(Ok(())) => host.trash.notify_one(),
        Ok(Err(error)) => {
            // It goes with the container.
            let (handle, error) = (&container.handle, protocol::Error::failed(&error));
            tracing::warn!(handle, process = id, %error, "cannot remove a process's write layer");
        }
        Err(_) => {}
    }
}
