//! Input and output of processes, and attaching to them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join};
use protocol::{Error, Process, ProcessSpec, Signal};
use tokio::time::{Instant, sleep};

use crate::{
    files::collect,
    world::{World, command_spec, end},
};

/// `cat` ends when its input does.
pub async fn input_is_echoed_until_its_end(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["cat"]).await;
    let mut stdout = process.stdout.open();
    process.control.write_stdin("one\n".into()).await.expect("write");
    assert_eq!(stdout.next().await.expect("an echo").expect("an echo"), "one\n");
    process.control.write_stdin("zwölf <&>\n".into()).await.expect("write");
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(collect(stdout).await.expect("the rest"), "zwölf <&>\n".as_bytes());
    assert_eq!(process.exit.await, Ok(0));
}

/// All byte values, in pieces that cut characters. Over Garden's classic streams input is text: the client may refuse
/// it, but never damage it.
pub async fn input_is_binary_safe(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["cat"]).await;
    let sent: Vec<u8> = (0..=255).cycle().take(1_000_003).collect();
    let writing = async {
        for piece in sent.chunks(7001) {
            match process.control.write_stdin(Bytes::copy_from_slice(piece)).await {
                Err(Error::Invalid { field: "data", .. }) if world.traits().classic_streams => {
                    world.skip("Garden's classic streams carry input as JSON strings, which hold text only");
                    process.control.signal(Signal::Kill).await.expect("kill");
                    return false;
                }
                written => written.expect("write"),
            }
        }
        process.control.close_stdin().await.expect("close stdin");
        true
    };
    let (received, is_binary_safe) = join(collect(process.stdout.open()), writing).await;
    assert!(!is_binary_safe || received.expect("output") == sent, "what came back is not what was sent");
}

/// Its reader took a piece and stopped: the other output goes on, and the exit comes.
pub async fn an_output_that_is_not_read_on_holds_up_nothing_else(world: &World) {
    const SIZE: usize = 4_000_000;
    let handle = world.create().await;
    let script = format!("head -c {SIZE} /dev/zero >&2; head -c {SIZE} /dev/zero; exit 5");
    let process = world.run(&handle, &["sh", "-c", &script]).await;
    let mut stderr = process.stderr.open();
    let first = stderr.next().await.expect("a piece").expect("a piece");
    assert_eq!(collect(process.stdout.open()).await.expect("stdout").len(), SIZE);
    assert_eq!(process.exit.await, Ok(5));
    assert_eq!(first.len() + collect(stderr).await.expect("stderr").len(), SIZE);
}

/// Nor is there anything lost of the one that is.
pub async fn an_output_that_is_never_opened_holds_up_nothing(world: &World) {
    const SIZE: usize = 40_000_000;
    let handle = world.create().await;
    let script = format!("head -c {SIZE} /dev/zero >&2; echo done; exit 6");
    let process = world.run(&handle, &["sh", "-c", &script]).await;
    assert_eq!(collect(process.stdout.open()).await.expect("stdout"), b"done\n");
    assert_eq!(process.exit.await, Ok(6));
}

/// Far more than a pipe holds, in one message.
pub async fn much_input_arrives(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["wc", "-c"]).await;
    process.control.write_stdin(Bytes::from(vec![b'x'; 3_000_000])).await.expect("write");
    process.control.close_stdin().await.expect("close stdin");
    assert_eq!(end(process).await.text().trim(), "3000000");
}

/// Far more than a pipe holds.
pub async fn much_output_arrives(world: &World) {
    let handle = world.create().await;
    let ended = world.run_to_end(&handle, &["head", "-c", "5000000", "/dev/zero"]).await;
    assert_eq!((ended.status, ended.stdout.len()), (0, 5_000_000));
    assert!(ended.stdout.iter().all(|byte| *byte == 0));
}

/// Numbered lines, so that one that is missing, doubled or out of turn shows.
pub async fn output_arrives_in_its_order(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["cat"]).await;
    let text: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    let writing = async {
        process.control.write_stdin(text.clone().into()).await.expect("write");
        process.control.close_stdin().await.expect("close stdin");
    };
    let (received, ()) = join(collect(process.stdout.open()), writing).await;
    assert!(received.expect("output") == text.as_bytes(), "what came back is not what was sent");
    assert_eq!(process.exit.await, Ok(0));
}

/// The reference lets them compete.
pub async fn two_readers_of_an_output_each_get_everything(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["cat"]).await;
    let (first, second) = (process.stdout.open(), process.stdout.open());
    let text = "0123456789".repeat(20_000);
    let writing = async {
        process.control.write_stdin(text.clone().into()).await.expect("write");
        process.control.close_stdin().await.expect("close stdin");
    };
    let ((first, second), ()) = join(join(collect(first), collect(second)), writing).await;
    assert!(first.expect("output") == text.as_bytes(), "the first reader got something else");
    assert!(second.expect("output") == text.as_bytes(), "the second reader got something else");
    assert_eq!(process.exit.await, Ok(0));
}

/// Every byte, of both streams.
pub async fn output_can_be_read_after_the_exit(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["sh", "-c", "echo out; echo err >&2; exit 4"]).await;
    assert_eq!(process.exit.await, Ok(4));
    assert_eq!(collect(process.stdout.open()).await.expect("stdout"), b"out\n");
    assert_eq!(collect(process.stderr.open()).await.expect("stderr"), b"err\n");
}

