//! How long the metrics of many containers take in one request, and of one container, over HTTP.
//!
//! `bench-metrics ADDRESS [ROUNDS]` against a running server without containers; `cargo xtask bench metrics` starts one.
//! Measured at the client, which reads the numbers out of the JSON as well.

#![forbid(unsafe_code)]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use garden_client::{Backend, Client, ContainerSpec};

type Failure = Box<dyn Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

/// As many as the issue says; the default pool of addresses bears 256.
const CONTAINERS: usize = 250;
const GOAL: Duration = Duration::from_millis(25);
const ROUNDS: usize = 60;
/// Rounds that are not counted.
const WARM_UP: usize = 5;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, rounds) = match arguments.as_slice() {
        [address] => (address, ROUNDS),
        [address, rounds] => (address, rounds.parse()?),
        _ => return Err("usage: bench-metrics ADDRESS [ROUNDS]".into()),
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = Client::new(address)?;
        let mut handles = Vec::with_capacity(CONTAINERS);
        let measured = measure(&client, &mut handles, rounds).await;
        for handle in &handles {
            client.destroy(handle).await?;
        }
        measured
    })
}

/// Makes the containers, tells their handles, and prints the times.
async fn measure(client: &Client, handles: &mut Vec<String>, rounds: usize) -> Outcome {
    for _ in 0..CONTAINERS {
        handles.push(client.create(ContainerSpec::default()).await?);
    }
    let one = handles.first().ok_or("no containers")?;
    let (mut of_all, mut of_one) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + rounds {
        let begun = Instant::now();
        let all = client.bulk_metrics(handles).await?;
        let bulk = begun.elapsed();
        let counted = all.0.values().filter(|entry| entry.metrics.pid.current > 0).count();
        if counted != CONTAINERS {
            return Err(format!("{counted} of {CONTAINERS} containers have metrics").into());
        }
        let begun = Instant::now();
        client.metrics(one).await?;
        if round >= WARM_UP {
            of_all.push(bulk);
            of_one.push(begun.elapsed());
        }
    }
    println!("p50 / p95 in ms of {rounds} requests");
    print("one container's metrics", &mut of_one, "");
    let goal = format!("  (goal: {})", GOAL.as_millis());
    print(&format!("those of {CONTAINERS} in one request"), &mut of_all, &goal);
    Ok(())
}

fn print(what: &str, times: &mut [Duration], goal: &str) {
    times.sort();
    let percentile = |percent: usize| {
        let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!("{what:28} {:>7.2} /{:>7.2}{goal}", percentile(50), percentile(95));
}
