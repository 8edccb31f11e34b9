//! Which of the two implementations there is to be.

use super::{Error, Firewall, Policy, iptables::Iptables, nftables::Nftables};
use crate::FirewallKind;

/// A firewall of one of the two kinds.
#[derive(Debug)]
pub struct Opened {
    pub firewall: Box<dyn Firewall>,
    pub kind: FirewallKind,
}

/// Opens a firewall of this kind for the server of this tag, or of the better kind that the kernel has, and sets up the
/// fixed chains.
pub fn choose(asked_for: FirewallKind, tag: &str, policy: &Policy) -> Result<Opened, Error> {
    let chosen = match asked_for {
        FirewallKind::Nftables => nftables(tag, policy)?,
        FirewallKind::Iptables => iptables(tag, policy)?,
        FirewallKind::Auto => match nftables(tag, policy) {
            Ok(nftables) => nftables,
            Err(refused) => {
                let error = &refused as &dyn std::error::Error;
                tracing::warn!(error, "this kernel has no nftables that would do: trying iptables");
                iptables(tag, policy).map_err(|iptables| Error::Neither {
                    nftables: Box::new(refused),
                    iptables: Box::new(iptables),
                })?
            }
        },
    };
    tracing::info!(firewall = chosen.kind.name(), asked_for = asked_for.name(), "firewall chosen");
    Ok(chosen)
}

/// Whether a firewall of this kind can be had, as far as that shows without a change of the host, and which.
pub fn check(asked_for: FirewallKind) -> (bool, String) {
    let nftables = Nftables::open("").map_err(Error::from);
    let nftables = nftables.and_then(|mut nftables| nftables.has_siblings().map(drop));
    let iptables = Iptables::new("", Default::default()).probe().map_err(Error::from);
    let probed = [(FirewallKind::Nftables, nftables), (FirewallKind::Iptables, iptables)];
    let told = probed.iter().map(|(kind, probed)| match probed {
        Ok(()) => format!("{} can be had", kind.name()),
        Err(error) => format!("{} cannot: {}", kind.name(), protocol::Error::failed(error)),
    });
    let text = format!("firewall: {}", told.collect::<Vec<_>>().join(", "));
    let will_do = |kind| kind == asked_for || asked_for == FirewallKind::Auto;
    (probed.iter().any(|(kind, probed)| will_do(*kind) && probed.is_ok()), text)
}

/// Removes what an earlier server of this tag left with another kind of firewall than this. What cannot be removed is
/// stricter than need be at worst, and no reason to be without any.
pub fn remove_others(kind: FirewallKind, tag: &str) -> Result<(), Error> {
    for mut other in every_kind(tag)?.into_iter().filter(|opened| opened.kind != kind) {
        if let Err(error) = other.firewall.uninstall() {
            let (kind, error) = (other.kind.name(), &error as &dyn std::error::Error);
            tracing::warn!(
                kind,
                error,
                "cannot remove what an earlier server may have left in another firewall"
            );
        }
    }
    Ok(())
}

/// All that the host can have.
pub fn every_kind(tag: &str) -> Result<Vec<Opened>, Error> {
    let iptables = Box::new(Iptables::new(tag, Default::default()));
    let mut all = vec![Opened { firewall: iptables, kind: FirewallKind::Iptables }];
    match Nftables::open(tag) {
        Ok(nftables) => all.push(Opened { firewall: Box::new(nftables), kind: FirewallKind::Nftables }),
        // The kernel does not know this kind of socket: nothing can be there.
        Err(error) if error.errno() == Some(rustix::io::Errno::PROTONOSUPPORT) => {}
        Err(error) => Err(error)?,
    }
    Ok(all)
}

fn nftables(tag: &str, policy: &Policy) -> Result<Opened, Error> {
    let mut nftables = Nftables::open(tag)?;
    nftables.install(policy)?;
    Ok(Opened { firewall: Box::new(nftables), kind: FirewallKind::Nftables })
}

fn iptables(tag: &str, policy: &Policy) -> Result<Opened, Error> {
    let mut iptables = Iptables::new(tag, Default::default());
    iptables.install(policy)?;
    Ok(Opened { firewall: Box::new(iptables), kind: FirewallKind::Iptables })
}
