//! Limits of bandwidth, on packets that really cross the link.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use protocol::BandwidthLimits;

use crate::{
    NetworkConfig,
    network::{
        Network,
        tests::world::{Container, Namespace, PATIENCE, on_host},
    },
};

const LIMITS: BandwidthLimits = BandwidthLimits { rate_bytes_per_second: 1 << 20, burst_bytes: 64 << 10 };
const BYTES: usize = 1 << 20;
/// What is not of the first burst takes this long at the least; for clocks' sake a bit less.
const AT_LEAST: Duration = Duration::from_millis(800);
/// A limit that lets next to nothing through would be none that anybody asked for.
const AT_MOST: Duration = Duration::from_secs(20);

async fn limited(network: &Network, limits: BandwidthLimits) -> Container {
    let container = Container::new(network).await;
    let socket = container.namespace.route_socket();
    network.limit_bandwidth(container.lease.assignment(), limits, socket.as_fd()).await.unwrap();
    container
}

/// How long it takes to get the bytes from one namespace to an address in another.
fn pour(from: &Namespace, to: &Namespace, address: impl Into<IpAddr>) -> Duration {
    let address = SocketAddr::new(address.into(), 8080);
    let listener = to.run(move || TcpListener::bind(address).unwrap());
    let receiver = thread::spawn(move || {
        let mut connection = listener.accept().unwrap().0;
        let begun = Instant::now();
        assert_eq!(connection.read_to_end(&mut Vec::new()).unwrap(), BYTES);
        begun.elapsed()
    });
    from.run(move || {
        let mut connection = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        connection.write_all(&vec![0; BYTES]).unwrap();
    });
    receiver.join().unwrap()
}

#[test]
fn both_directions_of_a_limited_link_are_as_slow_as_asked_and_no_other() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let container = limited(network, LIMITS).await;
        for took in [
            pour(&container.namespace, &world.outside, world.outside_address),
            pour(&world.host, &container.namespace, container.address()),
        ] {
            assert!((AT_LEAST..AT_MOST).contains(&took), "{took:?}");
        }
        let other = Container::new(network).await;
        let queue = other.namespace.show(&["tc", "qdisc", "show", "dev", "eth0"]);
        assert!(!queue.contains("tbf"), "{queue}");
    });
}

#[test]
fn the_limits_are_those_of_the_request_at_both_ends_and_can_be_set_again() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        // More a second than fits into 32 bits, and a burst that is left open.
        let fast = BandwidthLimits { rate_bytes_per_second: 5_000_000_000, burst_bytes: 0 };
        let container = limited(network, fast).await;
        let link = container.lease.assignment().host_link.clone();
        let queues = || {
            let inside = container.namespace.show(&["tc", "qdisc", "show", "dev", "eth0"]);
            [world.host.show(&["tc", "qdisc", "show", "dev", &link]), inside]
        };
        for queue in queues() {
            assert!(queue.contains("tbf") && queue.contains("rate 40Gbit"), "{queue}");
        }
        let socket = container.namespace.route_socket();
        for _ in 0..2 {
            network.limit_bandwidth(container.lease.assignment(), LIMITS, socket.as_fd()).await.unwrap();
        }
        for queue in queues() {
            assert_eq!(queue.matches("qdisc").count(), 1, "{queue}");
            assert!(queue.contains("rate 8388Kbit burst 64Kb"), "{queue}");
        }
    });
}

#[test]
fn a_limit_for_a_link_that_is_gone_is_an_error_that_names_it() {
    on_host(NetworkConfig::default(), async |world, network, _| {
        let container = Container::new(network).await;
        let link = container.lease.assignment().host_link.clone();
        world.host.show(&["ip", "link", "delete", &link]);
        let socket = container.namespace.route_socket();
        let limit = network.limit_bandwidth(container.lease.assignment(), LIMITS, socket.as_fd());
        let text = protocol::Error::failed(&limit.await.unwrap_err()).to_string();
        assert!(text.starts_with(&format!("network link {link}: find the link: ")), "{text}");
    });
}
