//! Containers come and go.

use std::{net::IpAddr, time::Duration};

use futures_util::StreamExt;
use protocol::{Error, Properties};

use crate::world::{World, assert_container_not_found, assert_fails_with, at_once, end, properties};

/// A process that ignores SIGTERM and says when it does.
const STUBBORN: &[&str] = &["sh", "-c", "trap '' TERM; echo ready; sleep 1000"];

/// The server is there.
pub async fn ping_answers(world: &World) {
    world.backend().ping().await.expect("ping");
}

/// Memory, disk and containers are never 0: schedulers would place nothing.
pub async fn capacity_tells_what_there_is(world: &World) {
    let capacity = world.backend().capacity().await.expect("capacity");
    assert!(capacity.memory_in_bytes > 1 << 20, "{capacity:?}");
    assert!(capacity.disk_in_bytes > 1 << 20, "{capacity:?}");
    assert!(capacity.schedulable_disk_in_bytes <= capacity.disk_in_bytes, "{capacity:?}");
    assert!(capacity.max_containers > 0, "{capacity:?}");
}

/// Without a handle in the spec, different ones.
pub async fn create_makes_up_a_handle(world: &World) {
    let mut handles = Vec::new();
    for _ in 0..2 {
        handles.push(world.create_with(|spec| spec.handle.clear()).await);
    }
    assert!(!handles[0].is_empty() && handles[0] != handles[1], "{handles:?}");
    for handle in &handles {
        world.backend().info(handle).await.expect("info").into_value();
        // Not a handle of this world's, which would be found and destroyed at its end.
        world.backend().destroy(handle).await.expect("destroy");
    }
}

/// The answer is the handle asked for.
pub async fn create_takes_the_handle_given(world: &World) {
    let spec = world.spec();
    let handle = spec.handle.clone();
    assert_eq!(world.backend().create(spec).await, Ok(handle.clone()));
    assert_eq!(world.run_to_end(&handle, &["true"]).await.status, 0);
}

/// The second create fails, the first container stays.
pub async fn create_refuses_a_handle_in_use(world: &World) {
    let handle = world.create_with(|spec| spec.properties = properties(&[("first", "yes")])).await;
    let mut spec = world.spec();
    spec.handle.clone_from(&handle);
    assert_fails_with(world.backend().create(spec).await, &format!("Handle '{handle}' already in use"));
    assert_eq!(world.backend().property(&handle, "first").await, Ok("yes".into()));
    assert_eq!(world.run_to_end(&handle, &["true"]).await.status, 0);
}

/// The loser is told, and does not disturb the winner.
pub async fn of_two_creates_at_once_one_wins(world: &World) {
    for _ in 0..3 {
        let spec = world.spec();
        let handle = spec.handle.clone();
        let create = || {
            let (backend, spec) = (world.shared(), spec.clone());
            async move { backend.create(spec).await }
        };
        let (won, lost): (Vec<_>, Vec<_>) =
            at_once([create(), create()]).await.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 1), "{won:?} {lost:?}");
        for result in lost {
            assert_fails_with(result, &format!("Handle '{handle}' already in use"));
        }
        let ended = world.run_to_end(&handle, &["echo", "works"]).await;
        assert_eq!((ended.status, ended.text().as_str()), (0, "works\n"));
        world.backend().destroy(&handle).await.expect("destroy");
    }
}

/// Handles become parts of paths and rules.
pub async fn create_refuses_handles_that_could_escape(world: &World) {
    let before = world.all_handles().await;
    for handle in [".", "..", "a/b", "../x", "a\nb", "a\0b", &"x".repeat(256)] {
        let mut spec = world.spec();
        spec.handle = handle.into();
        assert_fails_with(world.backend().create(spec).await, "handle");
    }
    assert_eq!(world.all_handles().await, before);
}

/// `image.uri` and `rootfs` together.
pub async fn create_refuses_two_root_filesystems(world: &World) {
    let mut spec = world.spec();
    spec.image.uri = "/one".into();
    spec.rootfs = "/other".into();
    let handle = spec.handle.clone();
    assert_fails_with(world.backend().create(spec).await, "image.uri");
    assert_container_not_found(world.backend().info(&handle).await, &handle);
}

/// The error names it, and nothing is left of the container: its handle is free.
pub async fn create_refuses_a_root_filesystem_that_is_missing(world: &World) {
    let mut spec = world.spec();
    spec.image.uri = "/nonexistent/root-filesystem".into();
    let handle = spec.handle.clone();
    assert_fails_with(world.backend().create(spec).await, "/nonexistent/root-filesystem");
    assert!(!world.all_handles().await.contains(&handle));
    assert_container_not_found(world.backend().info(&handle).await, &handle);
    let mut spec = world.spec();
    spec.handle.clone_from(&handle);
    assert_eq!(world.backend().create(spec).await, Ok(handle));
}