/// A minute is for clients that are slow to open their streams.
pub async fn output_can_be_opened_long_after_the_exit(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["head", "-c", "400000", "/dev/zero"]).await;
    let Process { stdout, exit, .. } = process;
    assert_eq!(exit.await, Ok(0));
    // In memory that takes no time.
    let in_memory = !world.traits().real && !world.traits().over_http;
    tokio::time::sleep(Duration::from_secs(if in_memory { 59 } else { 2 })).await;
    assert_eq!(collect(stdout.open()).await.expect("stdout").len(), 400_000);
}

/// A client that has opened its stream and does not read holds its own process up, and for no longer than five seconds.
pub async fn a_client_that_does_not_read_holds_up_its_own_process_only(world: &World) {
    // Much more than a ring and all that lies between it and a client hold.
    const SIZE: usize = 40_000_000;
    let handle = world.create().await;
    let script = format!("echo first; cat >/tmp/input; head -c {SIZE} /dev/zero");
    let writer = world.run(&handle, &["sh", "-c", &script]).await;
    let mut stalled = writer.stdout.open();
    assert_eq!(stalled.next().await.expect("output").expect("output"), "first\n");
    writer.control.close_stdin().await.expect("close stdin");

    let other = world.run(&handle, &["cat"]).await;
    let mut echo = other.stdout.open();
    let end = writer.exit;
    tokio::pin!(end);
    let mut rounds = 0;
    let status = loop {
        let round = async {
            other.control.write_stdin("ping\n".into()).await.expect("write");
            let begun = Instant::now();
            assert_eq!(echo.next().await.expect("an echo").expect("an echo"), "ping\n");
            assert!(begun.elapsed() < Duration::from_secs(4), "held up for {:?}", begun.elapsed());
            sleep(Duration::from_millis(100)).await;
        };
        round.await;
        rounds += 1;
        if let Some(status) = end.as_mut().now_or_never() {
            break status;
        }
    };
    assert_eq!(status, Ok(0));
    assert!(rounds > 1, "nobody waited for the reader");
    other.control.close_stdin().await.expect("close stdin");
    assert_eq!(other.exit.await, Ok(0));
}

/// Each opening begins at the same place.
pub async fn output_can_be_read_again(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["echo", "again"]).await;
    for _ in 0..2 {
        assert_eq!(collect(process.stdout.open()).await.expect("stdout"), b"again\n");
    }
    assert_eq!(process.exit.await, Ok(0));
}

/// As often as it is asked for.
pub async fn attach_to_an_ended_process_gives_its_exit_status(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["sh", "-c", "exit 7"]).await;
    let id = process.id.clone();
    assert_eq!(process.exit.await, Ok(7));
    for _ in 0..2 {
        let attached = world.backend().attach(&handle, &id).await.expect("attach");
        assert_eq!((attached.id.as_str(), attached.exit.await), (id.as_str(), Ok(7)));
    }
}

/// With its own error, also for another container's process.
pub async fn attach_to_an_unknown_process_is_refused(world: &World) {
    let handle = world.create().await;
    let other = world.create().await;
    let process = world.run(&other, &["sleep", "1000"]).await;
    for id in ["zzz", &process.id] {
        // Ids that a server makes up may be unique in their container only.
        let error = world.backend().attach(&handle, id).await.expect_err("no such process");
        assert_eq!(error, Error::process_not_found(id));
    }
}

/// Having read what was there before, a client goes away; the next one goes on.
pub async fn an_attached_client_gets_what_comes_from_then_on(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["cat"]).await;
    let mut stdout = process.stdout.open();
    process.control.write_stdin("one\n".into()).await.expect("write");
    assert_eq!(stdout.next().await.expect("an echo").expect("an echo"), "one\n");
    // Asking for more says that the first line has been passed on.
    let none = tokio::time::timeout(std::time::Duration::from_millis(50), stdout.next()).await;
    assert!(none.is_err(), "{none:?}");
    drop(stdout);
    let attached = world.backend().attach(&handle, &process.id).await.expect("attach");
    let beside = world.backend().attach(&handle, &process.id).await.expect("attach");
    let reading = join(end(attached), end(beside));
    let writing = async {
        process.control.write_stdin("two\n".into()).await.expect("write");
        process.control.close_stdin().await.expect("close stdin");
    };
    let ((attached, beside), ()) = join(reading, writing).await;
    assert_eq!((attached.status, attached.text().as_str()), (0, "two\n"));
    assert_eq!((beside.status, beside.text().as_str()), (0, "two\n"));
}

/// As the client can that started it.
pub async fn an_attached_client_can_write_and_signal(world: &World) {
    let handle = world.create().await;
    let spec = ProcessSpec { id: "shared".into(), ..command_spec(&["cat"]) };
    let process = world.backend().run(&handle, spec).await.expect("run");
    let mut stdout = process.stdout.open();
    let attached = world.backend().attach(&handle, "shared").await.expect("attach");
    attached.control.write_stdin("from the other\n".into()).await.expect("write");
    assert_eq!(stdout.next().await.expect("an echo").expect("an echo"), "from the other\n");
    attached.control.signal(Signal::Kill).await.expect("signal");
    assert_eq!((attached.exit.await, process.exit.await), (Ok(137), Ok(137)));
}

/// Also much of it: nobody waits for ever.
pub async fn input_to_an_ended_process_is_dropped(world: &World) {
    let handle = world.create().await;
    let process = world.run(&handle, &["true"]).await;
    let control = process.control.clone();
    assert_eq!(process.exit.await, Ok(0));
    // Through HTTP the connection has gone with the process, which the client may say.
    let _ = control.write_stdin(Bytes::from(vec![b'x'; 1_000_000])).await;
    let _ = control.close_stdin().await;
}
