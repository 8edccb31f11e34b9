//! What only a fake can do: faults in the middle of an operation, scripted programs, virtual time. What every
//! backend does is in the conformance suite.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use backend_fake::{Context, FakeBackend, FakeOptions, OnTerminate, Op};
use futures_util::{StreamExt, future::join};
use protocol::{
    Backend, ContainerSpec, Error, FilesQuery, Metrics, NetIn, NetOutProtocol, NetOutRule, PortRange,
    ProcessSpec, Properties, Result, Sample, Signal, TtySpec,
};
use tokio::time::Instant;

fn spec(handle: &str) -> ContainerSpec {
    ContainerSpec { handle: handle.into(), ..Default::default() }
}

fn program(path: &str, args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        path: path.into(),
        args: args.iter().map(|arg| (*arg).into()).collect(),
        ..Default::default()
    }
}

fn everything() -> Properties {
    Properties::from([("garden.state".into(), "all".into())])
}

async fn read(output: &protocol::Output) -> String {
    let chunks: Vec<_> = output.open().map(|chunk| chunk.unwrap()).collect().await;
    String::from_utf8(chunks.concat()).unwrap()
}

fn in_use(samples: &[Sample]) -> f64 {
    samples.iter().filter(|sample| sample.name == "garden_pool_in_use").map(|sample| sample.value).sum()
}

#[tokio::test]
async fn a_failed_create_leaves_nothing() {
    let fake = FakeBackend::new();
    let error = Error::ServiceUnavailable { message: "special error".into() };
    fake.faults().fail_once(Op::Create, error.clone());
    assert_eq!(fake.create(spec("c")).await, Err(error));
    let taken = NetIn { host_port: 80, container_port: 80 };
    let twice = ContainerSpec { net_in: vec![taken, taken], ..spec("c") };
    assert!(fake.create(twice).await.is_err());
    assert_eq!(fake.list(&everything()).await, Ok([].into()));
    assert_eq!(in_use(&fake.telemetry()), 0.0);
    fake.create(spec("c")).await.unwrap();
}

#[tokio::test]
async fn outbound_rules_that_make_no_sense_are_refused_and_change_nothing() {
    let fake = FakeBackend::new();
    let silly = NetOutRule { ports: vec![PortRange { start: 2, end: 1 }], ..NetOutRule::default() };
    let error = fake.create(ContainerSpec { net_out: vec![silly.clone()], ..spec("c") }).await.unwrap_err();
    assert!(error.to_string().starts_with("ports: "), "{error}");
    assert_eq!(fake.list(&everything()).await, Ok([].into()));
    fake.create(spec("c")).await.unwrap();
    let error = fake.net_out("c", vec![NetOutRule::default(), silly]).await.unwrap_err();
    assert!(error.to_string().starts_with("ports: in rule 2 of 2: "), "{error}");
    assert_eq!(fake.net_out_rules("c"), Ok(vec![]));
}

#[tokio::test]
async fn outbound_rules_are_recorded_in_their_order_until_others_take_their_place() {
    let fake = FakeBackend::new();
    let to_port = |port| NetOutRule {
        protocol: NetOutProtocol::Tcp,
        ports: vec![PortRange { start: port, end: port }],
        ..NetOutRule::default()
    };
    fake.create(ContainerSpec { net_out: vec![to_port(1)], ..spec("c") }).await.unwrap();
    fake.net_out("c", vec![to_port(2), to_port(3)]).await.unwrap();
    assert_eq!(fake.net_out_rules("c"), Ok(vec![to_port(1), to_port(2), to_port(3)]));
    fake.replace_net_out("c", vec![to_port(4)]).await.unwrap();
    assert_eq!(fake.net_out_rules("c"), Ok(vec![to_port(4)]));
    fake.replace_net_out("c", vec![to_port(5), to_port(0)]).await.unwrap_err();
    assert_eq!(fake.net_out_rules("c"), Ok(vec![to_port(4)]));
}

