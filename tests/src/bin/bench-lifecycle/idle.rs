//! What a container takes that does nothing.

use std::fs;

use garden_client::{Backend, Client, ContainerSpec};

use crate::Outcome;

/// How many: the pages of the supervisor's program are shared by all, so one alone would count all of them.
const CONTAINERS: usize = 10;

/// Prints the proportional set size of a container's processes, the mean of some.
pub fn print(address: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(address)?;
        let mut handles = Vec::new();
        for _ in 0..CONTAINERS {
            handles.push(client.create(ContainerSpec::default()).await?);
        }
        let sizes: Outcome<Vec<u64>> = handles.iter().map(|handle| pss_kib(handle)).collect();
        for handle in &handles {
            client.destroy(handle).await?;
        }
        let kib = sizes?.iter().sum::<u64>() / CONTAINERS as u64;
        println!(
            "\nan idle container, {CONTAINERS} of them: {kib} KiB (PSS, all its processes)  (goal: 512)"
        );
        Ok(())
    })
}

/// Of all processes that carry the container's name.
fn pss_kib(handle: &str) -> Outcome<u64> {
    let name = format!("garden-init\0{handle}\0");
    let mut sum = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        if fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(name.as_bytes())) {
            let rollup = fs::read_to_string(entry.path().join("smaps_rollup"))?;
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let pss = pss.and_then(|pss| pss.trim().trim_end_matches(" kB").parse::<u64>().ok());
            sum += pss.ok_or("smaps_rollup without Pss")?;
        }
    }
    match sum {
        0 => Err(format!("no process of container {handle}").into()),
        sum => Ok(sum),
    }
}
