//! What a process has that others share with the container: a root filesystem, limits. Each such process has a cgroup to
//! itself, which counts what it uses.
//!
//! The container's record knows of it from before it is made until it is gone. It goes when the process has ended, at the
//! latest with the container.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use protocol::Limits;

use super::{Apart, Container, Error, Host, OUT_OF_MEMORY, Record, State, blocking};
use crate::{
    cgroup::Devices,
    defence::Defence,
    process::Entry,
    rootfs::{Image, WriteLayer},
    spec::Own,
    supervisor::{ApartRequest, Bind, OwnRoot, Rootfs, RunRequest},
};

/// How long what a process leaves in its cgroup may take to die.
const CGROUP_PATIENCE: Duration = Duration::from_secs(2);

/// Starts a process, with what it is to have of its own. Whoever drops this leaves a process that was started to itself,
/// and what was made for it to the container.
pub async fn run(
    host: &Arc<Host>,
    container: &Arc<Container>,
    process: RunRequest,
    own: Own,
) -> Result<Arc<Entry>, Error> {
    container.processes.forgotten(&process.id).await;
    if own.image.is_empty() && own.limits.is_none() {
        return Ok(container.processes.run(process.into()).await?);
    }
    let id = process.id.clone();
    let (maker, made_for) = (Arc::clone(host), Arc::clone(container));
    let request = blocking(move || make(&maker, &made_for, process, own)).await??;
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
    if container.record().apart.contains_key(id) {
        follow(host, container, id, entry);
    }
}

/// Removes what was made for a process that was never started.
pub fn abandon(host: &Arc<Host>, container: &Arc<Container>, id: &str) {
    let (host, container, id) = (Arc::clone(host), Arc::clone(container), id.to_owned());
    tokio::spawn(async move { discard(&host, &container, &id).await });
}

/// Looks whether the kernel has killed something in a process's own cgroup for want of memory, and keeps it as an event
/// of the container.
pub async fn note_oom_kills(host: &Arc<Host>, container: &Arc<Container>, id: &str) {
    let record = container.record();
    let Some(apart) = record.apart.get(id).filter(|_| record.state != State::Destroying) else { return };
    let noted = match host.cgroups.oom_kills_of_process(&record.process_group(id, apart)) {
        Ok(kills) if kills <= apart.oom_kills_seen => return,
        Ok(kills) => {
            let (host, container, id) = (Arc::clone(host), Arc::clone(container), id.to_owned());
            blocking(move || note_oom_kill(&host, &container, &id, kills)).await.and_then(|noted| noted)
        }
        Err(error) => Err(error.into()),
    };
    match noted {
        Ok(()) | Err(Error::Going { .. }) => {}
        Err(error) => {
            let (handle, error) = (&container.handle, protocol::Error::failed(&error));
            tracing::warn!(handle, process = id, %error, "cannot tell whether it ran out of memory");
        }
    }
}

fn note_oom_kill(host: &Host, container: &Container, id: &str, kills: u64) -> Result<(), Error> {
    let mut new = 0;
    container.update(&host.depot, |record| {
        let Some(apart) = record.apart.get_mut(id) else { return };
        new = kills.saturating_sub(apart.oom_kills_seen);
        if new > 0 {
            apart.oom_kills_seen = kills;
            record.events.push(OUT_OF_MEMORY.to_owned());
        }
    })?;
    host.oom_kills.fetch_add(new, Ordering::Relaxed);
    Ok(())
}

/// Makes all that the process is to have of its own, or nothing.
fn make(host: &Host, container: &Container, process: RunRequest, own: Own) -> Result<ApartRequest, Error> {
    let image = match own.image.as_str() {
        "" => None,
        uri => Some(host.store.image(uri)?),
    };
    let lower = image.as_ref().map(|image| image.lower.clone());
    let apart = Apart { started_at: SystemTime::now(), image: lower, limits: own.limits, oom_kills_seen: 0 };
    let id = process.id.clone();
    // Also keeps the id from a second process while this one is made.
    container.write(&host.depot, |record| {
        if record.state == State::Destroying {
            return Err(Error::Going { handle: record.handle.clone() });
        }
        if record.apart.contains_key(&id) {
            return Err(Error::ProcessExists { id: id.clone() });
        }
        record.apart.insert(id.clone(), apart.clone());
        Ok(())
    })?;
    let made = make_parts(host, container, process, &apart, image, own.binds);
    if made.is_err() {
        // What failed is the error to tell; what is left goes with the container.
        let _ = remove(host, container, &id);
    }
    made
}

fn make_parts(
    host: &Host,
    container: &Container,
    process: RunRequest,
    apart: &Apart,
    image: Option<Image>,
    binds: Vec<Bind>,
) -> Result<ApartRequest, Error> {
    let (record, handle) = (container.record(), &container.handle);
    let listed = !record.privileged && host.config.defences.have(Defence::Devices);
    let devices = if listed { Devices::Listed } else { Devices::All };
    let limits = apart.limits.unwrap_or_default();
    let limits = Limits { cpu: limits.cpu, memory: limits.memory, ..Limits::default() };
    let group = record.process_group(&process.id, apart);
    let cgroup = host.cgroups.create_for_process(&group, &limits, devices)?;
    let make_root = |image: Image| -> Result<OwnRoot, Error> {
        let owner = container.ids.root();
        let WriteLayer { upper, work } = host.store.create_process_layer(handle, &process.id, owner)?;
        let rootfs = Rootfs::Overlay { lower: image.lower, upper, work };
        let mount_point = host.depot.mount_point();
        Ok(OwnRoot { mount_point, rootfs, binds })
    };
    let root = image.map(make_root).transpose()?;
    Ok(ApartRequest { process, cgroup: Some(cgroup), root })
}

fn follow(host: &Arc<Host>, container: &Arc<Container>, id: &str, entry: &Arc<Entry>) {
    // Who waits for a process keeps neither its container nor the server.
    let (host, container, id) = (Arc::downgrade(host), Arc::downgrade(container), id.to_owned());
    let ended = entry.ended();
    let discarded = tokio::spawn(async move {
        if ended.await
            && let (Some(host), Some(container)) = (host.upgrade(), container.upgrade())
        {
            discard(&host, &container, &id).await;
        }
    });
    entry.is_followed_by(discarded);
}

async fn discard(host: &Arc<Host>, container: &Arc<Container>, id: &str) {
    let (remover, removed_from, process) = (Arc::clone(host), Arc::clone(container), id.to_owned());
    match blocking(move || remove(&remover, &removed_from, &process)).await {
        Ok(Ok(())) => host.trash.notify_one(),
        Ok(Err(error)) => {
            // It goes with the container.
            let (handle, error) = (&container.handle, protocol::Error::failed(&error));
            tracing::warn!(handle, process = id, %error, "cannot remove what a process had to itself");
        }
        Err(_) => {}
    }
}

/// Removes what a process has of its own, and then the record of it.
fn remove(host: &Host, container: &Container, id: &str) -> Result<(), Error> {
    let record = container.record();
    let Some(apart) = record.apart.get(id) else { return Ok(()) };
    let group = host.cgroups.remove_of_process(&record.process_group(id, apart), CGROUP_PATIENCE);
    host.store.discard_process_layer(&container.handle, id)?;
    group?;
    let forget = |record: &mut Record| {
        record.apart.remove(id);
    };
    match container.update(&host.depot, forget) {
        // There is nothing left to note it in.
        Err(Error::Going { .. }) => Ok(()),
        updated => updated.map(drop),
    }
}
