//! Rules for what leaves a container: the operator has denied it [`FAR_NETWORK`](crate::neighbour::FAR_NETWORK), and the
//! host's own address.

use std::net::Ipv4Addr;

use futures_util::future::{join, join_all, join3};
use protocol::{IcmpControl, IpRange, NetOutProtocol, NetOutRule, PortRange};

use crate::{
    behaviours::{
        network::map,
        packets::{NO_NEIGHBOUR, WORD, address, ask, listen, next_output, pings, resolves},
    },
    neighbour::{FAR, HOST, NEIGHBOUR},
    world::{World, assert_fails_with},
};

/// To one address.
fn to(address: Ipv4Addr) -> NetOutRule {
    between(address, address)
}

fn between(start: Ipv4Addr, end: Ipv4Addr) -> NetOutRule {
    let networks = vec![IpRange { start: Some(start.into()), end: Some(end.into()) }];
    NetOutRule { networks, ..NetOutRule::default() }
}

fn tcp(address: Ipv4Addr, port: u16) -> NetOutRule {
    let ports = vec![PortRange { start: port, end: port }];
    NetOutRule { protocol: NetOutProtocol::Tcp, ports, ..to(address) }
}

async fn open(world: &World, handle: &str, rules: &[NetOutRule]) {
    world.backend().net_out(handle, rules.to_vec()).await.expect("rules");
}

async fn replace(world: &World, handle: &str, rules: &[NetOutRule]) {
    world.backend().replace_net_out(handle, rules.to_vec()).await.expect("rules");
}

/// As a client of the host's.
pub async fn the_world_is_within_reach(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(80).await;
    neighbour.serve_names(NEIGHBOUR).await;
    let handle = world.create().await;
    assert_eq!(ask(world, &handle, NEIGHBOUR, 80).await, Ok(HOST.to_string()));
    assert!(resolves(world, &handle, NEIGHBOUR).await && pings(world, &handle, NEIGHBOUR).await);
}

/// By every protocol.
pub async fn denied_networks_are_out_of_reach(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(80).await;
    neighbour.serve_names(FAR).await;
    let handle = world.create().await;
    let tries =
        join3(ask(world, &handle, FAR, 80), resolves(world, &handle, FAR), pings(world, &handle, FAR));
    let (said, resolved, pinged) = tries.await;
    said.expect_err("a denied network");
    assert!(!resolved && !pinged);
}

/// Be it the spec's or a later one, for this container alone.
pub async fn a_rule_opens_a_hole(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(80).await;
    let from_spec = world.create_with(|spec| spec.net_out = vec![tcp(FAR, 80)]).await;
    let later = world.create().await;
    ask(world, &later, FAR, 80).await.expect_err("the rule is another container's");
    open(world, &later, &[tcp(FAR, 80)]).await;
    for handle in [&from_spec, &later] {
        assert_eq!(ask(world, handle, FAR, 80).await, Ok(HOST.to_string()));
    }
}

/// One for all protocols opens all of them.
pub async fn a_rule_is_of_its_protocol(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(53).await;
    neighbour.serve_names(FAR).await;
    let handle = world.create().await;
    use NetOutProtocol::{All, Icmp, Tcp, Udp};
    for (protocol, open) in [
        (Tcp, [true, false, false]),
        (Udp, [false, true, false]),
        (Icmp, [false, false, true]),
        (All, [true; 3]),
    ] {
        replace(world, &handle, &[NetOutRule { protocol, ..to(FAR) }]).await;
        let (said, resolved, pinged) =
            join3(ask(world, &handle, FAR, 53), resolves(world, &handle, FAR), pings(world, &handle, FAR))
                .await;
        assert_eq!([said.is_ok(), resolved, pinged], open, "{protocol:?}");
    }
}

