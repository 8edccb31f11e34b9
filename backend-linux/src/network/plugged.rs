//! Containers whose networks plug-ins make: what a record keeps of that, host ports, and turns.
//!
//! Only the plug-ins know what they have made, and they find it by the container's id, by its network namespace and by
//! their results. So these are kept: the id and the list of plug-ins in the record before the first is run, each result
//! in the record before the next is run, the namespace by the container's supervisor for the next server. Nothing is
//! made ahead of a container: what an ADD takes, as an address, would be lost with a server that is killed.

use std::{
    collections::HashMap,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;
use protocol::NetIn;
use serde::{Deserialize, Serialize};

use super::{
    Error, PoolError,
    cni::{self, AddResult, Capability, Dns, NetworkList, Plugins, Subject, Wishes},
    ends, host_port,
    netlink::Socket,
    pool::PortPool,
};
use crate::NetworkConfig;

/// What a record keeps of a container whose network plug-ins make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plugged {
    /// What the plug-ins call the container. No other ever had it.
    #[serde(rename = "cni_container_id")]
    pub id: String,
    /// The plug-ins, and what they were told.
    list: NetworkList,
    /// The address that was asked for.
    wanted: Option<IpNetwork>,
    /// How many of the plug-ins have done their part.
    done: usize,
    /// What the last of those has said.
    result: Option<AddResult>,
}

impl Plugged {
    /// The container's addresses; none before the plug-ins have given it any.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.result.iter().flat_map(AddResult::addresses);
        addresses.map(|address| address.ip).collect()
    }

    /// The container's way out.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.result.iter().flat_map(AddResult::addresses).find_map(|address| address.gateway)
    }

    /// What the plug-ins say of names.
    pub fn dns(&self) -> Dns {
        self.result.as_ref().map(AddResult::dns).unwrap_or_default()
    }

    fn wishes(&self, wishes: Wishes) -> Wishes {
        Wishes { address: self.wanted, ..wishes }
    }

    fn subject<'a>(&'a self, netns: Option<&'a OwnedFd>, wishes: &'a Wishes) -> Subject<'a> {
        Subject { list: &self.list, id: &self.id, netns: netns.map(AsFd::as_fd), wishes }
    }
}

/// The plug-ins' side of the containers' network.
#[derive(Debug)]
pub struct PluggedNetwork {
    list: NetworkList,
    plugins: Plugins,
    /// The beginning of the containers' ids.
    prefix: String,
    shared: Shared,
}

/// What is known in memory. Locked for moments only.
#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    ports: PortPool,
    /// By id, those that may be on the network.
    present: HashMap<String, Arc<Present>>,
}

/// A container that may be on the network, held by its namespace.
#[derive(Debug)]
struct Present {
    netns: OwnedFd,
    /// Plug-ins are run one after the other for one container.
    turn: tokio::sync::Mutex<()>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self, id: &str) -> Option<Arc<Present>> {
        self.lock().present.get(id).cloned()
    }
}

/// Keeps a container's host ports from others. Dropped, it frees them if the container never was on the network.
#[derive(Debug)]
pub struct PluggedLease {
    pub(super) plugged: Plugged,
    shared: Shared,
}

impl Drop for PluggedLease {
    fn drop(&mut self) {
        let mut known = self.shared.lock();
        if !known.present.contains_key(&self.plugged.id) {
            known.ports.give_back_all(&self.plugged.id);
        }
    }
}

impl PluggedNetwork {
    /// Nobody is on it yet.
    pub fn start(
        list: NetworkList,
        plugins: Plugins,
        config: &NetworkConfig,
        tag: &str,
    ) -> Result<PluggedNetwork, Error> {
        let ports = PortPool::new(config.port_pool_start, config.port_pool_size)?;
        let prefix = if tag.is_empty() { "garden-".to_owned() } else { format!("garden-{tag}-") };
        let known = Known { ports, present: HashMap::new() };
        Ok(PluggedNetwork { list, plugins, prefix, shared: Shared(Arc::new(Mutex::new(known))) })
    }

    /// Whether containers can be told this.
    pub fn has(&self, capability: Capability) -> bool {
        self.list.has(capability)
    }

