//! The `garden` command.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod files;
mod process;
mod report;
mod rules;
mod show;
mod streams;
mod terminal;
mod values;

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Parser;
use garden_client::{Client, Error};
use tokio::io::AsyncWriteExt;

use crate::{
    args::{Cli, Command},
    report::{FAILED, Failure},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors too. A closed output is nothing to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(Failure::new("start", &Error::failed(&error)).tell()),
    };
    let status = runtime.block_on(serve(cli));
    // A thread may be waiting for input that never comes.
    runtime.shutdown_background();
    ExitCode::from(status.unwrap_or_else(|failure| failure.tell()))
}

async fn serve(cli: Cli) -> Result<u8, Failure> {
    let Cli { target, json, command } = cli;
    let target = target.unwrap_or_else(default_target);
    let client = Client::new(&target).map_err(|error| Failure::new("--target", &error))?;
    // Who sits at a terminal wants to know at once that no server is there, and can press a key.
    let client = client.with_retries_for(Duration::ZERO);
    match command {
        Command::Run(run) => process::run(&client, run, json).await,
        Command::Attach { handle, process_id, streams } => {
            process::attach(&client, &handle, &process_id, &streams).await
        }
        command => {
            let answer = commands::answer(&client, command).await?;
            print("answer", if json { answer.json } else { answer.text }).await?;
            Ok(0)
        }
    }
}

/// Where a server listens that was not told where: the system's place, else the user's.
fn default_target() -> String {
    const SYSTEM: &str = "/run/garden/garden.sock";
    let of_user = std::env::var("XDG_RUNTIME_DIR").map(|directory| format!("{directory}/garden.sock"));
    match of_user {
        Ok(of_user) if !Path::new(SYSTEM).exists() && Path::new(&of_user).exists() => {
            format!("unix:{of_user}")
        }
        _ => format!("unix:{SYSTEM}"),
    }
}

/// Writes to standard output.
async fn print(doing: &str, text: String) -> Result<(), Failure> {
    let mut stdout = tokio::io::stdout();
    let failed = |error| Failure::output(doing, &error);
    stdout.write_all(text.as_bytes()).await.map_err(failed)?;
    stdout.flush().await.map_err(failed)
}