/// Both ends of each range are in it.
pub async fn a_rule_is_of_its_networks_and_ports(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    for port in [79, 80, 82, 83, 90] {
        neighbour.serve(port).await;
    }
    let handle = world.create().await;
    let far = |last| Ipv4Addr::new(198, 51, 100, last);
    let rule = NetOutRule {
        protocol: NetOutProtocol::Tcp,
        ports: vec![PortRange { start: 80, end: 82 }, PortRange { start: 90, end: 90 }],
        networks: [between(far(10), far(12)).networks, to(far(20)).networks].concat(),
        ..NetOutRule::default()
    };
    open(world, &handle, &[rule]).await;
    let inside = [(10, 80), (12, 82), (11, 90), (20, 80)];
    let beside = [(9, 80), (13, 80), (19, 90), (21, 90), (10, 79), (12, 83)];
    let asked = inside.iter().chain(&beside).map(|&(address, port)| ask(world, &handle, far(address), port));
    let said = join_all(asked).await;
    assert_eq!(said[..inside.len()], inside.map(|_| Ok(HOST.to_string())), "{inside:?}");
    assert!(said[inside.len()..].iter().all(Result::is_err), "{beside:?}: {said:?}");
}

/// Messages of other types stay where they are.
pub async fn a_rule_is_of_its_icmp_type(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let handle = world.create().await;
    let icmp = |kind, code| NetOutRule {
        protocol: NetOutProtocol::Icmp,
        icmps: Some(IcmpControl { kind, code }),
        ..to(FAR)
    };
    // An echo is asked for by type 8, code 0.
    for (rule, open) in
        [(icmp(13, None), false), (icmp(8, Some(1)), false), (icmp(8, Some(0)), true), (icmp(8, None), true)]
    {
        replace(world, &handle, std::slice::from_ref(&rule)).await;
        assert_eq!(pings(world, &handle, FAR).await, open, "{rule:?}");
    }
}

/// Neither to other containers nor to the host.
pub async fn a_rule_opens_nothing_but_denied_networks(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    crate::neighbour::serve_here(2222);
    let (server, client) = (world.create().await, world.create().await);
    let _listener = listen(world, &server, 8080).await;
    open(world, &client, &[NetOutRule::default()]).await;
    let server = address(world, &server).await;
    let (other, host) = join(ask(world, &client, server, 8080), ask(world, &client, HOST, 2222)).await;
    other.expect_err("another subnet");
    host.expect_err("the host");
}

/// Another container's, too.
pub async fn a_published_port_is_reached_by_the_rules_for_the_hosts_address(world: &World) {
    if world.neighbour().is_none() {
        return world.skip(NO_NEIGHBOUR);
    }
    let (server, client) = (world.create().await, world.create().await);
    let _listener = listen(world, &server, 8080).await;
    let port = map(world, &server, 0, 8080).await.host_port;
    ask(world, &client, HOST, port).await.expect_err("the host's address is denied");
    // It is judged where the client sends it, not where it is then sent to.
    open(world, &client, &[tcp(address(world, &server).await, 8080)]).await;
    ask(world, &client, HOST, port).await.expect_err("the host's address is denied");
    open(world, &client, &[tcp(HOST, port)]).await;
    assert_eq!(ask(world, &client, HOST, port).await.as_deref(), Ok(WORD));
}

/// What was open before is closed, unless it is among them.
pub async fn rules_can_be_replaced_as_a_whole(world: &World) {
    let handle = world.create_with(|spec| spec.net_out = vec![tcp(FAR, 80)]).await;
    open(world, &handle, &[tcp(FAR, 81)]).await;
    let Some(neighbour) = world.neighbour() else {
        replace(world, &handle, &[tcp(FAR, 82)]).await;
        return replace(world, &handle, &[]).await;
    };
    for port in [80, 81, 82] {
        neighbour.serve(port).await;
    }
    for (rules, open) in [
        (None, [true, true, false]),
        (Some(vec![tcp(FAR, 81), tcp(FAR, 82)]), [false, true, true]),
        (Some(vec![]), [false; 3]),
    ] {
        if let Some(rules) = rules {
            replace(world, &handle, &rules).await;
        }
        let said = join_all([80, 81, 82].map(|port| ask(world, &handle, FAR, port))).await;
        assert_eq!([0, 1, 2].map(|at: usize| said[at].is_ok()), open, "{said:?}");
    }
}

