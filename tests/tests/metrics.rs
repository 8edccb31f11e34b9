//! Metrics of containers beside what the kernel itself says. On the Linux backend, in process.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use protocol::{NetIn, NetworkStat};
use tests::{
    columns::check,
    linux::{linux, linux_with},
    patience::patience,
    world::{World, end},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(10));
const POLL: Duration = Duration::from_millis(5);

async fn network(world: &World, handle: &str) -> Option<NetworkStat> {
    world.backend().metrics(handle).await.expect("metrics").network
}

/// What the container's own end of its link says.
async fn seen_inside(world: &World, handle: &str) -> NetworkStat {
    let script = "cd /sys/class/net/eth0/statistics; cat rx_bytes tx_bytes";
    let text = end(world.run(handle, &["sh", "-c", script]).await).await.text();
    let mut numbers = text.lines().map(|line| line.parse().expect("a number"));
    NetworkStat { rx_bytes: numbers.next().unwrap(), tx_bytes: numbers.next().unwrap() }
}

/// Sends bytes to a port of the host that leads to a container where somebody is about to listen.
async fn send(port: u16, bytes: &[u8]) {
    let since = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(error) => assert!(since.elapsed() < *PATIENCE, "connect to port {port}: {error}"),
        }
        sleep(POLL).await;
    };
    stream.write_all(bytes).await.expect("send");
    stream.shutdown().await.expect("end");
}

#[test]
fn network_metrics_tell_what_the_container_received_and_sent() {
    check(linux_with(|config| config.network.container_metrics = true), |world| {
        Box::pin(async move {
            const BYTES: usize = 1 << 20;
            let (handle, quiet) = (world.create().await, world.create().await);
            let before = network(world, &handle).await.expect("counted");
            let port = NetIn { host_port: 0, container_port: 8080 };
            let port = world.backend().net_in(&handle, port).await.expect("a port").host_port;
            let listener = world.run(&handle, &["sh", "-c", "nc -l -p 8080 | wc -c"]).await;
            send(port, &vec![0; BYTES]).await;
            assert_eq!(end(listener).await.text().trim(), BYTES.to_string());

            // The last packets of the connection may still be on their way.
            let since = Instant::now();
            let counted = loop {
                let inside = seen_inside(world, &handle).await;
                let counted = network(world, &handle).await.expect("counted");
                if counted == inside {
                    break counted;
                }
                assert!(since.elapsed() < *PATIENCE, "{counted:?}, but inside {inside:?}");
                sleep(POLL).await;
            };
            assert!(counted.rx_bytes - before.rx_bytes >= BYTES as u64, "{before:?} {counted:?}");
            assert!(counted.tx_bytes - before.tx_bytes < BYTES as u64 / 2, "{before:?} {counted:?}");

            let all = world.backend().bulk_metrics(&[handle.clone(), quiet.clone()]).await.expect("metrics");
            assert_eq!(all.0[&handle].metrics.network, Some(counted));
            let quiet = all.0[&quiet].metrics.network.expect("counted");
            assert!(quiet.rx_bytes < BYTES as u64 / 2, "{quiet:?}");
        })
    });
}

#[test]
fn network_metrics_are_null_unless_asked_for() {
    check(linux(), |world| {
        Box::pin(async move {
            let handle = world.create().await;
            assert_eq!(network(world, &handle).await, None);
            let all = world.backend().bulk_metrics(std::slice::from_ref(&handle)).await.expect("metrics");
            assert_eq!(all.0[&handle].metrics.network, None);
        })
    });
}
