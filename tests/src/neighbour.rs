//! A host of a test's own, and another one behind its uplink: network namespaces, so that no packet leaves the machine
//! and nothing is left on it, whatever becomes of the test.
//!
//! The neighbour stands for the rest of the world: it has [`NEIGHBOUR`] on the link, and every address of
//! [`FAR_NETWORK`] behind it.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::resume_unwind,
    process::Command,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{netns::Namespace, patience::patience};

/// The address of the server's host, where others see it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The neighbour's, on the same link.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// A network behind the neighbour, of which it answers for every address.
pub const FAR_NETWORK: &str = "198.51.100.0/24";
/// An address of that network.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// The host's IPv6 address, where others see it.
pub const HOST_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// The neighbour's.
pub const NEIGHBOUR_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// A network of IPv6 behind the neighbour.
pub const FAR_NETWORK_IPV6: &str = "2001:db8:7::/64";
/// An address of that network, the neighbour's too.
pub const FAR_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
/// What every name is said to be the name of.
pub const NAMED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// Of the host's uplink: less than is usual, so that it is seen to be followed.
pub const UPLINK_MTU: u32 = 1400;

/// How long a connection may take that comes about, or is refused.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(10));

/// The other host.
pub struct Neighbour {
    namespace: Arc<Namespace>,
}

/// Runs `work` on a host of its own: in a new network namespace, with all the threads that it starts.
pub fn on_own_host<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        // A new namespace has these from the machine, where anything may be running.
        for (setting, value) in
            [("ip_forward", "0"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")]
        {
            fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).expect(setting);
        }
        sh("ip link set lo up");
        work()
    });
    host.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a script where the calling thread is.
fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Neighbour {
    /// Connects a new one to the host that the calling thread is on.
    pub fn of_this_host() -> Neighbour {
        let namespace = Namespace::new();
        sh(&format!(
            "ip link add uplink mtu {UPLINK_MTU} type veth peer name eth0 mtu {UPLINK_MTU} netns {}
            ip address add {HOST}/24 dev uplink
            ip link set uplink up
            ip route add default via {NEIGHBOUR}
            ip address add {HOST_IPV6}/64 dev uplink nodad
            ip route add default via {NEIGHBOUR_IPV6}",
            namespace.path()
        ));
        // All of an IPv4 network that is on loopback is this host itself.
        namespace.run(|| {
            sh(&format!(
                "ip address add {NEIGHBOUR}/24 dev eth0
                ip address add {NEIGHBOUR_IPV6}/64 dev eth0 nodad
                ip link set eth0 up
                ip address add {FAR}/24 dev lo
                ip address add {FAR_IPV6} dev lo"
            ));
        });
        Neighbour { namespace: Arc::new(namespace) }
    }

    /// Runs `work`, which may block, on the neighbour.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = Arc::clone(&self.namespace);
        let done = tokio::task::spawn_blocking(move || namespace.run(work)).await;
        done.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }

    /// Runs a script on the neighbour.
    pub async fn sh(&self, script: &'static str) {
        self.run(move || sh(script)).await;
    }

    /// A server on all of the neighbour's addresses, for as long as the test's runtime lives: it tells each client its
    /// address, and then what the client says.
    pub async fn serve(&self, port: u16) {
        serve(self.run(move || listen(port)).await);
    }

    /// What a server says first to a client on the neighbour.
    pub async fn ask(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<String> {
        let address = SocketAddr::new(address.into(), port);
        self.run(move || ask_from_here(address)).await
    }

    /// A UDP socket of the neighbour's.
    pub async fn udp(&self, address: impl Into<IpAddr>, port: u16) -> tokio::net::UdpSocket {
        let address = SocketAddr::new(address.into(), port);
        let socket = self.run(move || UdpSocket::bind(address).expect("a UDP socket")).await;
        socket.set_nonblocking(true).expect("a socket that does not block");
        tokio::net::UdpSocket::from_std(socket).expect("a UDP socket")
    }

    /// A name server, for as long as the test's runtime lives, that says of every name that it is [`NAMED`]'s.
    pub async fn serve_names(&self, address: impl Into<IpAddr>) {
        let socket = self.udp(address, 53).await;
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((len, client)) = socket.recv_from(&mut query).await {
                // Whoever has left hears nothing.
                let _ = socket.send_to(&answer_to(&query[..len]), client).await;
            }
        });
    }
}

/// A server as [`Neighbour::serve`], on the host that the calling thread is on.
pub fn serve_here(port: u16) {
    serve(listen(port));
}

/// What a server says first to a client where the calling thread is. Blocks.
pub fn ask_from_here(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, *PATIENCE)?;
    stream.set_read_timeout(Some(*PATIENCE))?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    io::Read::read_to_string(&mut stream, &mut answer)?;
    Ok(answer.trim().to_owned())
}

fn listen(port: u16) -> TcpListener {
    // Of both families.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a listener");
    listener.set_nonblocking(true).expect("a listener that does not block");
    listener
}

fn serve(listener: TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    tokio::spawn(async move {
        while let Ok((mut stream, client)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(format!("{}\n", client.ip().to_canonical()).as_bytes()).await?;
                let mut said = [0; 4096];
                loop {
                    match stream.read(&mut said).await? {
                        0 => return io::Result::Ok(()),
                        len => stream.write_all(&said[..len]).await?,
                    }
                }
            });
        }
    });
}

/// The answer of a name server to a query with one question: an address to who asks for one, else none.
fn answer_to(query: &[u8]) -> Vec<u8> {
    const HEADER_BYTES: usize = 12;
    const TYPE_A: u8 = 1;
    // The question is the name, a list of labels that ends with an empty one, then two bytes each of type and class.
    let mut name_end = HEADER_BYTES;
    while let Some(&len) = query.get(name_end).filter(|len| **len > 0) {
        name_end += 1 + usize::from(len);
    }
    let Some(question) = query.get(HEADER_BYTES..name_end + 5) else { return Vec::new() };
    let wants_address = question[question.len() - 3] == TYPE_A;
    let mut answer = query[..2].to_vec();
    // An answer, recursion wanted and had; one question, one answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_address), 0, 0, 0, 0]);
    answer.extend(question);
    if wants_address {
        // The question's name, type A, class IN, a minute, four bytes.
        answer.extend([0xc0, HEADER_BYTES as u8, 0, TYPE_A, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(NAMED.octets());
    }
    answer
}
