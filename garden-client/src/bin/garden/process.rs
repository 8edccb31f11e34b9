//! `run` and `attach`: a process with its streams, signals and exit status.

use std::{pin::pin, sync::Arc};

use futures_util::StreamExt;
use garden_client::{
    Backend, Client, Collected, Error, Process, ProcessSpec,
    protocol::{ProcessControl, Signal, TtySpec},
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Run, Streams},
    print,
    report::{Failure, INTERRUPTED, complain},
    streams::{self, CopyError, copy},
    terminal,
};

/// What Ctrl-C means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnInterrupt {
    /// TERM, then KILL, then leave.
    End,
    /// Leave.
    Detach,
}

pub async fn run(client: &Client, run: Run, json: bool) -> Result<u8, Failure> {
    let Run { handle, streams, detach, id, user, dir, env, program } = run;
    let doing = format!("run {handle}");
    let failed = |error: Error| Failure::new(doing.as_str(), &error);
    let mut program = program.into_iter();
    let spec = ProcessSpec {
        id,
        path: program.next().unwrap_or_default(),
        args: program.collect(),
        env,
        dir,
        user,
        tty: streams.tty.then(|| TtySpec { window_size: terminal::window_size() }),
        ..ProcessSpec::default()
    };
    if json && !detach {
        return collect(client, &handle, &streams, spec, &doing).await;
    }
    let process = client.run(&handle, spec).await.map_err(failed)?;
    if !streams.interactive {
        process.control.close_stdin().await.map_err(failed)?;
    }
    if detach {
        let document = json!({ "process_id": process.id });
        print(&doing, if json { format!("{document:#}\n") } else { process.id + "\n" }).await?;
        return Ok(0);
    }
    follow(&handle, process, &streams, OnInterrupt::End).await
}

pub async fn attach(client: &Client, handle: &str, id: &str, streams: &Streams) -> Result<u8, Failure> {
    let process = client.attach(handle, id).await;
    let process = process.map_err(|error| Failure::new(format!("attach {handle} {id}"), &error))?;
    follow(handle, process, streams, OnInterrupt::Detach).await
}

/// With `--json` there is one document, at the end.
async fn collect(
    client: &Client,
    handle: &str,
    streams: &Streams,
    spec: ProcessSpec,
    doing: &str,
) -> Result<u8, Failure> {
    if streams.interactive || streams.tty {
        return Err(Failure::Told {
            doing: doing.to_owned(),
            why: "--json prints everything at the end, which -i and -t do not go with".to_owned(),
            next: Some("leave out --json, or -i and -t".to_owned()),
        });
    }
    let ended = client.run_and_collect(handle, spec).await.map_err(|error| Failure::new(doing, &error))?;
    let Collected { process_id, stdout, stderr, exit_status } = ended;
    let document = json!({
        "process_id": process_id,
        "exit_status": exit_status,
        "stdout": String::from_utf8_lossy(&stdout),
        "stderr": String::from_utf8_lossy(&stderr),
    });
    print(doing, format!("{document:#}\n")).await?;
    Ok(exit_code(exit_status))
}

/// Stays with the process until it has ended and its output was passed on.
async fn follow(
    handle: &str,
    process: Process,
    streams: &Streams,
    on_interrupt: OnInterrupt,
) -> Result<u8, Failure> {
    let Process { id, stdout, stderr, control, mut exit } = process;
    let doing = format!("process {id} in {handle}");
    let go_on = format!("it may still run: `garden attach {handle} {id}` goes on with it");
    let cannot_listen = |error: std::io::Error| Failure::new(doing.as_str(), &Error::failed(&error));
    let mut interrupts = signal(SignalKind::interrupt()).map_err(cannot_listen)?;
    let mut terminations = signal(SignalKind::terminate()).map_err(cannot_listen)?;
    let mut resizes = signal(SignalKind::window_change()).map_err(cannot_listen)?;
    // Only with -i: without it nobody would see the keys that end the process.
    let _raw_mode = if streams.tty && streams.interactive { terminal::RawMode::enter() } else { None };

    if streams.tty {
        // It may have changed since the process was asked for, and an attached one has that of another terminal.
        resize(&control);
    }

    let mut input = pin!(forward_stdin(control.clone()));
    let mut reads_input = streams.interactive;
    let mut outputs = pin!(async {
        tokio::try_join!(copy(stdout.open(), tokio::io::stdout()), copy(stderr.open(), tokio::io::stderr()))
    });
    let mut has_output = true;
    let mut status = None;
    let mut interrupted = 0;
    while status.is_none() || has_output {
        tokio::select! {
            ended = &mut exit, if status.is_none() => match ended {
                Ok(ended) => status = Some(ended),
                Err(error) => return Err(Failure::with_next(doing, &error, go_on)),
            },
            passed_on = &mut outputs, if has_output => match passed_on {
                Ok(_) => has_output = false,
                Err(CopyError::From(error)) => {
                    return Err(Failure::with_next(doing, &Error::failed(&error), go_on));
                }
                Err(CopyError::To(error)) => {
                    if on_interrupt == OnInterrupt::End {
                        // As SIGPIPE would, were the process here.
                        let _ = control.signal(Signal::Terminate).await;
                    }
                    return Err(Failure::output(&doing, &error));
                }
            },
            forwarded = &mut input, if reads_input => match forwarded {
                Ok(()) => reads_input = false,
                Err(error) => {
                    // Closing its input would tell the process that this was all.
                    let _ = control.signal(Signal::Terminate).await;
                    return Err(Failure::with_next(doing, &error, "it was sent TERM".to_owned()));
                }
            },
            Some(()) = interrupts.recv() => {
                interrupted += 1;
                match (on_interrupt, interrupted) {
                    (OnInterrupt::End, 1) => send(&control, Signal::Terminate),
                    (OnInterrupt::End, 2) => send(&control, Signal::Kill),
                    (OnInterrupt::End, _) => return Err(Failure::Interrupted),
                    (OnInterrupt::Detach, _) => {
                        complain(&format!("garden: left process {id} running"));
                        return Ok(INTERRUPTED);
                    }
                }
            }
            Some(()) = terminations.recv() => match on_interrupt {
                OnInterrupt::End => send(&control, Signal::Terminate),
                OnInterrupt::Detach => return Ok(INTERRUPTED),
            },
            Some(()) = resizes.recv(), if streams.tty => resize(&control),
        }
    }
    Ok(exit_code(status.unwrap_or_default()))
}

/// Sends a signal while the process's streams go on. What becomes of it shows in the process.
fn send(control: &Arc<dyn ProcessControl>, signal: Signal) {
    let control = control.clone();
    tokio::spawn(async move { control.signal(signal).await });
}

/// Tells the size of the local terminal while the process's streams go on.
fn resize(control: &Arc<dyn ProcessControl>) {
    let Some(window_size) = terminal::window_size() else { return };
    let control = control.clone();
    tokio::spawn(async move { control.set_tty(TtySpec { window_size: Some(window_size) }).await });
}

async fn forward_stdin(control: Arc<dyn ProcessControl>) -> Result<(), Error> {
    let mut stdin = streams::stdin();
    while let Some(chunk) = stdin.next().await {
        // A local input that fails is one that ends, as for a program that reads it itself.
        let Ok(chunk) = chunk else { break };
        control.write_stdin(chunk).await?;
    }
    control.close_stdin().await
}

fn exit_code(status: i32) -> u8 {
    u8::try_from(status).unwrap_or(u8::MAX)
}