#[tokio::test]
async fn a_half_made_container_is_listed_only_on_request() {
    let fake = FakeBackend::new();
    let hold = fake.faults().hold(Op::Create);
    let create = tokio::spawn({
        let fake = fake.clone();
        async move { fake.create(spec("c")).await }
    });
    hold.arrived(1).await;
    assert_eq!(fake.list(&Properties::new()).await, Ok([].into()));
    assert_eq!(fake.list(&everything()).await, Ok(["c".into()].into()));
    assert_eq!(fake.info("c").await, Err(Error::container_not_found("c")));
    assert_eq!(fake.create(spec("c")).await, Err(Error::HandleInUse { handle: "c".into() }));
    hold.release();
    create.await.unwrap().unwrap();
    assert_eq!(fake.list(&Properties::new()).await, Ok(["c".into()].into()));
}

#[tokio::test]
async fn a_create_whose_caller_leaves_is_finished_and_can_be_destroyed() {
    let fake = FakeBackend::new();
    let hold = fake.faults().hold(Op::Create);
    let create = tokio::spawn({
        let fake = fake.clone();
        async move { fake.create(spec("c")).await }
    });
    hold.arrived(1).await;
    create.abort();
    let (destroyed, ()) = join(fake.destroy("c"), async { hold.release() }).await;
    assert_eq!(destroyed, Ok(()));
    assert_eq!(fake.list(&everything()).await, Ok([].into()));
}

#[tokio::test]
async fn a_second_destroy_fails_while_the_first_runs() {
    let fake = FakeBackend::new();
    fake.create(spec("c")).await.unwrap();
    let process = fake.run("c", program("hold", &[])).await.unwrap();
    let hold = fake.faults().hold(Op::Destroy);
    let first = tokio::spawn({
        let fake = fake.clone();
        async move { fake.destroy("c").await }
    });
    hold.arrived(1).await;
    assert_eq!(fake.destroy("c").await, Err(Error::DestroyInProgress { handle: "c".into() }));
    hold.release();
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(process.exit.await, Ok(137));
    assert_eq!(fake.destroy("c").await, Err(Error::container_not_found("c")));
}

#[tokio::test]
async fn a_destroy_that_failed_can_be_repeated() {
    let fake = FakeBackend::new();
    fake.create(spec("c")).await.unwrap();
    let error = Error::Failed { message: "device busy".into() };
    fake.faults().fail_once(Op::Destroy, error.clone());
    assert_eq!(fake.destroy("c").await, Err(error));
    assert_eq!(fake.destroy("c").await, Ok(()));
}

#[tokio::test]
async fn a_broken_tar_out_ends_in_an_error() {
    let fake = FakeBackend::new();
    fake.create(spec("c")).await.unwrap();
    fake.faults().break_next_stream_out("disk gone");
    let query = FilesQuery { path: "/etc".into(), ..Default::default() };
    let items: Vec<_> = fake.stream_out("c", query).await.unwrap().collect().await;
    assert!(items.first().unwrap().is_ok());
    assert_eq!(items.last().unwrap().as_ref().unwrap_err().to_string(), "disk gone");
}

#[tokio::test]
async fn nothing_is_kept_of_a_tar_cut_short() {
    let fake = FakeBackend::new();
    fake.create(spec("c")).await.unwrap();
    let etc = FilesQuery { path: "/etc".into(), ..Default::default() };
    let chunks: Vec<_> = fake.stream_out("c", etc).await.unwrap().collect().await;
    let tar = chunks.into_iter().next().unwrap().unwrap();
    let cut = futures_util::stream::iter([Ok(tar.slice(..tar.len() - 1600))]);
    let query = FilesQuery { path: "/tmp/in".into(), ..Default::default() };
    let error = fake.stream_in("c", query.clone(), Box::pin(cut)).await.unwrap_err();
    assert!(error.to_string().starts_with("error streaming in: "), "{error}");
    assert!(fake.stream_out("c", query).await.is_err());
}

