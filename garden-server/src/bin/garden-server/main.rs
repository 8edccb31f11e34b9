//! The server's command line: reads the settings, picks the backend, serves until SIGTERM or SIGINT.

#![forbid(unsafe_code)]

mod backends;
mod cni;
mod dns;
mod duration;
mod gdn;
mod limits;
#[cfg_attr(not(feature = "linux"), path = "no_linux.rs")]
mod linux;
mod listen;
mod options;
mod settings;
mod size;
mod tcp;

use std::{process::ExitCode, time::Duration};

use garden_server::{Config, serve};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    backends::Chosen,
    options::{Action, LogFormat, Options},
    settings::Settings,
};

/// What is left in the runtime when the server has stopped may take this long.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let settings = match Settings::read(std::env::args_os().collect()) {
        Ok(settings) => settings,
        Err(error) => error.exit(),
    };
    start_logging(&settings.options);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the async runtime: {error}")),
    };
    let outcome = runtime.block_on(run(&settings));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => failed(&reason),
    }
}

fn failed(reason: &str) -> ExitCode {
    eprintln!("garden-server: {reason}");
    ExitCode::FAILURE
}

async fn run(settings: &Settings) -> Result<(), String> {
    let options = &settings.options;
    match options.action {
        None => run_server(options).await,
        Some(Action::Check) => backends::check(options),
        Some(Action::Cleanup) => backends::cleanup(options).await,
        Some(Action::Config) => {
            print!("{}", settings.in_force());
            Ok(())
        }
    }
}

async fn run_server(options: &Options) -> Result<(), String> {
    // Before anything is begun, so that a signal during the start is not lost.
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| format!("cannot watch for SIGTERM: {e}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|e| format!("cannot watch for SIGINT: {e}"))?;

    listen::check(options)?;
    let Chosen { backend, name, reason } = backends::start(options).await?;
    tracing::info!(backend = name, reason, version = env!("CARGO_PKG_VERSION"), "backend chosen");
    // Only now: who can connect can be served.
    let listeners = listen::listeners(options).await?;
    let config = Config {
        default_grace_time: options.default_grace_time,
        read_header_timeout: options.read_header_timeout,
        allowed_hosts: options.allowed_host.clone(),
        backend_name: name.to_owned(),
        ..Config::default()
    };
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(listeners, backend, config, shutdown).await.map_err(|error| error.to_string())?;
    tracing::info!("stopped");
    Ok(())
}

fn start_logging(options: &Options) {
    // Logs go to stderr: stdout belongs to `check` and `config`.
    let log = tracing_subscriber::fmt()
        .with_max_level(options.log_level.to_tracing())
        .with_writer(std::io::stderr)
        // A log that nobody reads any more must not end the server.
        .log_internal_errors(false)
        .with_ansi(false);
    match options.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
