//! Any Garden server at an address as a column: one server for all behaviours, which others may use too.
//!
//! Environment:
//! - `GARDEN_CONFORMANCE_ADDRESS`: where it listens, `unix:/PATH` or `tcp:HOST:PORT`.
//! - `GARDEN_CONFORMANCE_ROOTFS`: the root filesystem that containers are made from, which must hold busybox. Unset:
//!   the server's default one.
//! - `GARDEN_CONFORMANCE_USER`: `NAME:ID` of an ordinary user in it, whose group has the same number and whose home is
//!   `/home/NAME`. Unset: `vcap:1000`.
//! - `GARDEN_CONFORMANCE_STREAMS`: `classic` for Garden's classic process streams on a server that has websockets too.
//!
//! Whether its containers are the kernel's or in memory, and whether its streams carry more than text, is found out
//! from a process in one.

use std::{env, sync::Arc};

use bytes::Bytes;
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
const STREAMS: &str = "GARDEN_CONFORMANCE_STREAMS";

/// What a server is like, as far as one must ask.
#[derive(Clone, Copy)]
struct Found {
    real: bool,
    classic_streams: bool,
}

/// The server at `GARDEN_CONFORMANCE_ADDRESS`, through this project's client.
pub async fn server_at_address() -> Result<World, Skip> {
    static FOUND: OnceCell<Found> = OnceCell::const_new();

    let Ok(address) = env::var(ADDRESS) else { panic!("{ADDRESS} must say where a server listens") };
    let mut client = Client::new(&address).expect(ADDRESS);
    match env::var(STREAMS).as_deref() {
        Err(_) => {}
        Ok("classic") => client = client.with_classic_streams(),
        Ok(other) => panic!("{STREAMS} is {other:?}: it can be \"classic\", or unset"),
    }
    let rootfs = env::var(ROOTFS).unwrap_or_default();
    let user = env::var(USER).map_or(User { name: "vcap".into(), id: 1000 }, |user| parse_user(&user));
    let Found { real, classic_streams } = *FOUND.get_or_init(|| find_out(&client, &rootfs)).await;
    let traits = Traits { real, over_http: true, classic_streams, exclusive: false, rootfs, user };
    Ok(World::new(Arc::new(client), traits, Box::pin(async { Ok(()) })))
}

fn parse_user(text: &str) -> User {
    let parsed = text.split_once(':').and_then(|(name, id)| Some((name, id.parse().ok()?)));
    let (name, id) = parsed.unwrap_or_else(|| panic!("{USER} is {text:?} instead of NAME:ID"));
    User { name: name.into(), id }
}

/// Asks a process in a container what the kernel says of it, and sends it what is no text.
async fn find_out(client: &Client, rootfs: &str) -> Found {
    let mut spec = ContainerSpec::default();
    spec.image.uri = rootfs.into();
    let created = client.create(spec).await;
    let handle = created.expect("create a container, to find out what the server's are like");
    let run = async |command: &[&str]| {
        let process = client.run(&handle, command_spec(command)).await;
        process.expect("run cat, which the root filesystem must hold")
    };
    let status = end(run(&["cat", "/proc/self/status"]).await).await;
    let cat = run(&["cat"]).await;
    let classic_streams = cat.control.write_stdin(Bytes::from_static(b"\xff")).await.is_err();
    client.destroy(&handle).await.expect("destroy");
    Found { real: status.status == 0 && status.text().contains("CapEff"), classic_streams }
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
