//! How long a container's life takes, beside what: the bare system calls (`bench-floor`), `crun run`, `runc run`.
//!
//! `bench-lifecycle ADDRESS [ROUNDS]` against a running server; `cargo xtask bench` starts one. All of them take turns
//! in one sitting, since a machine's speed drifts: only the ratios mean anything elsewhere.
//!
//! A life: create (network included), run `true` and wait, destroy. crun and runc do all three in one command, or in
//! three, always without a network. Each has a memory limit of 64 MiB. At the end: what idle containers take of memory.

#![forbid(unsafe_code)]

mod contestants;
mod idle;
mod oci;
mod table;

use std::{error::Error, path::Path, time::Instant};

use contestants::Contestant;
use table::{Times, print};

type Failure = Box<dyn Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

const CLIENTS: usize = 8;
const ROUNDS: usize = 60;
/// Lives of each client in one block, when several run at once.
const LIVES: usize = 4;
/// Rounds that are not counted.
const WARM_UP: usize = 5;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, rounds) = match arguments.as_slice() {
        [address] => (address, ROUNDS),
        [address, rounds] => (address, rounds.parse()?),
        _ => return Err("usage: bench-lifecycle ADDRESS [ROUNDS]".into()),
    };
    let scratch = tempfile::tempdir()?;
    let memory = tempfile::tempdir_in("/dev/shm")?;
    bench(address, rounds, scratch.path(), memory.path())
}

fn bench(address: &str, rounds: usize, scratch: &Path, memory: &Path) -> Outcome {
    let mut contestants = contestants::all(address, scratch, memory)?;

    for _ in 0..WARM_UP {
        for contestant in &mut contestants {
            contestant.lives(1, 1)?;
        }
    }
    let mut alone: Vec<Times> = contestants.iter().map(|c| Times::new(c.name())).collect();
    for _ in 0..rounds {
        one_turn(&mut contestants, &mut alone, 1, 1)?;
    }
    print(&format!("one client, {rounds} lives each"), &alone);

    let blocks = rounds.div_ceil(CLIENTS * LIVES).max(3);
    let mut crowd: Vec<Times> = contestants.iter().map(|c| Times::new(c.name())).collect();
    for _ in 0..blocks {
        one_turn(&mut contestants, &mut crowd, CLIENTS, LIVES)?;
    }
    print(&format!("{CLIENTS} clients at once, {} lives each", blocks * CLIENTS * LIVES), &crowd);
    table::goals(&alone);
    table::crowd_goal(&crowd);
    idle::print(address)
}

fn one_turn(
    contestants: &mut [Box<dyn Contestant>],
    times: &mut [Times],
    clients: usize,
    lives: usize,
) -> Outcome {
    for (contestant, times) in contestants.iter_mut().zip(times) {
        let begun = Instant::now();
        let lived = contestant.lives(clients, lives)?;
        times.add(lived, begun.elapsed());
    }
    Ok(())
}
