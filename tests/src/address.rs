//! Any Garden server at an address as a column: one server for all behaviours, which others may use too.
//!
//! Environment:
//! - `GARDEN_CONFORMANCE_ADDRESS`: where it listens, `unix:/PATH` or `tcp:HOST:PORT`.
//! - `GARDEN_CONFORMANCE_ROOTFS`: the root filesystem that containers are made from, which must hold busybox. Unset:
//!   the server's default one.
//! - `GARDEN_CONFORMANCE_USER`: `NAME:ID` of an ordinary user in it, whose group has the same number and whose home is
//!   `/home/NAME`. Unset: `vcap:1000`.
//!
//! Whether its containers are the kernel's or in memory is found out from a process in one.

use std::{env, sync::Arc};

use garden_client::Client;
use protocol::{Backend, ContainerSpec};
use tokio::sync::OnceCell;

use crate::{
    columns::Skip,
    world::{Traits, User, World, command_spec, end},
};

const ADDRESS: &str = "GARDEN_CONFORMANCE_ADDRESS";
const ROOTFS: &str = "GARDEN_CONFORMANCE_ROOTFS";
const USER: &str = "GARDEN_CONFORMANCE_USER";

/// The server at `GARDEN_CONFORMANCE_ADDRESS`, through this project's client.
pub async fn server_at_address() -> Result<World, Skip> {
    static REAL: OnceCell<bool> = OnceCell::const_new();

    let Ok(address) = env::var(ADDRESS) else { panic!("{ADDRESS} must say where a server listens") };
    let client = Client::new(&address).expect(ADDRESS);
    let rootfs = env::var(ROOTFS).unwrap_or_default();
    let user = env::var(USER).map_or(User { name: "vcap".into(), id: 1000 }, |user| parse_user(&user));
    let real = *REAL.get_or_init(|| has_a_kernel(&client, &rootfs)).await;
    let traits = Traits { real, over_http: true, exclusive: false, rootfs, user };
    Ok(World::new(Arc::new(client), traits, Box::pin(async { Ok(()) })))
}

fn parse_user(text: &str) -> User {
    let parsed = text.split_once(':').and_then(|(name, id)| Some((name, id.parse().ok()?)));
    let (name, id) = parsed.unwrap_or_else(|| panic!("{USER} is {text:?} instead of NAME:ID"));
    User { name: name.into(), id }
}

/// Whether a process in a container can see what a kernel says of it.
async fn has_a_kernel(client: &Client, rootfs: &str) -> bool {
    let mut spec = ContainerSpec::default();
    spec.image.uri = rootfs.into();
    let handle =
        client.create(spec).await.expect("create a container, to find out what the server's are like");
    let process = client.run(&handle, command_spec(&["cat", "/proc/self/status"])).await;
    let ended = end(process.expect("run cat, which the root filesystem must hold")).await;
    client.destroy(&handle).await.expect("destroy");
    ended.status == 0 && ended.text().contains("CapEff")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_and_a_number() {
        let user = parse_user("alice:1001");
        assert_eq!((user.name.as_str(), user.id), ("alice", 1001));
    }
}