#[tokio::test]
async fn the_programs_of_the_captures_do_what_they_did() {
    let fake = FakeBackend::new();
    fake.create(spec("c1")).await.unwrap();
    let run = async |path, args: &[&str]| fake.run("c1", program(path, args)).await.unwrap();

    let process = run("exit", &["7"]).await;
    assert_eq!((process.id.as_str(), process.exit.await), ("proc-1", Ok(7)));
    let process = run("waiterr", &[]).await;
    let boom = Err(Error::Failed { message: "boom".into() });
    assert_eq!((process.id.as_str(), process.exit.await), ("proc-2", boom));
    let both = run("both", &["OUT", "ERR", "3"]).await;
    assert_eq!(both.exit.await, Ok(3));
    assert_eq!((read(&both.stdout).await, read(&both.stderr).await), ("OUT".into(), "ERR".into()));
    let error = fake.run("c1", program("missing", &[])).await.unwrap_err();
    assert!(matches!(error, Error::ExecutableNotFound { .. }), "{error:?}");

    let hold = run("hold", &[]).await;
    hold.control.set_tty(TtySpec::default()).await.unwrap();
    assert_eq!(hold.stdout.open().next().await.unwrap().unwrap(), "tty 80x24\n");
    hold.control.signal(Signal::Terminate).await.unwrap();
    assert_eq!(hold.exit.await, Ok(143));
}

