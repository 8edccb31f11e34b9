//! A create does everything that it was asked for, or nothing.

use protocol::{ContainerSpec, MemoryLimits, NetIn, NetOutRule};

use crate::world::{World, assert_container_not_found, assert_fails_with, properties};

/// When the answer comes, and not some time later.
pub async fn all_that_the_spec_asks_for_is_there(world: &World) {
    let memory = MemoryLimits { limit_in_bytes: 64 << 20 };
    let handle = world
        .create_with(|spec| {
            spec.limits.memory = memory;
            spec.limits.pid.max = 64;
            spec.env = vec!["GIVEN=yes".into()];
            spec.properties = properties(&[("given", "yes")]);
            spec.net_in = vec![NetIn { host_port: 0, container_port: 8080 }];
            spec.net_out = vec![NetOutRule::default()];
        })
        .await;
    let backend = world.backend();
    let info = backend.info(&handle).await.expect("info");
    assert_eq!(info.state, "active");
    assert_eq!(info.properties, Some(properties(&[("given", "yes")])));
    assert_eq!(info.mapped_ports.clone().unwrap_or_default().len(), 1);
    assert_eq!(backend.memory_limits(&handle).await, Ok(memory));
    assert_eq!(backend.metrics(&handle).await.expect("metrics").pid.max, 64);
    let ended = world.run_to_end(&handle, &["sh", "-c", "echo $GIVEN; pwd"]).await;
    assert_eq!((ended.status, ended.text().as_str()), (0, "yes\n/root\n"));
}

async fn assert_refused(world: &World, names: &str, change: impl FnOnce(&mut ContainerSpec)) {
    let mut spec = world.spec();
    let handle = spec.handle.clone();
    change(&mut spec);
    assert_fails_with(world.backend().create(spec).await, names);
    assert!(!world.all_handles().await.contains(&handle), "{names}: half of it is listed");
    assert_container_not_found(world.backend().info(&handle).await, &handle);
    let again = world.create_with(|spec| spec.handle.clone_from(&handle)).await;
    world.backend().destroy(&again).await.expect("destroy");
}

/// The handle is free again.
pub async fn one_that_fails_names_what_failed_and_leaves_nothing(world: &World) {
    let other = world.create_with(|spec| spec.net_in = vec![NetIn::default()]).await;
    let taken = world.backend().info(&other).await.expect("info").mapped_ports.clone().unwrap_or_default()[0];
    let taken = NetIn { host_port: taken.host_port, container_port: 80 };
    assert_refused(world, "/nonexistent/image", |spec| spec.image.uri = "/nonexistent/image".into()).await;
    assert_refused(world, "network", |spec| spec.network = "nonsense".into()).await;
    assert_refused(world, &taken.host_port.to_string(), |spec| spec.net_in = vec![NetIn::default(), taken])
        .await;
    assert_eq!(
        world.backend().info(&other).await.expect("info").mapped_ports.as_ref().map(Vec::len),
        Some(1)
    );
}

/// Where containers allow no more than a few ports, those of a create that failed would be missing soon.
pub async fn one_that_fails_gives_its_ports_back(world: &World) {
    let handle = world.create_with(|spec| spec.net_in = vec![NetIn::default()]).await;
    let taken = world.backend().info(&handle).await.expect("info").mapped_ports.clone().unwrap_or_default()
        [0]
    .host_port;
    for _ in 0..20 {
        let mut spec = world.spec();
        spec.net_in =
            vec![NetIn::default(), NetIn::default(), NetIn { host_port: taken, container_port: 80 }];
        assert_fails_with(world.backend().create(spec).await, &taken.to_string());
    }
    world.create_with(|spec| spec.net_in = vec![NetIn::default(); 3]).await;
}

/// In the words of the wire, each with its reason.
pub async fn wrong_fields_are_named(world: &World) {
    for wrong in ["no-equals-sign", "=no name", "nul\0=x"] {
        assert_refused(world, "env", |spec| spec.env = vec!["GOOD=1".into(), wrong.into()]).await;
    }
    for (source, destination) in [("relative", "/mnt"), ("/tmp", "relative"), ("", "/mnt"), ("/tmp", "")] {
        let (src_path, dst_path) = (source.into(), destination.into());
        let bind = protocol::BindMount { src_path, dst_path, ..Default::default() };
        assert_refused(world, "bind_mounts", |spec| spec.bind_mounts = vec![bind]).await;
    }
    // The subnet's gateway and its broadcast address; from the block that is reserved for documentation.
    for network in ["192.0.2.9", "192.0.2.11", "192.0.2.10/33", "192.0.2.10/x", "::1"] {
        assert_refused(world, "network", |spec| spec.network = network.into()).await;
    }
}
