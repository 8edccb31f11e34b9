//! What a new server does with what an earlier one left: each record is adopted or destroyed.

use std::{sync::Arc, time::Duration};

use super::{
    Container, Error, Host, Record, State, apart, blocking, destroy,
    plugged::{check_all, namespace},
    repair,
};
use crate::{
    cgroup::ProcessGroup,
    ids::IdLease,
    network::Lease,
    process::{Error as ProcessError, Supervisor},
    supervisor::{Reply, Request},
};

/// How long a stray group's processes may take to die.
const SWEEP_PATIENCE: Duration = Duration::from_secs(2);

/// How long a supervisor may take to answer.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// Finds every container again, and removes what no record owns. Runs before the first request.
pub async fn recover(host: &Arc<Host>, destroy_all: bool) -> Result<Vec<Arc<Container>>, Error> {
    let loader = Arc::clone(host);
    let (records, strays) = blocking(move || loader.depot.load()).await??;
    let (kept, mut gone): (Vec<Record>, Vec<Record>) = records
        .into_iter()
        .partition(|record| !destroy_all && matches!(record.state, State::Active | State::Stopped));

    // All leases are taken before anything is given back.
    let mut leased = Vec::new();
    for record in kept {
        match leases(host, &record) {
            Ok((lease, ids)) => leased.push((record, lease, ids)),
            Err(error) => {
                // Two containers with one address, or the same ids, cannot both live, and one bad record must not stop the others.
                let (handle, error) = (&record.handle, protocol::Error::failed(&error));
                tracing::error!(handle, %error, "destroying a container that cannot have its network or its ids back");
                gone.push(record);
            }
        }
    }
    let owned = leased.iter().filter_map(|(record, _, _)| record.network_member()).collect();

    for record in gone {
        let adopted = host.network.adopt(&record.assignment, &record.ports);
        // Others may have them, or it none: then there is nothing to hold.
        let ids = host.ids.adopt(record.ids).ok();
        if let Err(error) = destroy(host, &record).await {
            tracing::error!(handle = record.handle, error = %protocol::Error::failed(&error), "cannot destroy");
            ids.into_iter().for_each(IdLease::keep);
        }
        drop(adopted);
    }
    let links = host.network.sweep(owned).await?;
    if !links.is_empty() {
        tracing::info!(?links, "removed links that no container owned");
    }

    let mut containers = Vec::new();
    for (record, lease, ids) in leased {
        containers.push(adopt(host, record, lease, ids).await);
    }
    repair::lost_links(host, &containers).await?;
    for handle in &strays {
        // A record that cannot be read may have had a supervisor; one that was never written had none.
        let supervisor = Supervisor::at(&host.depot.directory(handle));
        let _ = tokio::time::timeout(LIST_LIMIT, supervisor.command(&Request::Shutdown)).await;
    }
    let handles: Vec<String> = containers.iter().map(|container| container.handle.clone()).collect();
    let groups: Vec<ProcessGroup> =
        containers.iter().flat_map(|container| container.record().groups_beside()).collect();
    let sweeper = Arc::clone(host);
    blocking(move || sweep(&sweeper, &handles, &groups, &strays)).await??;
    // Foreign programs take their time, of which the first request is not to wait for any.
    tokio::spawn(check_all(Arc::clone(host), containers.clone()));
    Ok(containers)
}

/// Removes what no record owns.
fn sweep(host: &Host, handles: &[String], groups: &[ProcessGroup], strays: &[String]) -> Result<(), Error> {
    let owned = || handles.iter().map(String::as_str);
    for handle in strays {
        // It may be anything: whatever it is, it must not keep the server from starting.
        if let Err(error) = host.depot.remove(handle) {
            tracing::error!(handle, error = %protocol::Error::failed(&error), "cannot remove what is no container");
        }
    }
    let groups = host.cgroups.sweep(owned(), groups, SWEEP_PATIENCE)?;
    let layers = host.store.sweep(owned())?;
    if !strays.is_empty() || !groups.is_empty() || layers > 0 {
        tracing::info!(?strays, ?groups, layers, "removed what no container owned");
    }
    Ok(())
}

/// What the record says that the container has.
fn leases(host: &Host, record: &Record) -> Result<(Lease, IdLease), Error> {
    let lease = host.network.adopt(&record.assignment, &record.ports)?;
    match host.ids.adopt(record.ids) {
        Ok(ids) => Ok((lease, ids)),
        Err(error) => Err(error.into()),
    }
}

async fn adopt(host: &Arc<Host>, record: Record, lease: Lease, ids: IdLease) -> Arc<Container> {
    let container = Container::new(host, record, lease, ids, None);
    let attachment = &container.record().assignment;
    if let Some(netns) = namespace(host, attachment, &container.supervisor).await {
        host.network.hold(attachment, netns);
    }
    if let Err(error) = adopt_processes(host, &container).await {
        tracing::error!(handle = container.handle, %error, "a container's processes cannot be found again");
    }
    super::note_oom_kills(host, &container).await;
    container
}

async fn adopt_processes(host: &Arc<Host>, container: &Arc<Container>) -> Result<(), ProcessError> {
    let supervisor: &Supervisor = &container.supervisor;
    let list = tokio::time::timeout(LIST_LIMIT, supervisor.ask(&Request::List, &[])).await;
    let processes = match list.unwrap_or(Err(ProcessError::Silent(LIST_LIMIT)))?.0 {
        Reply::Processes { processes } => processes,
        other => return Err(ProcessError::Nonsense(format!("{other:?}"))),
    };
    for id in container.record().apart.keys() {
        if processes.iter().all(|process| process.id != *id) {
            // The earlier server was killed before it started this.
            apart::abandon(host, container, id);
        }
    }
    for process in processes {
        match container.processes.adopt(process.id.clone()).await {
            Ok(entry) => apart::adopt(host, container, &process.id, &entry),
            Err(error) => {
                tracing::error!(handle = container.handle, process = process.id, %error, "cannot follow a process");
            }
        }
    }
    Ok(())
}