/// With an empty filter, with `garden.state` `created` and `all`.
pub async fn list_shows_what_was_created(world: &World) {
    let handles = [world.create().await, world.create().await];
    for filter in [
        Properties::new(),
        properties(&[("garden.state", "created")]),
        properties(&[("garden.state", "all")]),
    ] {
        let listed = world.backend().list(&filter).await.expect("list");
        for handle in &handles {
            assert_eq!(listed.iter().filter(|listed| *listed == handle).count(), 1, "{filter:?}: {listed:?}");
        }
    }
}

/// Every pair of the filter must match.
pub async fn list_filters_by_all_properties_given(world: &World) {
    let run = world.handle();
    let create = async |pairs: &[(&str, &str)]| {
        let mut wanted = properties(pairs);
        wanted.insert("run".into(), run.clone());
        world.create_with(|spec| spec.properties = wanted).await
    };
    let one = create(&[("a", "1")]).await;
    let both = create(&[("a", "1"), ("odd key/ü", "x y&z=+")]).await;
    let list = async |pairs: &[(&str, &str)]| {
        let mut filter = properties(pairs);
        filter.insert("run".into(), run.clone());
        world.backend().list(&filter).await.expect("list").to_vec()
    };
    assert_eq!(list(&[("a", "1")]).await.len(), 2);
    assert_eq!(list(&[("a", "1"), ("odd key/ü", "x y&z=+")]).await, [both.as_str()]);
    assert_eq!(list(&[("a", "1"), ("odd key/ü", "other")]).await, [""; 0]);
    assert_eq!(list(&[("a", "2")]).await, [""; 0]);
    world.backend().set_property(&one, "late", "yes").await.expect("set a property");
    assert_eq!(list(&[("late", "yes"), ("garden.state", "all")]).await, [one.as_str()]);
}

/// Asked over and over, as schedulers do, the list is never an old one.
pub async fn list_shows_each_change_at_once(world: &World) {
    let names = async || world.all_created().await;
    let before = names().await;
    assert_eq!(names().await, before);
    let mut handles = Vec::new();
    for _ in 0..3 {
        let handle = world.create().await;
        assert_eq!(names().await.len(), before.len() + handles.len() + 1);
        assert!(names().await.contains(&handle));
        handles.push(handle);
    }
    while let Some(handle) = handles.pop() {
        world.backend().destroy(&handle).await.expect("destroy");
        assert!(!names().await.contains(&handle));
        assert_eq!(names().await.len(), before.len() + handles.len());
    }
}

/// An active container with two addresses that differ.
pub async fn info_tells_state_and_addresses(world: &World) {
    let handle = world.create_with(|spec| spec.properties = properties(&[("k", "v")])).await;
    let info = world.backend().info(&handle).await.expect("info").into_value();
    assert_eq!(info.state, "active");
    let address = |text: &str| text.parse::<IpAddr>().unwrap_or_else(|_| panic!("{text:?} in {info:?}"));
    assert_ne!(address(&info.host_ip), address(&info.container_ip));
    assert_eq!(info.properties, Some(properties(&[("k", "v")])));
    assert_eq!(info.events.unwrap_or_default(), [""; 0]);
    assert_eq!(info.mapped_ports.unwrap_or_default(), []);
}

/// Afterwards nobody knows it.
pub async fn destroy_forgets_the_container(world: &World) {
    let handle = world.create().await;
    world.backend().destroy(&handle).await.expect("destroy");
    assert_container_not_found(world.backend().info(&handle).await, &handle);
    assert!(!world.all_handles().await.contains(&handle));
    assert_container_not_found(world.backend().destroy(&handle).await, &handle);
}

/// One that never was.
pub async fn destroy_refuses_an_unknown_handle(world: &World) {
    let handle = world.handle();
    assert_container_not_found(world.backend().destroy(&handle).await, &handle);
}

/// The others hear that it is being destroyed, or was.
pub async fn of_two_destroys_at_once_one_wins(world: &World) {
    let handle = world.create().await;
    world.run(&handle, &["sleep", "1000"]).await;
    let destroy = || {
        let (backend, handle) = (world.shared(), handle.clone());
        async move { backend.destroy(&handle).await }
    };
    let (won, lost): (Vec<_>, Vec<_>) =
        at_once([destroy(), destroy(), destroy()]).await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{lost:?}");
    for error in lost.into_iter().filter_map(Result::err) {
        let gone = error == Error::container_not_found(&handle);
        assert!(gone || error.to_string() == "container already being destroyed", "{error:?}");
    }
    assert_container_not_found(world.backend().info(&handle).await, &handle);
}

