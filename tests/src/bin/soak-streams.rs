//! The late-drain path at length: `soak-streams ADDRESS [RUNS]` against a running server; `cargo xtask soak` starts one.
//! The tests do a hundredth of it.

#![forbid(unsafe_code)]

use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use garden_client::{Backend, Client, ContainerSpec};
use tests::soak::soak;

const RUNS: usize = 10_000;
/// How long after the exit the last outputs are opened.
const LATEST: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, runs) = match arguments.as_slice() {
        [address] => (address, RUNS),
        [address, runs] => (address, runs.parse()?),
        _ => return Err("usage: soak-streams ADDRESS [RUNS]".into()),
    };
    let socket = address.strip_prefix("unix:").ok_or("the address is to be unix:PATH")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(address)?;
    let handle = runtime.block_on(client.create(ContainerSpec::default()))?;
    let begun = Instant::now();
    let bytes = soak(Path::new(socket), &handle, runs, LATEST)?;
    println!("{runs} processes, {bytes} bytes, all of them right, in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(runtime.block_on(client.destroy(&handle))?)
}
