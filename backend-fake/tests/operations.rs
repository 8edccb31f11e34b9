//! Every operation can be made to fail, and to take its time.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use backend_fake::{FakeBackend, Op};
use futures_util::{StreamExt, stream};
use protocol::{
    Backend, ContainerSpec, Error, FilesQuery, NetIn, Output, Process, ProcessSpec, Properties, Result,
    Signal, TtySpec,
};
use tokio::time::Instant;

const OPERATIONS: &[Op] = &[
    Op::Ping,
    Op::Capacity,
    Op::Create,
    Op::Destroy,
    Op::List,
    Op::Info,
    Op::BulkInfo,
    Op::Metrics,
    Op::BulkMetrics,
    Op::Stop,
    Op::SetGraceTime,
    Op::GraceTime,
    Op::StreamIn,
    Op::StreamOut,
    Op::BandwidthLimits,
    Op::CpuLimits,
    Op::DiskLimits,
    Op::MemoryLimits,
    Op::NetIn,
    Op::NetOut,
    Op::ReplaceNetOut,
    Op::Run,
    Op::Attach,
    Op::Properties,
    Op::Property,
    Op::SetProperty,
    Op::RemoveProperty,
    Op::Stdout,
    Op::Stderr,
    Op::WriteStdin,
    Op::CloseStdin,
    Op::Signal,
    Op::SetTty,
    Op::Exit,
];

/// A fake with a container `c` that has the property `k`, and a process `p` in it that has written to both outputs.
async fn prepared() -> (FakeBackend, Process) {
    let fake = FakeBackend::new();
    let properties = Properties::from([("k".into(), "v".into())]);
    fake.create(ContainerSpec { handle: "c".into(), properties, ..Default::default() }).await.unwrap();
    let script = "echo out; echo err >&2; sleep 10000";
    let spec = ProcessSpec { id: "p".into(), ..ProcessSpec::new("sh", ["-c", script]) };
    let process = fake.run("c", spec).await.unwrap();
    (fake, process)
}

/// Does `op`, and tells how that went.
async fn perform(op: Op, fake: &FakeBackend, process: Process) -> Result<()> {
    let (handles, files) = (["c".to_owned()], || FilesQuery { path: "/tmp".into(), ..Default::default() });
    match op {
        Op::Ping => fake.ping().await,
        Op::Capacity => fake.capacity().await.map(drop),
        Op::Create => fake.create(ContainerSpec::default()).await.map(drop),
        Op::Destroy => fake.destroy("c").await,
        Op::List => fake.list(&Properties::new()).await.map(drop),
        Op::Info => fake.info("c").await.map(drop),
        Op::BulkInfo => fake.bulk_info(&handles).await.map(drop),
        Op::Metrics => fake.metrics("c").await.map(drop),
        Op::BulkMetrics => fake.bulk_metrics(&handles).await.map(drop),
        Op::Stop => fake.stop("c", true).await,
        Op::SetGraceTime => fake.set_grace_time("c", Duration::from_secs(9)).await,
        Op::GraceTime => fake.grace_time("c").await.map(drop),
        Op::StreamIn => fake.stream_in("c", files(), Box::pin(stream::empty())).await,
        Op::StreamOut => fake.stream_out("c", files()).await.map(drop),
        Op::BandwidthLimits => fake.bandwidth_limits("c").await.map(drop),
        Op::CpuLimits => fake.cpu_limits("c").await.map(drop),
        Op::DiskLimits => fake.disk_limits("c").await.map(drop),
        Op::MemoryLimits => fake.memory_limits("c").await.map(drop),
        Op::NetIn => fake.net_in("c", NetIn::default()).await.map(drop),
        Op::NetOut => fake.net_out("c", vec![]).await,
        Op::ReplaceNetOut => fake.replace_net_out("c", vec![]).await,
        Op::Run => fake.run("c", ProcessSpec::new("echo", ["x"])).await.map(drop),
        Op::Attach => fake.attach("c", "p").await.map(drop),
        Op::Properties => fake.properties("c").await.map(drop),
        Op::Property => fake.property("c", "k").await.map(drop),
        Op::SetProperty => fake.set_property("c", "k", "w").await,
        Op::RemoveProperty => fake.remove_property("c", "k").await,
        Op::Stdout => first_chunk(&process.stdout, "out\n").await,
        Op::Stderr => first_chunk(&process.stderr, "err\n").await,
        Op::WriteStdin => process.control.write_stdin("x".into()).await,
        Op::CloseStdin => process.control.close_stdin().await,
        Op::Signal => process.control.signal(Signal::Kill).await,
        Op::SetTty => process.control.set_tty(TtySpec::default()).await,
        Op::Exit => {
            fake.stop("c", true).await?;
            process.exit.await.map(|status| assert_eq!(status, 137))
        }
    }
}

async fn first_chunk(output: &Output, wanted: &str) -> Result<()> {
    match output.open().next().await.unwrap() {
        Ok(chunk) => assert_eq!(chunk, wanted),
        Err(error) => return Err(error.downcast().unwrap()),
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn every_operation_can_fail_and_then_works() {
    for &op in OPERATIONS {
        let error = Error::ServiceUnavailable { message: format!("{op:?} is out of order") };
        let (fake, process) = prepared().await;
        fake.faults().fail_once(op, error.clone());
        assert_eq!(perform(op, &fake, process).await, Err(error.clone()), "{op:?}");

        let (fake, process) = prepared().await;
        fake.faults().fail(op, error);
        fake.faults().clear(op);
        assert_eq!(perform(op, &fake, process).await, Ok(()), "{op:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_operation_can_take_its_time() {
    for &op in OPERATIONS {
        let (fake, process) = prepared().await;
        let begun = Instant::now();
        fake.faults().delay(op, Duration::from_secs(3600));
        assert_eq!(perform(op, &fake, process).await, Ok(()), "{op:?}");
        assert_eq!(begun.elapsed().as_secs(), 3600, "{op:?}");
    }
}