    /// Names a container, which may have asked for an address with the length of its network's prefix. Memory only.
    pub fn plan(&self, requested: &str) -> Result<PluggedLease, Error> {
        let invalid = |reason| PoolError::Invalid { field: "network", reason };
        let wanted = match requested {
            "" => None,
            _ if !self.has(Capability::Ips) => return Err(invalid(Capability::Ips.is_lacking()).into()),
            address => Some(cni::address(address).ok_or_else(|| {
                invalid(format!(
                    "{address:?} is no address with a prefix for CNI plug-ins, as in 10.1.2.3/24"
                ))
            })?),
        };
        let mut random = [0_u8; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Error::System { what: "make up a container's id", source: error.into() })?;
        let id = format!("{}{:032x}", self.prefix, u128::from_be_bytes(random));
        let plugged = Plugged { id, list: self.list.clone(), wanted, done: 0, result: None };
        Ok(PluggedLease { plugged, shared: self.shared.clone() })
    }

    /// Takes what a record says that a container has. Memory only.
    pub fn adopt(&self, plugged: &Plugged, ports: &[NetIn]) -> Result<PluggedLease, Error> {
        self.shared.lock().ports.adopt(ports, &plugged.id)?;
        Ok(PluggedLease { plugged: plugged.clone(), shared: self.shared.clone() })
    }

    /// Chooses host ports for a container that the host itself does not have, all or none, and fills in what `wanted`
    /// leaves open. Waits for nothing.
    pub fn reserve_ports(&self, plugged: &Plugged, wanted: &[NetIn]) -> Result<Vec<NetIn>, Error> {
        if !wanted.is_empty() && !self.has(Capability::PortMappings) {
            let reason = Capability::PortMappings.is_lacking();
            return Err(PoolError::Invalid { field: "netin", reason }.into());
        }
        Ok(self.shared.lock().ports.take(wanted, &plugged.id, host_port::is_free)?)
    }

    /// Gives back ports that were reserved and not opened. Memory only.
    pub fn unreserve_ports(&self, plugged: &Plugged, ports: &[NetIn]) {
        self.shared.lock().ports.give_back(ports, &plugged.id);
    }