/// Whoever waits for one sees it killed, or hears that it is gone.
pub async fn destroy_ends_processes(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["sleep", "1000"]).await;
    let exit = tokio::spawn(process.exit);
    world.backend().destroy(&handle).await.expect("destroy");
    if let Ok(status) = exit.await.expect("a task") {
        assert_eq!(status, 137);
    }
}

/// And the new container has nothing of the old one.
pub async fn a_handle_can_be_used_again(world: &World) {
    let handle = world.create_with(|spec| spec.properties = properties(&[("old", "1")])).await;
    world.stream_in(&handle, "", "/tmp", &[("old", b"x")]).await;
    world.backend().destroy(&handle).await.expect("destroy");
    let again = world.create_with(|spec| spec.handle.clone_from(&handle)).await;
    assert_eq!(again, handle);
    assert_eq!(world.backend().properties(&handle).await, Ok(Properties::new()));
    assert_ne!(world.run_to_end(&handle, &["cat", "/tmp/old"]).await.status, 0);
}

/// All of them, with SIGTERM.
pub async fn stop_ends_processes_and_keeps_files(world: &World) {
    let handle = world.create().await;
    world.stream_in(&handle, "", "/tmp", &[("kept", b"content")]).await;
    let first = world.run(&handle, &["sleep", "1000"]).await;
    let second = world.run(&handle, &["cat"]).await;
    world.backend().stop(&handle, false).await.expect("stop");
    assert_eq!((first.exit.await, second.exit.await), (Ok(143), Ok(143)));
    let info = world.backend().info(&handle).await.expect("info").into_value();
    assert_eq!((info.state.as_str(), info.process_ids.unwrap_or_default().len()), ("stopped", 0));
    let files = world.stream_out(&handle, "/tmp/kept").await;
    assert_eq!(files["kept"].0.as_deref(), Some(&b"content"[..]));
    world.stream_in(&handle, "", "/tmp", &[("late", b"x")]).await;
}

/// After ten seconds.
pub async fn stop_kills_what_ignores_sigterm(world: &World) {
    let handle = world.create().await;
    let process = stubborn(world, &handle).await;
    let begun = tokio::time::Instant::now();
    world.backend().stop(&handle, false).await.expect("stop");
    let took = begun.elapsed();
    assert!((Duration::from_millis(9_900)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert_eq!(process.exit.await, Ok(137));
}

/// SIGKILL at once.
pub async fn stop_with_kill_does_not_ask(world: &World) {
    let handle = world.create().await;
    let process = stubborn(world, &handle).await;
    let begun = tokio::time::Instant::now();
    world.backend().stop(&handle, true).await.expect("stop");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(process.exit.await, Ok(137));
}

async fn stubborn(world: &World, handle: &str) -> protocol::Process {
    let process = world.run(handle, STUBBORN).await;
    let ready = process.stdout.open().next().await.expect("a word").expect("a word");
    assert_eq!(ready, "ready\n");
    process
}

/// As given at first and as changed.
pub async fn grace_time_is_kept(world: &World) {
    let handle = world.create_with(|spec| spec.grace_time = Duration::from_secs(3600)).await;
    let read = world.backend().grace_time(&handle).await;
    world.backend().set_grace_time(&handle, Duration::from_secs(7200)).await.expect("set the grace time");
    if world.traits().over_http {
        return world.skip("the wire cannot tell what the grace time is; that it can be set was checked");
    }
    assert_eq!(read, Ok(Duration::from_secs(3600)));
    assert_eq!(world.backend().grace_time(&handle).await, Ok(Duration::from_secs(7200)));
    world.backend().set_grace_time(&handle, Duration::ZERO).await.expect("set the grace time");
    assert_eq!(world.backend().grace_time(&handle).await, Ok(Duration::ZERO));
}

/// Extra processes do not count; a destroyed container does not either.
pub async fn no_more_containers_than_allowed(world: &World) {
    if !world.traits().exclusive {
        return world.skip("others use this server, and it may allow many containers");
    }
    let max = world.backend().capacity().await.expect("capacity").max_containers;
    let mut handles = Vec::new();
    for _ in 0..max {
        handles.push(world.create().await);
    }
    let process = world.run(&handles[0], &["cat"]).await;
    let spec = world.spec();
    let refused = spec.handle.clone();
    assert_fails_with(world.backend().create(spec).await, "max containers reached");
    assert!(!world.all_handles().await.contains(&refused));
    world.backend().destroy(&handles[1]).await.expect("destroy");
    world.create().await;
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(end(process).await.status, 0);
}
