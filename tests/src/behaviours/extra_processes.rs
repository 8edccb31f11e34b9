//! Processes with limits of their own.

use std::{sync::LazyLock, time::Duration};

use protocol::{MemoryLimits, ProcessLimits, ProcessSpec, Properties};
use tokio::time::{Instant, sleep};

use crate::{
    patience::patience,
    world::{World, command_spec},
};

const SMALL_BYTES: u64 = 32 << 20;
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| patience(10));
/// More than what is small.
const HUNGRY: [&str; 5] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"];

fn limited(command: &[&str], memory_bytes: u64) -> ProcessSpec {
    let memory = MemoryLimits { limit_in_bytes: memory_bytes };
    ProcessSpec { limits: Some(ProcessLimits { memory, ..Default::default() }), ..command_spec(command) }
}

/// Its exit status tells, and before that an event of the container; others have what memory there is.
pub async fn a_limit_of_its_own_holds_it_alone(world: &World) {
    let handle = world.create().await;
    let process = world.backend().run(&handle, limited(&HUNGRY, SMALL_BYTES)).await.expect("run");
    let status = process.exit.await;
    let info = world.backend().info(&handle).await.expect("info").into_value();
    assert_eq!((status, info.events), (Ok(137), Some(vec!["Out of memory".into()])));
    assert_eq!(world.run_to_end(&handle, &HUNGRY).await.status, 0);
}

/// None is a limit too: it is not the container's.
pub async fn the_containers_limit_holds_those_without_their_own(world: &World) {
    let handle = world.create_with(|spec| spec.limits.memory.limit_in_bytes = SMALL_BYTES).await;
    assert_eq!(world.run_spec_to_end(&handle, limited(&HUNGRY, 0)).await.status, 0);
    assert_eq!(world.run_to_end(&handle, &HUNGRY).await.status, 137);
}

/// While it runs; it is no container, and not among the container's processes.
pub async fn bulk_metrics_have_it_under_its_id(world: &World) {
    let handle = world.create().await;
    let id = world.handle();
    let spec = ProcessSpec { id: id.clone(), ..limited(&["cat"], SMALL_BYTES) };
    let process = world.backend().run(&handle, spec).await.expect("run");
    let asked = [handle.clone(), id.clone()];
    let entries = world.backend().bulk_metrics(&asked).await.expect("bulk metrics").0;
    assert_eq!((entries.len(), &entries[&id].err), (2, &None));
    assert_eq!(entries[&id].metrics.pid.current, 1);
    assert_eq!(entries[&id].metrics.memory.hierarchical_memory_limit, SMALL_BYTES);
    assert_eq!(entries[&handle].metrics.pid.current, 1, "its init");
    assert!(!world.backend().list(&Properties::new()).await.expect("list").contains(&id));
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(process.exit.await, Ok(0));
    let begun = Instant::now();
    loop {
        let entries = world.backend().bulk_metrics(&asked).await.expect("bulk metrics").0;
        if entries[&id].err.is_some() {
            break;
        }
        assert!(begun.elapsed() < *PATIENCE, "an entry {PATIENCE:?} after its end");
        sleep(Duration::from_millis(5)).await;
    }
}
