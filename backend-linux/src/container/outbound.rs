//! Changes of a container's outbound rules: in its record first, as a rule that no record knows would be gone after a
//! restart; then in the firewall.

use std::sync::Arc;

use protocol::NetOutRule;

use super::{Container, Error, Host, blocking};

/// Opens these ways out too. On error there are those that were there before.
pub async fn add(host: &Arc<Host>, container: &Arc<Container>, rules: &[NetOutRule]) -> Result<(), Error> {
    let _one_at_a_time = container.changing_rules.lock().await;
    let before = container.record().net_out.clone();
    NetOutRule::check_all(&before, rules).map_err(Error::Rules)?;
    host.network.check_net_out(rules).map_err(Error::Rules)?;
    record(host, container, [&before, rules].concat()).await?;
    let attachment = &container.record().assignment;
    let opened = host.network.open(attachment, &container.handle, &[], rules).await;
    undo_unless(opened, host, container, before).await
}

/// Makes these the ways out, and no others. On error there are those that were there before.
pub async fn replace(
    host: &Arc<Host>,
    container: &Arc<Container>,
    rules: &[NetOutRule],
) -> Result<(), Error> {
    let _one_at_a_time = container.changing_rules.lock().await;
    NetOutRule::check_all(&[], rules).map_err(Error::Rules)?;
    host.network.check_net_out(rules).map_err(Error::Rules)?;
    let before = container.record().net_out.clone();
    record(host, container, rules.to_vec()).await?;
    let attachment = &container.record().assignment;
    let replaced = host.network.replace_rules(attachment, &container.handle, rules).await;
    undo_unless(replaced, host, container, before).await
}

async fn undo_unless(
    changed: Result<(), crate::network::Error>,
    host: &Arc<Host>,
    container: &Arc<Container>,
    before: Vec<NetOutRule>,
) -> Result<(), Error> {
    if let Err(cause) = changed {
        record(host, container, before).await?;
        return Err(cause.into());
    }
    Ok(())
}

async fn record(host: &Arc<Host>, container: &Arc<Container>, rules: Vec<NetOutRule>) -> Result<(), Error> {
    let (host, container) = (Arc::clone(host), Arc::clone(container));
    blocking(move || container.update(&host.depot, |record| record.net_out = rules)).await?.map(drop)
}
