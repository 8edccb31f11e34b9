//! One container's place on the network, from the plan to the release.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use protocol::{NetIn, NetOutRule};
use rustix::io::Errno;

use super::{
    Error, Network, ends,
    firewall::{Change, Member, Outbound},
    host_port,
    lease::{Assignment, Lease, Ledger, LinkNames},
    link,
    netlink::{self, Socket},
    outbound,
    pool::{Error as PoolError, Place, SubnetPool, subnet},
};

/// How many link indexes are tried. One in use is another server's, one of a billion.
const INDEX_ATTEMPTS: usize = 4;

impl Network {
    /// Chooses a container's place on the network: `requested` names a subnet or an address, or is empty, which is a
    /// matter of memory only. For a name the kernel is asked which networks are the host's at the moment.
    pub async fn plan(&self, requested: &str) -> Result<Lease, Error> {
        if requested.is_empty() {
            return self.lease(|subnets, owner| subnets.take_next(owner));
        }
        let named = subnet::parse(requested)?;
        let host = self.kernel.host_networks(&self.prefix).await?;
        self.lease(|subnets, owner| subnets.take_named(named, &host.ipv4, owner))
    }

    fn lease(
        &self,
        take: impl FnOnce(&mut SubnetPool, &str) -> Result<Place, PoolError>,
    ) -> Result<Lease, Error> {
        let host_link = self.names.next_name();
        let mut pools = self.ledger.lock();
        let place @ Place { subnet, address } = take(&mut pools.subnets, &host_link)?;
        let ipv6 = match pools.ipv6.as_mut().map(|pool| pool.take_next(&host_link)).transpose() {
            Ok(ipv6) => ipv6,
            Err(error) => {
                pools.subnets.give_back(place, &host_link);
                return Err(error.into());
            }
        };
        pools.planned.insert(host_link.clone());
        drop(pools);
        let assignment = Assignment {
            subnet,
            host_ip: subnet.host_address(),
            container_ip: address,
            host_link,
            mtu: self.mtu,
            ipv6,
        };
        Ok(Lease { assignment, ledger: self.ledger.clone() })
    }

    /// Takes what a record says that a container has. Memory only; [`sweep`](Network::sweep) puts the firewall right.
    pub fn adopt(&self, assignment: &Assignment, ports: &[NetIn]) -> Result<Lease, Error> {
        let owner = &assignment.host_link;
        let mut pools = self.ledger.lock();
        pools.take_exactly(assignment)?;
        if let Err(error) = pools.ports.adopt(ports, owner) {
            pools.give_back(assignment);
            return Err(error.into());
        }
        drop(pools);
        Ok(Lease { assignment: assignment.clone(), ledger: self.ledger.clone() })
    }

    /// Chooses host ports for a container that the host itself does not have, all or none, and fills in what `wanted`
    /// leaves open. Waits for nothing.
    pub fn reserve_ports(&self, assignment: &Assignment, wanted: &[NetIn]) -> Result<Vec<NetIn>, Error> {
        Ok(self.ledger.lock().ports.take(wanted, &assignment.host_link, host_port::is_free)?)
    }

    /// Gives back ports that were reserved and not opened. Memory only.
    pub fn unreserve_ports(&self, assignment: &Assignment, ports: &[NetIn]) {
        self.ledger.lock().ports.give_back(ports, &assignment.host_link);
    }