    /// Brings up the loopback of a container's namespace, through a socket of it, and holds the namespace.
    pub async fn attach(
        &self,
        plugged: &Plugged,
        netns: BorrowedFd<'_>,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let what = "duplicate a descriptor of the network namespace";
        let duplicate =
            |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|source| Error::System { what, source });
        let (netns, socket) = (duplicate(netns)?, duplicate(socket)?);
        self.hold(plugged, netns);
        let up = move || ends::bring_up_loopback(&mut Socket::from(socket));
        let up = tokio::task::spawn_blocking(up).await.map_err(|_| Error::WorkerLost)?;
        up.map_err(|source| Error::Netlink { what: "bring up the container's loopback", source })
    }

    /// Whether a container's namespace is held.
    pub fn holds(&self, plugged: &Plugged) -> bool {
        self.shared.lock().present.contains_key(&plugged.id)
    }

    /// Holds a container's namespace until it is released.
    pub fn hold(&self, plugged: &Plugged, netns: OwnedFd) {
        let present = || Arc::new(Present { netns, turn: tokio::sync::Mutex::default() });
        self.shared.lock().present.entry(plugged.id.clone()).or_insert_with(present);
    }

    /// Has the next plug-in do its part, and returns what to keep in the record before the one after it is run. None:
    /// they all have. After an error, [`release`](PluggedNetwork::release).
    pub async fn add_next(&self, plugged: &Plugged, wishes: Wishes) -> Result<Option<Plugged>, Error> {
        let Some(plugin) = plugged.list.plugins.get(plugged.done) else {
            return match plugged.addresses().is_empty() {
                true => Err(Error::NoAddress { network: plugged.list.name.clone() }),
                false => Ok(None),
            };
        };
        let (present, wishes) = (self.of(plugged)?, plugged.wishes(wishes));
        let _turn = present.turn.lock().await;
        let subject = plugged.subject(Some(&present.netns), &wishes);
        let result = self.plugins.add(subject, plugin, plugged.result.as_ref()).await?;
        Ok(Some(Plugged { done: plugged.done + 1, result: Some(result), ..plugged.clone() }))
    }

    /// Maps reserved ports to a container: all that it is to have then, which are asked for when its turn has come.
    pub async fn open_ports(
        &self,
        plugged: &Plugged,
        wishes: impl FnOnce() -> Wishes + Send,
    ) -> Result<(), Error> {
        let (present, result) = (self.of(plugged)?, result(plugged)?);
        let _turn = present.turn.lock().await;
        self.check_still(plugged, &present)?;
        let wishes = plugged.wishes(wishes());
        Ok(self.plugins.map_ports(plugged.subject(Some(&present.netns), &wishes), result).await?)
    }

    /// Closes ports of a container and frees them. The others, which are asked for when its turn has come, are closed
    /// for a moment, too: plug-ins know of no less.
    pub async fn close_ports(
        &self,
        plugged: &Plugged,
        ports: &[NetIn],
        wishes: impl FnOnce() -> Wishes + Send,
    ) -> Result<(), Error> {
        let (present, result) = (self.of(plugged)?, result(plugged)?);
        let _turn = present.turn.lock().await;
        self.check_still(plugged, &present)?;
        let mut wishes = plugged.wishes(wishes());
        self.plugins.unmap_ports(plugged.subject(Some(&present.netns), &wishes), result).await?;
        wishes.ports.retain(|port| !ports.contains(port));
        if !wishes.ports.is_empty() {
            self.plugins.map_ports(plugged.subject(Some(&present.netns), &wishes), result).await?;
        }
        self.shared.lock().ports.give_back(ports, &plugged.id);
        Ok(())
    }

    /// Takes a container off the network, with or without a namespace. Once more does no harm; after an error all is
    /// still the container's.
    pub async fn release(&self, plugged: &Plugged, wishes: Wishes) -> Result<(), Error> {
        let present = self.shared.present(&plugged.id);
        let _turn = match &present {
            Some(present) => Some(present.turn.lock().await),
            None => None,
        };
        remove(&self.plugins, plugged, present.as_ref().map(|present| &present.netns), wishes).await?;
        let mut known = self.shared.lock();
        known.present.remove(&plugged.id);
        known.ports.give_back_all(&plugged.id);
        Ok(())
    }

    /// Asks the plug-ins whether what they have made for a container is still there.
    pub async fn check(&self, plugged: &Plugged, wishes: Wishes) -> Result<(), Error> {
        let (present, result) = (self.of(plugged)?, result(plugged)?);
        let _turn = present.turn.lock().await;
        self.check_still(plugged, &present)?;
        let wishes = plugged.wishes(wishes);
        Ok(self.plugins.check(plugged.subject(Some(&present.netns), &wishes), result).await?)
    }

    /// How many host ports there are, and how many of them containers have.
    pub fn ports(&self) -> (u32, usize) {
        let known = self.shared.lock();
        (known.ports.capacity(), known.ports.in_use())
    }

    fn of(&self, plugged: &Plugged) -> Result<Arc<Present>, Error> {
        self.shared.present(&plugged.id).ok_or_else(|| Error::NoNamespace { id: plugged.id.clone() })
    }

    /// Whoever waited for a turn may find that the container was released meanwhile.
    fn check_still(&self, plugged: &Plugged, present: &Arc<Present>) -> Result<(), Error> {
        match self.shared.present(&plugged.id).is_some_and(|now| Arc::ptr_eq(&now, present)) {
            true => Ok(()),
            false => Err(Error::NoNamespace { id: plugged.id.clone() }),
        }
    }
}

/// Has the plug-ins of a record take its container off the network.
pub async fn remove(
    plugins: &Plugins,
    plugged: &Plugged,
    netns: Option<&OwnedFd>,
    wishes: Wishes,
) -> Result<(), Error> {
    let wishes = plugged.wishes(wishes);
    let removed = plugins.del(plugged.subject(netns, &wishes), plugged.result.as_ref()).await;
    removed.map_err(|causes| Error::Plugins { causes })
}

fn result(plugged: &Plugged) -> Result<&AddResult, Error> {
    plugged.result.as_ref().ok_or_else(|| Error::NoAddress { network: plugged.list.name.clone() })
}