/// In both directions; a new one is not let through.
pub async fn a_connection_outlives_its_rule(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(80).await;
    let handle = world.create_with(|spec| spec.net_out = vec![tcp(FAR, 80)]).await;
    let connection = world.run(&handle, &["nc", &FAR.to_string(), "80"]).await;
    let mut said = connection.stdout.open();
    assert_eq!(next_output(&mut said).await, format!("{HOST}\n"));
    replace(world, &handle, &[]).await;
    ask(world, &handle, FAR, 80).await.expect_err("a new connection");
    for word in ["still\n", "here\n"] {
        connection.control.write_stdin(word.into()).await.expect("write");
        assert_eq!(next_output(&mut said).await, word);
    }
}

/// At once, and each of them counts.
pub async fn many_rules_come_in_one_call(world: &World) {
    let handle = world.create().await;
    let address = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 0, 0)) + number);
    let mut rules: Vec<NetOutRule> = (0..3000).map(|number| tcp(address(number), 80)).collect();
    rules[0] = tcp(FAR, 80);
    rules[2999] = tcp(FAR, 81);
    open(world, &handle, &rules).await;
    let Some(neighbour) = world.neighbour() else { return };
    for (port, open) in [(80, true), (81, true), (82, false)] {
        neighbour.serve(port).await;
        assert_eq!(ask(world, &handle, FAR, port).await.is_ok(), open, "{port}");
    }
}

/// By the field's name, and nothing of the request is done.
pub async fn rules_that_make_no_sense_are_refused(world: &World) {
    let handle = world.create().await;
    let ports = |start, end| NetOutRule {
        protocol: NetOutProtocol::Tcp,
        ports: vec![PortRange { start, end }],
        ..to(FAR)
    };
    let icmps = Some(IcmpControl { kind: 8, code: None });
    for (field, rule) in [
        ("networks", between(FAR, Ipv4Addr::new(198, 51, 100, 1))),
        ("ports", ports(2, 1)),
        ("ports", ports(0, 0)),
        ("ports", NetOutRule { protocol: NetOutProtocol::All, ..ports(80, 80) }),
        ("icmps", NetOutRule { icmps, ..ports(80, 80) }),
    ] {
        let rules = vec![tcp(FAR, 80), rule];
        assert_fails_with(world.backend().net_out(&handle, rules.clone()).await, field);
        assert_fails_with(world.backend().replace_net_out(&handle, rules.clone()).await, field);
        let mut spec = world.spec();
        spec.net_out = rules;
        assert_fails_with(world.backend().create(spec).await, field);
    }
    assert_eq!(world.all_handles().await, std::slice::from_ref(&handle));
    if let Some(neighbour) = world.neighbour() {
        neighbour.serve(80).await;
        ask(world, &handle, FAR, 80).await.expect_err("no rule of a refused request is there");
    }
}

/// Who has its address next has none of them.
pub async fn rules_go_with_their_container(world: &World) {
    let Some(neighbour) = world.neighbour() else { return world.skip(NO_NEIGHBOUR) };
    neighbour.serve(80).await;
    let network = "10.77.4.6/30";
    let spec = |world: &World, rules| {
        let mut spec = world.spec();
        (spec.network, spec.net_out) = (network.into(), rules);
        spec
    };
    let first = world.backend().create(spec(world, vec![tcp(FAR, 80)])).await.expect("create");
    assert!(ask(world, &first, FAR, 80).await.is_ok());
    world.backend().destroy(&first).await.expect("destroy");
    let second = world.backend().create(spec(world, vec![])).await.expect("create");
    ask(world, &second, FAR, 80).await.expect_err("the rule went with the other container");
}
