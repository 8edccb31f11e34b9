//! Limits of bandwidth, through the API and with real traffic. How fast what is not limited is, is not looked at.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use protocol::BandwidthLimits;
use tests::{
    columns::check,
    linux::linux_with,
    world::{World, end},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LIMITS: BandwidthLimits = BandwidthLimits { rate_bytes_per_second: 1 << 20, burst_bytes: 64 << 10 };
const BYTES: usize = 1 << 20;
/// What is not of the first burst takes this long at the least; for clocks' sake a bit less.
const AT_LEAST: Duration = Duration::from_millis(800);

/// Talks to a script in the container: how long until it has taken `request` and its answer is there, and how much that
/// is.
async fn talk(world: &World, handle: &str, script: &str, request: &[u8]) -> (Duration, usize) {
    let listen = format!("echo listening; exec nc -l -p 8080 -e sh -c '{script}'");
    let process = world.run(handle, &["sh", "-c", &listen]).await;
    process.stdout.open().next().await.expect("a word").expect("a word");
    let info = world.backend().info(handle).await.expect("info");
    let address: Ipv4Addr = info.container_ip.parse().expect("an address");
    // The word comes before nc listens: until then the connection is refused.
    let mut stream = loop {
        match TcpStream::connect((address, 8080)).await {
            Ok(stream) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("connect: {error}"),
        }
    };
    let begun = Instant::now();
    stream.write_all(request).await.expect("the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer");
    let took = begun.elapsed();
    drop(stream);
    end(process).await;
    (took, answer.len())
}

async fn both_directions_are_limited(world: &World, privileged: bool) {
    let handle = world
        .create_with(|spec| {
            spec.privileged = privileged;
            spec.limits.bandwidth = LIMITS;
        })
        .await;
    assert_eq!(world.backend().bandwidth_limits(&handle).await, Ok(LIMITS));
    let (took, got) = talk(world, &handle, &format!("head -c {BYTES} /dev/zero"), b"").await;
    assert!(got == BYTES && took >= AT_LEAST, "{got} bytes in {took:?}");
    let script = format!("head -c {BYTES} >/dev/null; echo done");
    let (took, got) = talk(world, &handle, &script, &vec![0; BYTES]).await;
    assert!(got == "done\n".len() && took >= AT_LEAST, "{got} bytes in {took:?}");
}

#[test]
fn what_was_prepared_and_what_is_made_on_the_spot_is_as_slow_as_the_spec_says() {
    check(linux_with(|_| ()), |world| {
        Box::pin(async move {
            both_directions_are_limited(world, false).await;
            both_directions_are_limited(world, true).await;
        })
    });
}

#[test]
fn limits_of_bandwidth_that_make_no_sense_are_refused_by_the_fields_name() {
    check(linux_with(|_| ()), |world| {
        Box::pin(async move {
            for (rate_bytes_per_second, burst_bytes, field) in
                [(0, 1 << 20, "rate"), (1 << 20, 1, "burst"), (u64::MAX, 0, "rate"), (1, u64::MAX, "burst")]
            {
                let mut spec = world.spec();
                spec.limits.bandwidth = BandwidthLimits { rate_bytes_per_second, burst_bytes };
                let error = world.backend().create(spec).await.expect_err("no such limit").to_string();
                assert!(error.contains(&format!("limits.bandwidth_limits.{field}")), "{error}");
            }
        })
    });
}
