//! The one undo: idempotent, driven by the record, for every caller.

use std::{sync::Arc, time::Duration};

use super::{Container, Error, Host, Record, State, blocking, plugged::namespace};
use crate::{
    process::{Error as ProcessError, Supervisor},
    supervisor::Request,
};

/// How long processes may take to die. Longer than that they hang in the kernel.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// How long a cgroup may take to empty once its processes are dead.
const CGROUP_PATIENCE: Duration = Duration::from_secs(2);

/// Removes every trace of a container that clients know of. Nothing changes its record any more.
pub async fn destroy_container(host: &Arc<Host>, container: &Arc<Container>) -> Result<(), Error> {
    let (writer, marked) = (Arc::clone(host), Arc::clone(container));
    let record = match blocking(move || marked.mark_destroying(&writer.depot)).await? {
        // What an earlier try has left of it is less than a directory to write to.
        Err(_) if !host.depot.directory(&container.handle).exists() => container.record(),
        record => record?,
    };
    remove(host, &record, &container.supervisor, Vec::new()).await
}

/// Removes every trace of the container that the record describes, which nobody else knows of.
pub async fn destroy(host: &Arc<Host>, record: &Record) -> Result<(), Error> {
    let handle = &record.handle;
    let mut causes = Vec::new();
    let (writer, mut going) = (Arc::clone(host), record.clone());
    going.state = State::Destroying;
    let noted = blocking(move || writer.depot.write(&going)).await;
    // Without its directory nothing was ever made, or all is gone but this.
    if let Err(error) | Ok(Err(error)) = noted
        && host.depot.directory(handle).exists()
    {
        causes.push(error);
    }

    let supervisor = Supervisor::at(&host.depot.directory(handle));
    remove(host, record, &supervisor, causes).await
}

/// Goes on after an error, so that as much as possible is gone; the record stays until everything is.
async fn remove(
    host: &Arc<Host>,
    record: &Record,
    supervisor: &Supervisor,
    mut causes: Vec<Error>,
) -> Result<(), Error> {
    let handle = &record.handle;
    // Plug-ins find what they have made by the namespace, which goes with the supervisor.
    let plugged = record.assignment.is_plugged();
    if plugged {
        causes.extend(release(host, record, supervisor).await.err());
    }
    if let Err(error) = end_processes(host, record, supervisor).await {
        causes.push(error);
    }
    if !plugged {
        causes.extend(release(host, record, supervisor).await.err());
    }
    let (remover, name, groups) = (Arc::clone(host), handle.clone(), record.groups_beside());
    let all_gone_so_far = causes.is_empty();
    let removed = blocking(move || {
        let mut causes: Vec<Error> = Vec::new();
        for group in &groups {
            causes.extend(remover.cgroups.remove_of_process(group, CGROUP_PATIENCE).err().map(Error::from));
        }
        causes.extend(remover.cgroups.remove(&name, CGROUP_PATIENCE).err().map(Error::from));
        causes.extend(remover.store.discard_write_layer(&name).err().map(Error::from));
        if all_gone_so_far && causes.is_empty() {
            causes.extend(remover.depot.remove(&name).err());
        }
        causes
    });
    match removed.await {
        Ok(more) => causes.extend(more),
        Err(error) => causes.push(error),
    }
    if causes.is_empty() { Ok(()) } else { Err(Error::Destroy { handle: handle.clone(), causes }) }
}

/// Takes the container off the network.
async fn release(host: &Host, record: &Record, supervisor: &Supervisor) -> Result<(), Error> {
    let netns = namespace(host, &record.assignment, supervisor).await;
    Ok(host.network.release(&record.assignment, record.wishes(), netns).await?)
}

/// Has the supervisor end everything; where there is none, or it does not answer, kills what is in the cgroup.
async fn end_processes(host: &Arc<Host>, record: &Record, supervisor: &Supervisor) -> Result<(), Error> {
    let shutdown = tokio::time::timeout(SHUTDOWN_LIMIT, supervisor.command(&Request::Shutdown)).await;
    match shutdown.unwrap_or(Err(ProcessError::Silent(SHUTDOWN_LIMIT))) {
        Ok(()) => return Ok(()),
        Err(error) if error.is_gone() => {}
        Err(error) => {
            tracing::warn!(handle = record.handle, %error, "killing a container's supervisor");
            let (supervisor, handle) = (supervisor.clone(), record.handle.clone());
            blocking(move || supervisor.kill(&handle)).await??;
        }
    }
    let (killer, handle) = (Arc::clone(host), record.handle.clone());
    Ok(blocking(move || killer.cgroups.kill(&handle)).await??)
}
