//! How fast a process's output reaches a client, beside a bare copy from a pipe to a socket: what the kernel allows.
//!
//! `bench-stream ADDRESS [ROUNDS]` against a running server; `cargo xtask bench stream` starts one. Both carry the same
//! bytes, from the same busybox, to a client that throws them away, and take turns in one sitting, since a machine's
//! speed drifts: only the ratio means anything elsewhere.

#![forbid(unsafe_code)]

mod copy;
mod garden;

use std::{
    error::Error,
    io::{Read, Write},
    time::{Duration, Instant},
};

use garden::Garden;
use tests::raw::count;

type Failure = Box<dyn Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

/// How much flows in one round.
const ROUND_BYTES: u64 = 1 << 30;
/// What writes it, once it is told that somebody reads: what nobody reads is dropped.
const WRITER: [&str; 3] = ["sh", "-c", "read go; exec dd if=/dev/zero bs=65536 count=16384 status=none"];
const ROUNDS: usize = 12;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, rounds) = match arguments.as_slice() {
        [address] => (address, ROUNDS),
        [address, rounds] => (address, rounds.parse()?),
        _ => return Err("usage: bench-stream ADDRESS [ROUNDS]".into()),
    };
    let path = address.strip_prefix("unix:").ok_or("the address is to be unix:PATH")?;
    let garden = Garden::new(address, path)?;
    let before = garden.server_memory()?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    // The first round of each warms up.
    for round in 0..=rounds {
        let times = (garden.stream()?, copy::stream()?);
        if round > 0 {
            ours.push(times.0);
            bare.push(times.1);
        }
    }
    let after = garden.server_memory()?;
    garden.close()?;

    println!("\n{rounds} rounds of 1 GiB each, in turns; MiB/s at p50 (p95)");
    for (name, times) in [("garden-server", &mut ours), ("bare copy", &mut bare)] {
        times.sort();
        println!("{name:18} {:6.0} ({:.0})", mib_per_s(times, 50), mib_per_s(times, 95));
    }
    println!(
        "garden-server as a multiple of the bare copy: {:.2}",
        mib_per_s(&ours, 50) / mib_per_s(&bare, 50)
    );
    println!("the server's memory at its highest: {before} KiB before, {after} KiB after");
    Ok(())
}

/// Tells the writer to begin, reads to the end, and answers with how long that took.
fn flow(mut writer: impl Write, go: &str, from: impl Read) -> Outcome<Duration> {
    let begun = Instant::now();
    writer.write_all(go.as_bytes())?;
    let bytes = count(from)?;
    if bytes != ROUND_BYTES {
        return Err(format!("{bytes} bytes arrived of {ROUND_BYTES}").into());
    }
    Ok(begun.elapsed())
}

/// What so many percent of the rounds were at least as fast as.
fn mib_per_s(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |took| (ROUND_BYTES >> 20) as f64 / took.as_secs_f64())
}
