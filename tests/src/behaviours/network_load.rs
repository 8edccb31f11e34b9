//! Traffic through a published port: HTTP and websockets, from several clients on another host at once.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use garden_client::Client;
use protocol::{Backend, ContainerSpec, FilesQuery, ProcessSpec};

use crate::{
    attack::shown,
    behaviours::{
        network::map,
        packets::{NO_NEIGHBOUR, next_output},
    },
    files::{body, collect, tar_of, untar},
    killable::binary,
    neighbour::{HOST, Neighbour},
    world::World,
};

const CLIENTS: usize = 6;
/// That each client sends, and gets back, in each of two ways.
const BYTES: usize = 1 << 20;

/// A container with a web server, and the host's port that leads to it.
async fn published_server(world: &World) -> (String, u16) {
    let program = binary("web").display().to_string();
    let handle = world.create_with(|spec| spec.bind_mounts.push(shown(&program, "/web"))).await;
    let server = world.run(&handle, &["/web", "0.0.0.0:8080"]).await;
    assert_eq!(next_output(&mut server.stdout.open()).await, "listening\n");
    let port = map(world, &handle, 0, 8080).await.host_port;
    (handle, port)
}

/// Bytes that are different for each client, at each place.
fn bytes_of(client: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (at ^ at >> 8 ^ at >> 16 ^ client << 5) as u8).collect()
}

/// Sends bytes by HTTP and by a websocket, and has them sent back.
async fn use_server(port: u16, number: usize) {
    let client = Client::new(&format!("tcp:{HOST}:{port}")).expect("an address");
    let handle = client.create(ContainerSpec::default()).await.expect("a request");
    let sent = bytes_of(number);

    let tmp = || FilesQuery { user: String::new(), path: "/tmp".into() };
    client.stream_in(&handle, tmp(), body(tar_of(&[("file", &sent)]))).await.expect("a long body");
    let file = FilesQuery { path: "/tmp/file".into(), ..tmp() };
    let tar =
        collect(client.stream_out(&handle, file).await.expect("a request")).await.expect("a long answer");
    assert!(untar(&tar)["file"].0.as_ref() == Some(&sent), "other bytes came back by HTTP");

    let cat = client.run(&handle, ProcessSpec::new("cat", [""; 0])).await.expect("a websocket");
    let output = collect(cat.stdout.open());
    let input = async {
        cat.control.write_stdin(Bytes::from(sent.clone())).await.expect("input");
        cat.control.close_stdin().await.expect("the input's end");
    };
    let (output, ()) = futures_util::future::join(output, input).await;
    assert!(output.expect("output") == sent, "other bytes came back by websocket");
    assert_eq!(cat.exit.await, Ok(0));
}

/// Runs all clients on the neighbour.
async fn use_server_at_once(neighbour: &Neighbour, port: u16) {
    neighbour
        .run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let clients = (0..CLIENTS).map(|number| use_server(port, number));
            runtime.expect("a runtime").block_on(join_all(clients));
        })
        .await;
}

/// All bytes arrive, of each client its own.
pub async fn http_and_websockets_go_through_a_published_port(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    let (_, port) = published_server(world).await;
    use_server_at_once(neighbour, port).await;
}

/// What one has received and sent is not another's.
pub async fn traffic_is_counted_by_container(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    let quiet = world.create().await;
    let (handle, port) = published_server(world).await;
    use_server_at_once(neighbour, port).await;
    let backend: Arc<dyn Backend> = world.shared();
    let counted = async |handle: &str| {
        backend.metrics(handle).await.expect("metrics").network.expect("network metrics")
    };
    let (busy, quiet) = (counted(&handle).await, counted(&quiet).await);
    let at_least = (CLIENTS * 2 * BYTES) as u64;
    assert!(busy.rx_bytes >= at_least && busy.tx_bytes >= at_least, "{busy:?}");
    assert!(busy.rx_bytes < at_least * 2 && busy.tx_bytes < at_least * 2, "{busy:?}");
    assert!(quiet.rx_bytes < BYTES as u64 && quiet.tx_bytes < BYTES as u64, "{quiet:?}");
}
