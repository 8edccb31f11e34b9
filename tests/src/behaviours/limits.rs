//! Limits, and what is used of them.

use std::time::Duration;

use protocol::{BandwidthLimits, CpuLimits, DiskLimitScope, DiskLimits, ErrorType, MemoryLimits};

use crate::world::World;

const MEMORY_BYTES: u64 = 64 << 20;

/// In whole pages, so that no kernel rounds it.
pub async fn memory_is_reported_as_given(world: &World) {
    let given = MemoryLimits { limit_in_bytes: MEMORY_BYTES };
    let handle = world.create_with(|spec| spec.limits.memory = given).await;
    assert_eq!(world.backend().memory_limits(&handle).await, Ok(given));
}

/// Shares.
pub async fn cpu_is_reported_as_given(world: &World) {
    let given = CpuLimits { limit_in_shares: 512, ..Default::default() };
    let handle = world.create_with(|spec| spec.limits.cpu = given).await;
    let reported = world.backend().cpu_limits(&handle).await.expect("limits");
    assert_eq!(reported.limit_in_shares, 512);
}

/// The newer name of the shares.
pub async fn a_cpu_weight_is_reported_as_given(world: &World) {
    let given = CpuLimits { weight: 2048, ..Default::default() };
    let handle = world.create_with(|spec| spec.limits.cpu = given).await;
    assert_eq!(world.backend().cpu_limits(&handle).await, Ok(given));
}

/// Bytes, files and scope; or the create fails and says that there are no such limits.
pub async fn disk_is_reported_as_given(world: &World) {
    let given = DiskLimits {
        byte_hard: 512 << 20,
        inode_hard: 200_000,
        scope: DiskLimitScope::Exclusive,
        ..Default::default()
    };
    let mut spec = world.spec();
    spec.limits.disk = given;
    match world.backend().create(spec).await {
        Ok(handle) => assert_eq!(world.backend().disk_limits(&handle).await, Ok(given)),
        Err(error) => {
            assert!(error.to_string().contains("disk_limits"), "{error}");
            world.skip("this backend refuses a disk limit, which is better than to ignore it");
        }
    }
}

/// Rate and burst.
pub async fn bandwidth_is_reported_as_given(world: &World) {
    let given = BandwidthLimits { rate_bytes_per_second: 1 << 20, burst_bytes: 64 << 10 };
    let handle = world.create_with(|spec| spec.limits.bandwidth = given).await;
    assert_eq!(world.backend().bandwidth_limits(&handle).await, Ok(given));
}

/// Not the kernel's "very much".
pub async fn no_limit_is_zero(world: &World) {
    let handle = world.create().await;
    let backend = world.backend();
    assert_eq!(backend.memory_limits(&handle).await, Ok(MemoryLimits::default()));
    assert_eq!(backend.disk_limits(&handle).await, Ok(DiskLimits::default()));
    assert_eq!(backend.bandwidth_limits(&handle).await, Ok(BandwidthLimits::default()));
    assert_eq!(backend.metrics(&handle).await.expect("metrics").pid.max, 0);
}

/// They count what runs, and time.
pub async fn metrics_are_sane(world: &World) {
    let handle = world.create().await;
    let idle = world.backend().metrics(&handle).await.expect("metrics");
    let process = world.run(&handle, &["cat"]).await;
    let busy = world.backend().metrics(&handle).await.expect("metrics");
    assert!(busy.pid.current > idle.pid.current, "{} then {}", idle.pid.current, busy.pid.current);
    assert!(busy.memory.total_usage_toward_limit > 0, "{:?}", busy.memory);
    assert!(busy.age >= idle.age && busy.age < Duration::from_secs(600), "{:?}", busy.age);
    if world.traits().real {
        assert!(busy.age > Duration::ZERO, "{:?}", busy.age);
        assert!(busy.cpu.usage_ns > 0, "{:?}", busy.cpu);
    }
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(process.exit.await, Ok(0));
    let after = world.backend().metrics(&handle).await.expect("metrics");
    assert_eq!(after.pid.current, idle.pid.current);
}

/// Of processes.
pub async fn metrics_tell_limits(world: &World) {
    let handle = world.create_with(|spec| spec.limits.pid.max = 64).await;
    assert_eq!(world.backend().metrics(&handle).await.expect("metrics").pid.max, 64);
}

/// In their entries; the call itself succeeds.
pub async fn bulk_metrics_tell_of_unknown_handles(world: &World) {
    let (known, unknown) = (world.create().await, world.handle());
    let asked = [known.clone(), unknown.clone()];
    let entries = world.backend().bulk_metrics(&asked).await.expect("bulk metrics").0;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[&known].err, None);
    assert!(entries[&known].metrics.memory.total_usage_toward_limit > 0);
    let error = entries[&unknown].err.clone().expect("an error");
    assert_eq!((error.kind, &error.handle), (ErrorType::ContainerNotFound, &unknown));
    assert_eq!(world.backend().bulk_metrics(&[]).await.expect("bulk metrics").0.len(), 0);
}

/// In their entries; the call itself succeeds.
pub async fn bulk_info_tells_of_unknown_handles(world: &World) {
    let (known, unknown) = (world.create().await, world.handle());
    let asked = [known.clone(), unknown.clone()];
    let entries = world.backend().bulk_info(&asked).await.expect("bulk info").0;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[&known].err, None);
    assert_eq!(entries[&known].info, world.backend().info(&known).await.expect("info").into_value());
    let error = entries[&unknown].err.clone().expect("an error");
    assert_eq!((error.kind, &error.handle), (ErrorType::ContainerNotFound, &unknown));
    assert_eq!(error.message, format!("unknown handle: {unknown}"));
    assert_eq!(world.backend().bulk_info(&[]).await.expect("bulk info").0.len(), 0);
}
