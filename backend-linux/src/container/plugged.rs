//! Containers whose networks plug-ins make: their order of steps, where it is another.
//!
//! Their addresses are known only when plug-ins have done their part, so the container is made after that. The
//! supervisor is the container's from the beginning: with it the namespace outlives the server, by which the plug-ins
//! find what they have made.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use super::{
    Container, Error, Host, Record, blocking,
    create::{Files, own_files, start},
    prepared::Prepared,
};
use crate::{
    ids::IdLease,
    network::Attachment,
    process::{Error as ProcessError, Supervisor, nonsense},
    supervisor::{Reply, Request},
};

/// How long a supervisor may take to hand a descriptor over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

/// Has plug-ins make the network, and then a supervisor the container. What the plug-ins have done is in the record,
/// here and on disk, also after an error.
pub async fn start_plugged(
    host: &Arc<Host>,
    record: &mut Record,
    ids: &IdLease,
    mut files: Files,
) -> Result<Prepared, Error> {
    let listener = files.listener.take();
    let owner = listener.as_ref().map(|listener| (record.handle.as_str(), listener));
    let prepared = Prepared::make(host, ids, owner).await?;
    drop(listener);
    prepared.attach(host, &record.assignment).await?;
    while let Some(next) = host.network.add_next(&record.assignment, record.wishes()).await? {
        record.assignment = next;
        let (writer, noted) = (Arc::clone(host), record.clone());
        blocking(move || writer.depot.write(&noted)).await??;
    }
    files.request.own_files = own_files(host, record);
    start(&prepared.connection, files).await?;
    Ok(prepared)
}

/// The namespace of a container whose plug-ins need it and have it not: none where nobody has it any more.
pub async fn namespace(host: &Host, attachment: &Attachment, supervisor: &Supervisor) -> Option<OwnedFd> {
    if !host.network.lacks_namespace(attachment) {
        return None;
    }
    let asked = tokio::time::timeout(HAND_OVER_LIMIT, supervisor.ask(&Request::Network, &[])).await;
    let handed = match asked.unwrap_or(Err(ProcessError::Silent(HAND_OVER_LIMIT))) {
        Ok((Reply::Network, mut fds)) => fds.pop().ok_or_else(|| nonsense(&Reply::Network)),
        Ok((other, _)) => Err(nonsense(&other)),
        Err(error) => Err(error),
    };
    handed.inspect_err(|error| tracing::debug!(%error, "no network namespace for CNI plug-ins")).ok()
}

/// Holds the namespaces of adopted containers, and asks plug-ins whether all is there that they have made for them. A
/// container whose network is not as it was goes on all the same: it can be looked at, and destroyed.
pub async fn check_all(host: Arc<Host>, containers: Vec<Arc<Container>>) {
    for container in containers.iter().filter(|container| container.record().assignment.is_plugged()) {
        let record = container.record();
        if let Err(error) = host.network.check(&record.assignment, record.wishes()).await {
            let (handle, error) = (&container.handle, protocol::Error::failed(&error));
            tracing::warn!(handle, %error, "a container's network is not as its CNI plug-ins have made it");
        }
    }
}
