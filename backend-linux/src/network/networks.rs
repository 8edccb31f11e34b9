//! Our own network, or those of plug-ins, behind the same calls.
//!
//! What a container has stays of the kind that it was made with: a server that was started to make the other kind takes
//! it away, but does not go on with it.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use protocol::{BandwidthLimits, ContainerSpec, NetIn, NetOutRule};

use super::{
    Attachment, Error, Lease, MTU_MAX, Member, Network, Usage, bandwidth,
    cni::{Capability, NetworkList, Plugins, Wishes, check_directories},
    egress,
    plugged::{self, PluggedNetwork},
    pool::BadSetting,
};
use crate::{Defences, FirewallKind, NetworkConfig};

/// What an operator has said of plug-ins, found to make sense.
#[derive(Debug)]
pub struct Cni {
    /// None: our own network is in force.
    list: Option<NetworkList>,
    plugins: Plugins,
}

impl Cni {
    /// Reads the file, sees that there is a program for each of its plug-ins, and that nothing was asked for besides that
    /// only our own network does. Blocks for a few small files.
    pub fn open(config: &NetworkConfig) -> Result<Cni, Error> {
        check_directories(&config.cni.plugin_dirs)
            .map_err(|reason| BadSetting { setting: "cni-plugin-dir", reason })?;
        let plugins = Plugins::new(config.cni.plugin_dirs.clone());
        let Some(file) = &config.cni.list else { return Ok(Cni { list: None, plugins }) };
        let ours = [
            ("deny-network", !config.denied.is_empty()),
            ("allow-host-access", config.allow_host_access),
            ("firewall", config.firewall != FirewallKind::Auto),
            ("mtu", config.mtu.is_some()),
            ("network-pool-ipv6", config.pool_ipv6.is_some()),
        ];
        if let Some((setting, _)) = ours.into_iter().find(|(_, is_set)| *is_set) {
            let reason = "has no effect on a network that CNI plug-ins make, of which their configuration says all: \
                          leave out this, or cni-config";
            return Err(BadSetting { setting, reason: reason.to_owned() }.into());
        }
        let list = NetworkList::read(file)?;
        plugins.find_all(&list)?;
        Ok(Cni { list: Some(list), plugins })
    }

    /// The name of the network that plug-ins make.
    pub fn name(&self) -> Option<&str> {
        self.list.as_ref().map(|list| list.name.as_str())
    }
}

/// The networks of one server's containers.
#[derive(Debug)]
pub struct Networks {
    kind: Kind,
    external_ip: IpAddr,
    /// Of either kind's containers, for what is left of them.
    plugins: Plugins,
    tag: String,
    state_dir: PathBuf,
}

#[derive(Debug)]
enum Kind {
    Own(Network),
    Plugged(PluggedNetwork),
}

impl Networks {
    /// Sets up what all containers share. What an earlier server left stays in effect until [`sweep`](Networks::sweep).
    pub async fn start(
        config: &NetworkConfig,
        cni: Cni,
        tag: &str,
        state_dir: &Path,
        defences: &Defences,
    ) -> Result<Networks, Error> {
        let Cni { list, plugins } = cni;
        let (kind, external_ip) = match list {
            Some(list) => {
                let network = PluggedNetwork::start(list, plugins.clone(), config, tag)?;
                let egress = egress::discover().await?.map_or(Ipv4Addr::LOCALHOST, |egress| egress.address);
                (Kind::Plugged(network), config.external_ip.unwrap_or(egress.into()))
            }
            None => {
                let network = Network::start(config, tag, state_dir, defences).await?;
                let external_ip = network.external_ip();
                (Kind::Own(network), external_ip)
            }
        };
        Ok(Networks { kind, external_ip, plugins, tag: tag.to_owned(), state_dir: state_dir.to_owned() })
    }

    /// Refuses what links cannot have, or plug-ins cannot be told.
    pub fn check_supported(&self, spec: &ContainerSpec) -> protocol::Result<()> {
        let network = match &self.kind {
            Kind::Own(network) => return network.check_bandwidth(spec.limits.bandwidth),
            Kind::Plugged(network) => network,
        };
        self.check_net_out(&spec.net_out)?;
        if spec.limits.bandwidth != BandwidthLimits::default() && !network.has(Capability::Bandwidth) {
            let reason = Capability::Bandwidth.is_lacking();
            return Err(protocol::Error::invalid("limits.bandwidth_limits", reason));
        }
        // What their links' MTU is, plug-ins do not say: hardly more than is usual.
        bandwidth::check(spec.limits.bandwidth, MTU_MAX)
    }