#[tokio::test(start_paused = true)]
async fn a_program_can_be_told_of_sigterm_and_hours_pass_in_no_time() {
    let mut options = FakeOptions::default();
    options.programs.insert("graceful", |mut context: Context| async move {
        context.on_terminate(OnTerminate::Tell);
        context.print("ready").await;
        context.terminated().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok(9)
    });
    let fake = FakeBackend::with_options(options);
    fake.create(spec("c")).await.unwrap();
    let process = fake.run("c", program("graceful", &[])).await.unwrap();
    assert_eq!(process.stdout.open().next().await.unwrap().unwrap(), "ready");
    let begun = Instant::now();
    process.control.signal(Signal::Terminate).await.unwrap();
    assert_eq!(process.exit.await, Ok(9));
    assert_eq!(begun.elapsed(), Duration::from_secs(3600));
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_does_so_as_soon_as_it_has_been_started() {
    let mut options = FakeOptions::default();
    options.programs.insert("stubborn", |context: Context| async move {
        context.on_terminate(OnTerminate::Ignore);
        context.read_stdin().await;
        Ok(3)
    });
    let fake = FakeBackend::with_options(options);
    fake.create(spec("c")).await.unwrap();
    let process = fake.run("c", program("stubborn", &[])).await.unwrap();
    process.control.signal(Signal::Terminate).await.unwrap();
    process.control.close_stdin().await.unwrap();
    assert_eq!(process.exit.await, Ok(3));
}

#[tokio::test]
async fn a_program_is_found_by_its_path_where_it_was_given_one() {
    let mut options = FakeOptions::default();
    for (name, status) in [("/opt/resource/check", 1), ("check", 2), ("/bin/check", 3)] {
        options.programs.insert(name, move |_: Context| async move { Ok(status) });
    }
    let fake = FakeBackend::with_options(options);
    fake.create(spec("c")).await.unwrap();
    for (path, status) in [("/opt/resource/check", 1), ("check", 2), ("/usr/bin/check", 2), ("/bin/check", 3)]
    {
        assert_eq!(fake.run("c", program(path, &[])).await.unwrap().exit.await, Ok(status), "{path}");
    }
    let error = fake.run("c", program("/opt/check", &[])).await.unwrap_err();
    assert!(matches!(error, Error::ExecutableNotFound { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn stop_kills_after_ten_seconds() {
    let fake = FakeBackend::new();
    fake.create(spec("c")).await.unwrap();
    let stubborn = program("sh", &["-c", "trap '' TERM; echo ready; sleep 1000"]);
    let process = fake.run("c", stubborn).await.unwrap();
    assert_eq!(process.stdout.open().next().await.unwrap().unwrap(), "ready\n");
    let begun = Instant::now();
    fake.stop("c", false).await.unwrap();
    assert_eq!((begun.elapsed(), process.exit.await), (Duration::from_secs(10), Ok(137)));
}

#[tokio::test]
async fn a_panic_in_a_script_is_an_error_and_not_a_hang() {
    let mut options = FakeOptions::default();
    options.programs.insert("panic", |_: Context| async move { panic!("scripted") });
    let fake = FakeBackend::with_options(options);
    fake.create(spec("c")).await.unwrap();
    let result: Result<i32> = fake.run("c", program("panic", &[])).await.unwrap().exit.await;
    assert!(result.unwrap_err().to_string().contains("scripted"));
}

#[tokio::test]
async fn metrics_and_events_can_be_scripted() {
    let fake = FakeBackend::new();
    fake.create(spec("c")).await.unwrap();
    let metrics = Metrics { cpu_entitlement_ns: 5, ..Default::default() };
    fake.set_metrics("c", metrics.clone()).unwrap();
    fake.add_event("c", "Out of memory").unwrap();
    assert_eq!(fake.metrics("c").await, Ok(metrics));
    assert_eq!(fake.info("c").await.unwrap().into_value().events, Some(vec!["Out of memory".into()]));
}

#[tokio::test]
async fn telemetry_counts_what_there_is() {
    let fake = FakeBackend::with_options(FakeOptions { ring_bytes: 10, ..FakeOptions::default() });
    let value = |name: &str, label: &str| {
        let samples = fake.telemetry();
        let wanted = |sample: &&Sample| {
            sample.name == name && (label.is_empty() || sample.labels.iter().any(|(_, value)| value == label))
        };
        samples.iter().find(wanted).map(|sample| sample.value)
    };
    let mut limited = spec("limited");
    limited.limits.memory.limit_in_bytes = 1 << 20;
    limited.net_in = vec![NetIn::default()];
    fake.create(limited).await.unwrap();
    fake.create(spec("other")).await.unwrap();
    fake.stop("other", false).await.unwrap();
    fake.run("limited", program("dd", &["bs=2M"])).await.unwrap().exit.await.unwrap();
    fake.run("limited", program("echo", &["-n", "fifteen letters"])).await.unwrap().exit.await.unwrap();
    assert_eq!(value("garden_containers", "active"), Some(1.0));
    assert_eq!(value("garden_containers", "stopped"), Some(1.0));
    assert_eq!(value("garden_containers", "creating"), Some(0.0));
    assert_eq!(value("garden_pool_in_use", "subnets"), Some(2.0));
    assert_eq!(value("garden_pool_size", "subnets"), Some(256.0));
    assert_eq!(value("garden_pool_in_use", "ports"), Some(1.0));
    assert_eq!(value("garden_pool_size", "ports"), Some(4534.0));
    assert_eq!(value("garden_oom_kills_total", ""), Some(1.0));
    assert_eq!(value("garden_dropped_output_bytes_total", ""), Some(5.0));
}

#[tokio::test]
async fn what_the_shell_does_not_know_it_refuses() {
    let fake = FakeBackend::new();
    fake.create(spec("c")).await.unwrap();
    for script in ["while true; do :; done", "echo $(id)", "echo a | cat", "sleep 1 &", "echo 'a"] {
        let process = fake.run("c", program("sh", &["-c", script])).await.unwrap();
        let complaint = read(&process.stderr).await;
        assert_eq!(process.exit.await, Ok(2), "{script}: {complaint}");
        assert!(complaint.starts_with("sh: "), "{script}: {complaint}");
    }
    let script =
        "x y 2>&1 || echo $? \"$HOME\"'/$q'; cd /tmp && pwd # a comment\necho b > f; cat f; exit 3; echo no";
    let process = fake.run("c", program("/bin/sh", &["-c", script])).await.unwrap();
    assert_eq!(read(&process.stdout).await, "sh: x: not found\n127 /root/$q\n/tmp\nb\n");
    assert_eq!(process.exit.await, Ok(3));
}
