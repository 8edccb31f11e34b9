//! Packets from containers and to them.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::StreamExt;
use protocol::{ContainerInfo, Process};

use crate::{patience::patience, world::World};

/// Why a behaviour with packets does not apply.
pub(super) const NO_NEIGHBOUR: &str = "the backend's host has no other one beside it that the test could use";

/// What a listener of [`listen`] says to everybody.
pub(super) const WORD: &str = "from within";

pub(super) async fn info(world: &World, handle: &str) -> ContainerInfo {
    world.backend().info(handle).await.expect("info").into_value()
}

/// A container's own address.
pub(super) async fn address(world: &World, handle: &str) -> Ipv4Addr {
    info(world, handle).await.container_ip.parse().expect("an address")
}

/// What a server says first to a client in a container, or what the client says of it.
pub(super) async fn ask(
    world: &World,
    handle: &str,
    address: impl Into<IpAddr>,
    port: u16,
) -> Result<String, String> {
    let seconds = patience(10).as_secs();
    let script = format!("nc -w {seconds} {} {port} < /dev/null", address.into());
    let ended = world.run_to_end(handle, &["sh", "-c", &script]).await;
    match ended.text().trim() {
        "" => Err(String::from_utf8_lossy(&ended.stderr).into_owned()),
        said => Ok(said.to_owned()),
    }
}

/// How long an answer is waited for that has no connection: in a network of this machine it is there, or will not come.
fn answer_seconds() -> String {
    patience(1).as_secs().to_string()
}

/// Whether an echo of ICMP comes back to a container.
pub(super) async fn pings(world: &World, handle: &str, address: impl Into<IpAddr>) -> bool {
    let address = address.into().to_string();
    let command = ["ping", "-c", "1", "-W", &answer_seconds(), &address];
    world.run_to_end(handle, &command).await.status == 0
}

/// Whether a name server answers a container, by UDP.
pub(super) async fn resolves(world: &World, handle: &str, server: Ipv4Addr) -> bool {
    let server = server.to_string();
    let command = ["timeout", &answer_seconds(), "nslookup", "-type=a", "web.internal.", &server];
    world.run_to_end(handle, &command).await.status == 0
}

/// A server in a container that says [`WORD`] to everybody. It listens when this returns.
pub(super) async fn listen(world: &World, handle: &str, port: u16) -> Process {
    let listener = world.run(handle, &["nc", "-ll", "-p", &port.to_string(), "-e", "echo", WORD]).await;
    // In the kernel's list, as nobody's: a connection to see would be served.
    let script = format!(
        "while ! grep -q ':{port:04X} [0:]* 0A ' /proc/net/tcp /proc/net/tcp6 2> /dev/null; do usleep 5000; done"
    );
    assert_eq!(world.run_to_end(handle, &["sh", "-c", &script]).await.status, 0);
    listener
}

/// Waits for a process's next output.
pub(super) async fn next_output(from: &mut protocol::ByteStream) -> String {
    let chunk = tokio::time::timeout(patience(10), from.next()).await;
    let chunk = chunk.expect("output in time").expect("output").expect("output");
    String::from_utf8_lossy(&chunk).into_owned()
}
