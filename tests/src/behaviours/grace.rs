//! The grace clock, which runs in the server: how long a container lives that nobody refers to.

use std::time::Duration;

use crate::world::{World, command_spec, end};

const SHORT: Duration = Duration::from_millis(200);
/// Long enough for a few requests on a busy host.
const LONGER: Duration = Duration::from_millis(1500);

/// Waits until the container is not listed any more. Neither a list nor a bulk call counts as a reference.
async fn gone(world: &World, handle: &str) {
    while world.all_handles().await.iter().any(|listed| listed == handle) {
        world.backend().bulk_info(&[handle.to_owned()]).await.expect("bulk info");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// With the grace time of the spec and with a later one.
pub async fn a_container_goes_when_it_is_over(world: &World) {
    if !world.traits().over_http {
        return world.skip(NO_CLOCK);
    }
    let kept = world.create().await;
    let given = world.create_with(|spec| spec.grace_time = SHORT).await;
    let set = world.create().await;
    world.backend().set_grace_time(&set, SHORT).await.expect("set the grace time");
    gone(world, &given).await;
    gone(world, &set).await;
    assert_eq!(world.run_to_end(&kept, &["true"]).await.status, 0);
}

/// Its container outlives one whose grace time is longer.
pub async fn an_open_stream_holds_the_clock(world: &World) {
    if !world.traits().over_http {
        return world.skip(NO_CLOCK);
    }
    let held = world.create().await;
    let process = world.run(&held, &["cat"]).await;
    world.backend().set_grace_time(&held, SHORT).await.expect("set the grace time");
    let other = world.create_with(|spec| spec.grace_time = LONGER).await;
    gone(world, &other).await;
    process.control.write_stdin("still here\n".into()).await.expect("write");
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(end(process).await.text(), "still here\n");
    gone(world, &held).await;
}

/// Again and again, each for less than the grace time and all together for much more.
pub async fn a_request_starts_the_clock_anew(world: &World) {
    if !world.traits().over_http {
        return world.skip(NO_CLOCK);
    }
    let held = world.create_with(|spec| spec.grace_time = LONGER).await;
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < LONGER * 2 {
        world.backend().info(&held).await.expect("a container that is asked for all the time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gone(world, &held).await;
}

/// Not "at once".
pub async fn zero_means_for_ever(world: &World) {
    if !world.traits().over_http {
        return world.skip(NO_CLOCK);
    }
    let kept = world.create_with(|spec| spec.grace_time = LONGER).await;
    world.backend().set_grace_time(&kept, Duration::ZERO).await.expect("set the grace time");
    let other = world.create_with(|spec| spec.grace_time = LONGER).await;
    gone(world, &other).await;
    let spec = command_spec(&["echo", "still here"]);
    assert_eq!(world.run_spec_to_end(&kept, spec).await.text(), "still here\n");
}

const NO_CLOCK: &str = "the clock runs in the server: there is none in process";
