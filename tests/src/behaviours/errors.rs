//! What is wrong is said, with its type.

use std::time::Duration;

use protocol::{FilesQuery, NetIn};

use crate::{
    files::{body, tar_of},
    world::{World, assert_container_not_found, command_spec},
};

/// Each but the bulk calls.
pub async fn every_operation_names_an_unknown_handle(world: &World) {
    let handle = world.handle();
    let (backend, h) = (world.backend(), handle.as_str());
    let query = || FilesQuery { user: String::new(), path: "/tmp".into() };
    let tar = body(tar_of(&[("f", b"x")]));
    assert_container_not_found(backend.info(h).await, h);
    assert_container_not_found(backend.metrics(h).await, h);
    assert_container_not_found(backend.stop(h, false).await, h);
    assert_container_not_found(backend.destroy(h).await, h);
    assert_container_not_found(backend.set_grace_time(h, Duration::from_secs(1)).await, h);
    assert_container_not_found(backend.stream_in(h, query(), tar).await, h);
    assert_container_not_found(backend.stream_out(h, query()).await.map(drop), h);
    assert_container_not_found(backend.bandwidth_limits(h).await, h);
    assert_container_not_found(backend.cpu_limits(h).await, h);
    assert_container_not_found(backend.disk_limits(h).await, h);
    assert_container_not_found(backend.memory_limits(h).await, h);
    assert_container_not_found(backend.net_in(h, NetIn::default()).await, h);
    assert_container_not_found(backend.net_out(h, vec![]).await, h);
    assert_container_not_found(backend.replace_net_out(h, vec![]).await, h);
    assert_container_not_found(backend.run(h, command_spec(&["true"])).await, h);
    assert_container_not_found(backend.attach(h, "p").await, h);
    assert_container_not_found(backend.properties(h).await, h);
    assert_container_not_found(backend.property(h, "k").await, h);
    assert_container_not_found(backend.set_property(h, "k", "v").await, h);
    assert_container_not_found(backend.remove_property(h, "k").await, h);
}
