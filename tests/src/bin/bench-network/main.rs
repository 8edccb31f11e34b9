//! What a mapped port and outbound rules add to a create and a destroy, on a host with few containers and with many.
//!
//! `bench-network ADDRESS [ROUNDS]` against a running server without containers, whose pool of addresses bears them;
//! `cargo xtask bench network` starts one. Creates with and without take turns.

#![forbid(unsafe_code)]

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use garden_client::{Backend, Client, ContainerSpec};
use protocol::{IpRange, NetIn, NetOutProtocol, NetOutRule, PortRange};

type Failure = Box<dyn Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

/// How many containers are there the second time, each with a port and rules.
const CROWD: usize = 500;
const RULES: usize = 10;
/// The most in one request that is measured.
const BULK_RULES: usize = 3000;
const ROUNDS: usize = 60;
/// Rounds that are not counted.
const WARM_UP: usize = 10;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, rounds) = match arguments.as_slice() {
        [address] => (address, ROUNDS),
        [address, rounds] => (address, rounds.parse()?),
        _ => return Err("usage: bench-network ADDRESS [ROUNDS]".into()),
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::new(address)?;
        let mut crowd = Vec::with_capacity(CROWD);
        let measured = measure(&client, &mut crowd, rounds).await;
        for handle in &crowd {
            client.destroy(handle).await?;
        }
        measured
    })
}

async fn measure(client: &Client, crowd: &mut Vec<String>, rounds: usize) -> Outcome {
    println!("p50 / p95 in ms, {rounds} rounds");
    compare(client, "alone", rounds).await?;
    for _ in 0..CROWD {
        crowd.push(client.create(with_rules()).await?);
    }
    compare(client, &format!("beside {CROWD} containers and {} rules", CROWD * RULES), rounds).await?;
    bulk(client, rounds).await
}

/// One after the other, in turns.
async fn compare(client: &Client, place: &str, rounds: usize) -> Outcome {
    let (mut creates, mut destroys) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..WARM_UP + rounds {
        for (kind, spec) in [ContainerSpec::default(), with_rules()].into_iter().enumerate() {
            let begun = Instant::now();
            let handle = client.create(spec).await?;
            let create = begun.elapsed();
            let begun = Instant::now();
            client.destroy(&handle).await?;
            if round >= WARM_UP {
                creates[kind].push(create);
                destroys[kind].push(begun.elapsed());
            }
        }
    }
    println!("\n{place}");
    for (kind, name) in ["nothing of the network", "a port and ten rules"].into_iter().enumerate() {
        print(&format!("create, {name}"), &mut creates[kind]);
        print(&format!("destroy, {name}"), &mut destroys[kind]);
    }
    let more = percentile(&creates[1], 50) - percentile(&creates[0], 50);
    println!("{:40} {more:>7.2}         (goal: at most 1)", "p50 of creates, more");
    Ok(())
}

/// Many rules in one request, for a container that is there.
async fn bulk(client: &Client, rounds: usize) -> Outcome {
    let rules: Vec<NetOutRule> = (0..BULK_RULES as u32).map(rule).collect();
    let mut times = Vec::new();
    for _ in 0..rounds.min(20) {
        let handle = client.create(ContainerSpec::default()).await?;
        let begun = Instant::now();
        client.net_out(&handle, rules.clone()).await?;
        times.push(begun.elapsed());
        client.destroy(&handle).await?;
    }
    println!();
    print(&format!("{BULK_RULES} rules in one request (goal: 100)"), &mut times);
    Ok(())
}

fn with_rules() -> ContainerSpec {
    ContainerSpec {
        net_in: vec![NetIn { host_port: 0, container_port: 8080 }],
        net_out: (0..RULES as u32).map(rule).collect(),
        ..ContainerSpec::default()
    }
}

/// To an address that is reserved for measurements. None has anything in common with another.
fn rule(number: u32) -> NetOutRule {
    let port = 443 + number as u16;
    let address = IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number));
    NetOutRule {
        protocol: NetOutProtocol::Tcp,
        networks: vec![IpRange { start: Some(address), end: None }],
        ports: vec![PortRange { start: port, end: port }],
        ..NetOutRule::default()
    }
}

fn percentile(times: &[Duration], percent: usize) -> f64 {
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    println!("{what:40} {:>7.2} /{:>7.2}", percentile(times, 50), percentile(times, 95));
}