    /// Refuses rules where they would have no effect.
    pub fn check_net_out(&self, rules: &[NetOutRule]) -> protocol::Result<()> {
        match &self.kind {
            Kind::Plugged(_) if !rules.is_empty() => {
                let reason = "outbound rules cannot be enforced on a network that CNI plug-ins make";
                Err(protocol::Error::invalid("netout", reason))
            }
            _ => Ok(()),
        }
    }

    /// Whether supervisors can be put on the network before there is a container for them.
    pub fn is_made_ahead(&self) -> bool {
        matches!(self.kind, Kind::Own(_))
    }

    /// Chooses a container's place on the network: `requested` is what its spec says, or empty. Makes nothing.
    pub async fn plan(&self, requested: &str) -> Result<Lease, Error> {
        match &self.kind {
            Kind::Own(network) => network.plan(requested).await.map(Lease::Own),
            Kind::Plugged(network) => network.plan(requested).map(Lease::Plugged),
        }
    }

    /// Takes what a record says that a container has. Memory only.
    pub fn adopt(&self, attachment: &Attachment, ports: &[NetIn]) -> Result<Lease, Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.adopt(own, ports).map(Lease::Own),
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => {
                network.adopt(plugged, ports).map(Lease::Plugged)
            }
            _ => Err(Error::OtherKind),
        }
    }

    /// Chooses host ports for a container, all or none, and fills in what `wanted` leaves open. Waits for nothing.
    pub fn reserve_ports(&self, attachment: &Attachment, wanted: &[NetIn]) -> Result<Vec<NetIn>, Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.reserve_ports(own, wanted),
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => network.reserve_ports(plugged, wanted),
            _ => Err(Error::OtherKind),
        }
    }

    /// Gives back ports that were reserved and not opened. Memory only.
    pub fn unreserve_ports(&self, attachment: &Attachment, ports: &[NetIn]) {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.unreserve_ports(own, ports),
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => network.unreserve_ports(plugged, ports),
            _ => {}
        }
    }

    /// Puts a container's namespace on the network, or on the way there: plug-ins follow by
    /// [`add_next`](Networks::add_next). `socket` is an rtnetlink socket that was opened in there.
    pub async fn attach(
        &self,
        attachment: &Attachment,
        netns: BorrowedFd<'_>,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.attach(own, netns, socket).await,
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => {
                network.attach(plugged, netns, socket).await
            }
            _ => Err(Error::OtherKind),
        }
    }

    /// Limits the bandwidth of a container that is on the network; plug-ins were told of it when they put it there.
    pub async fn limit_bandwidth(
        &self,
        attachment: &Attachment,
        limits: BandwidthLimits,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.limit_bandwidth(own, limits, socket).await,
            _ => Ok(()),
        }
    }

    /// Has the next plug-in do its part; returns what to keep in the record before the one after it. None: all is done.
    pub async fn add_next(
        &self,
        attachment: &Attachment,
        wishes: Wishes,
    ) -> Result<Option<Attachment>, Error> {
        match (&self.kind, attachment) {
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => {
                Ok(network.add_next(plugged, wishes).await?.map(Attachment::Plugged))
            }
            _ => Ok(None),
        }
    }

    /// Whether plug-ins need a container's namespace, and it is not held yet.
    pub fn lacks_namespace(&self, attachment: &Attachment) -> bool {
        match (&self.kind, attachment) {
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => !network.holds(plugged),
            (Kind::Own(_), Attachment::Plugged(_)) => true,
            (_, Attachment::Own(_)) => false,
        }
    }

    /// Holds a container's namespace until the container is released.
    pub fn hold(&self, attachment: &Attachment, netns: OwnedFd) {
        if let (Kind::Plugged(network), Attachment::Plugged(plugged)) = (&self.kind, attachment) {
            network.hold(plugged, netns);
        }
    }

    /// Maps reserved ports to a new container, unless its plug-ins were told of them before, and lets a container reach
    /// what `rules` say besides what it may already. `handle` is what the log calls it.
    pub async fn open(
        &self,
        attachment: &Attachment,
        handle: &str,
        ports: &[NetIn],
        rules: &[NetOutRule],
    ) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.open(own, handle, ports, rules).await,
            (_, Attachment::Plugged(_)) => Ok(()),
            _ => Err(Error::OtherKind),
        }
    }

    /// Maps reserved ports to a container. Plug-ins are told all that it is to have, which its record knows already.
    pub async fn open_ports(
        &self,
        attachment: &Attachment,
        handle: &str,
        ports: &[NetIn],
        all: impl FnOnce() -> Wishes + Send,
    ) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.open(own, handle, ports, &[]).await,
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => network.open_ports(plugged, all).await,
            _ => Err(Error::OtherKind),
        }
    }

    /// Lets a container reach what `rules` say and nothing else besides what all may, in one step.
    pub async fn replace_rules(
        &self,
        attachment: &Attachment,
        handle: &str,
        rules: &[NetOutRule],
    ) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.replace_rules(own, handle, rules).await,
            // It has none: they are refused.
            (_, Attachment::Plugged(_)) => Ok(()),
            _ => Err(Error::OtherKind),
        }
    }

    /// Closes mapped ports and frees them.
    pub async fn close_ports(
        &self,
        attachment: &Attachment,
        ports: &[NetIn],
        all: impl FnOnce() -> Wishes + Send,
    ) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.close_ports(own, ports).await,
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => {
                network.close_ports(plugged, ports, all).await
            }
            _ => Err(Error::OtherKind),
        }
    }

    /// Takes a container off the network, of whichever kind it is. `netns` is its namespace, where that is
    /// [lacking](Networks::lacks_namespace). Once more does no harm; after an error all is still the container's.
    pub async fn release(
        &self,
        attachment: &Attachment,
        wishes: Wishes,
        netns: Option<OwnedFd>,
    ) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Own(network), Attachment::Own(own)) => network.release(own, &wishes.ports).await,
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => {
                netns.into_iter().for_each(|netns| network.hold(plugged, netns));
                network.release(plugged, wishes).await
            }
            // No container of that kind is kept: all of it may go.
            (Kind::Plugged(_), Attachment::Own(_)) => Network::cleanup(&self.tag, &self.state_dir).await,
            (Kind::Own(_), Attachment::Plugged(plugged)) => {
                plugged::remove(&self.plugins, plugged, netns.as_ref(), wishes).await
            }
        }
    }

    /// Frees what was planned for a container of which nothing was made.
    pub async fn forgo(&self, lease: Lease) -> Result<(), Error> {
        match (&self.kind, lease) {
            (Kind::Own(network), Lease::Own(lease)) => network.release(lease.assignment(), &[]).await,
            (_, lease) => {
                drop(lease);
                Ok(())
            }
        }
    }

    /// Asks plug-ins whether what they have made for a container is still there.
    pub async fn check(&self, attachment: &Attachment, wishes: Wishes) -> Result<(), Error> {
        match (&self.kind, attachment) {
            (Kind::Plugged(network), Attachment::Plugged(plugged)) => network.check(plugged, wishes).await,
            _ => Ok(()),
        }
    }

    /// Removes what no container of `owned` has, once, after all were adopted. Returns the names of the deleted links.
    pub async fn sweep(&self, owned: Vec<Member>) -> Result<Vec<String>, Error> {
        match &self.kind {
            Kind::Own(network) => network.sweep(owned).await,
            // Plug-ins make nothing without a record; but an earlier server may have made our own network.
            Kind::Plugged(_) => {
                if let Err(error) = Network::cleanup(&self.tag, &self.state_dir).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot remove the network of an earlier server without plug-ins");
                }
                Ok(Vec::new())
            }
        }
    }

    /// The names of the containers' links that there are, as far as they are ours.
    pub async fn links(&self) -> Result<HashSet<String>, Error> {
        match &self.kind {
            Kind::Own(network) => network.links().await,
            Kind::Plugged(_) => Ok(HashSet::new()),
        }
    }

    /// How many containers the network bears, as far as is known: plug-ins do not say.
    pub fn capacity(&self) -> u32 {
        match &self.kind {
            Kind::Own(network) => network.capacity(),
            Kind::Plugged(_) => u32::MAX,
        }
    }

    /// How much of the pools is taken. With plug-ins there is none of subnets.
    pub fn usage(&self) -> Usage {
        match &self.kind {
            Kind::Own(network) => network.usage(),
            Kind::Plugged(network) => {
                let (ports, ports_in_use) = network.ports();
                Usage { subnets: 0, subnets_in_use: 0, subnets_quarantined: 0, ports, ports_in_use }
            }
        }
    }

    /// The host's address as others see it; 127.0.0.1 where it has none and none was set.
    pub fn external_ip(&self) -> IpAddr {
        self.external_ip
    }
}