    /// Puts a container on the network. `netns` is its network namespace, `socket` an rtnetlink socket that was opened
    /// in there: a thread of the server cannot enter it. After an error, [`release`](Network::release).
    pub async fn attach(
        &self,
        assignment: &Assignment,
        netns: BorrowedFd<'_>,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let duplicate = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|source| Error::System {
                what: "duplicate a descriptor of the network namespace",
                source,
            })
        };
        let (netns, socket) = (duplicate(netns)?, duplicate(socket)?);
        self.ledger.lock().planned.remove(&assignment.host_link);
        let (names, ipv6) = (Arc::clone(&self.names), self.ipv6);
        let (on_host, inside) = (assignment.clone(), assignment.clone());
        let (ledger, later) = (self.ledger.clone(), self.ledger.clone());
        self.kernel
            .with_links_then(
                move |links| {
                    check_held(&ledger, &on_host)?;
                    make_host_end(links, &on_host, &names, netns.as_fd(), ipv6)
                        .map_err(|source| Error::Link { link: on_host.host_link, source })
                },
                move |index, kernel| {
                    let mut socket = Socket::from(socket);
                    ends::configure_container_end(&mut socket, &inside, index, ipv6)
                        .map_err(|source| Error::Link { link: inside.host_link.clone(), source })?;
                    let owner = inside.host_link.clone();
                    kernel.change_now(&owner, move || {
                        check_held(&later, &inside)?;
                        Ok(Change::Admit(inside))
                    })
                },
            )
            .await
    }

    /// Maps reserved ports to a container, and lets it reach what `rules` say besides what it may already. `handle` is
    /// what the log calls it.
    pub async fn open(
        &self,
        assignment: &Assignment,
        handle: &str,
        ports: &[NetIn],
        rules: &[NetOutRule],
    ) -> Result<(), Error> {
        let member = member(assignment, handle, ports, rules);
        self.change(assignment, move || Ok(Change::Open(member))).await
    }

    /// Lets a container reach what `rules` say and nothing else besides what all may, in one step.
    pub async fn replace_rules(
        &self,
        assignment: &Assignment,
        handle: &str,
        rules: &[NetOutRule],
    ) -> Result<(), Error> {
        let Member { assignment: of, outbound, .. } = member(assignment, handle, &[], rules);
        self.change(assignment, move || Ok(Change::Replace { assignment: of, outbound })).await
    }

    /// Makes a change, unless the container was released meanwhile.
    async fn change(
        &self,
        assignment: &Assignment,
        prepare: impl FnOnce() -> Result<Change, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (assignment, ledger) = (assignment.clone(), self.ledger.clone());
        ledger.lock().planned.remove(&assignment.host_link);
        let owner = assignment.host_link.clone();
        let prepare = move || {
            check_held(&ledger, &assignment)?;
            prepare()
        };
        self.kernel.change(&owner, prepare, || {}).await
    }

    /// Closes mapped ports and frees them. Once more does no harm.
    pub async fn close_ports(&self, assignment: &Assignment, ports: &[NetIn]) -> Result<(), Error> {
        let owner = assignment.host_link.clone();
        let (asked, ledger) = ((assignment.clone(), ports.to_vec()), self.ledger.clone());
        let (closed, later) = ((owner.clone(), ports.to_vec()), self.ledger.clone());
        let prepare = move || {
            let (assignment, ports) = asked;
            let ports = not_others(&ledger, &assignment, ports);
            Ok(Change::Close { assignment, ports })
        };
        let finish = move || later.lock().ports.give_back(&closed.1, &closed.0);
        self.kernel.change(&owner, prepare, finish).await
    }

    /// Takes a container off the network, with every port that it has, known to `ports` or not. Its link is left to go
    /// with its namespace, and its subnet is free when it has gone. Once more does no harm; after an error all is still
    /// the container's.
    pub async fn release(&self, assignment: &Assignment, ports: &[NetIn]) -> Result<(), Error> {
        let owner = assignment.host_link.clone();
        let (asked, ledger) = ((assignment.clone(), ports.to_vec()), self.ledger.clone());
        let prepare = move || {
            let (assignment, ports) = asked;
            let ports = not_others(&ledger, &assignment, ports);
            Ok(Change::Expel { assignment, ports })
        };
        let (assignment, ledger, released) = (assignment.clone(), self.ledger.clone(), self.released.clone());
        let finish = move || {
            let owner = &assignment.host_link;
            let mut pools = ledger.lock();
            pools.ports.give_back_all(owner);
            if pools.planned.remove(owner) {
                // Nothing was made that the subnet would have to wait for.
                pools.give_back(&assignment);
            } else if pools.quarantine(&assignment) {
                // The receiver goes with the server, and then its memory is of no more use.
                let _ = released.send(assignment.clone());
            }
        };
        self.kernel.change(&owner, prepare, finish).await
    }
}

/// A container's part of the firewall. `rules` were checked when they were asked for.
pub fn member(assignment: &Assignment, handle: &str, ports: &[NetIn], rules: &[NetOutRule]) -> Member {
    let outbound = Outbound { log_prefix: outbound::log_prefix(handle), rules: outbound::expand(rules) };
    Member { assignment: assignment.clone(), ports: ports.to_vec(), outbound }
}

/// Returns the index of the host's end.
fn make_host_end(
    links: &mut Socket,
    assignment: &Assignment,
    names: &LinkNames,
    netns: BorrowedFd<'_>,
    ipv6: bool,
) -> Result<u32, netlink::Error> {
    let mut attempts = 0;
    let index = loop {
        let index = names.next_index();
        attempts += 1;
        match link::create_pair(links, assignment, index, netns) {
            Ok(()) => break index,
            Err(error) if error.errno() == Some(Errno::BUSY) && attempts < INDEX_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    };
    ends::configure_host_end(links, assignment, index, ipv6)?;
    Ok(index)
}

/// A step that was given up by its caller may still be waiting for its turn when the container is released. Asked with
/// the firewall in hand, as a release has it, this keeps it from leaving elements behind.
fn check_held(ledger: &Ledger, assignment: &Assignment) -> Result<(), Error> {
    if ledger.lock().subnets.is_held(assignment.place(), &assignment.host_link) {
        return Ok(());
    }
    Err(Error::Released { link: assignment.host_link.clone() })
}

/// Those of the ports that no other container has: of two releases of one container, the later may find that another
/// has its ports by now.
fn not_others(ledger: &Ledger, assignment: &Assignment, mut ports: Vec<NetIn>) -> Vec<NetIn> {
    let pools = ledger.lock();
    ports.retain(|port| pools.ports.owner(port.host_port).is_none_or(|owner| owner == assignment.host_link));
    ports
}
