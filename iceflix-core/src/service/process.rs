//! The process that a service is: its arguments, its logs, the signals that end it.

use super::Server;
use crate::config::{self, Common, ConfigError, LogFormat, ServiceConfig};
use nix::sys::stat::Mode;
use std::{io::IsTerminal, process::ExitCode, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is logged of libraries, unless `log` says otherwise. Not what is nobody's to mend: tarpc warns
/// of each client that hangs up in the middle, and zenoh of each node that it cannot reach, of each
/// question that somebody did not answer in time (eight lines where a cable is out), and its session
/// of each answer that came after that.
const LIBRARIES: &str = "zenoh=warn,zenoh::net::runtime::orchestrator=error,\
    zenoh::net::routing::dispatcher::queries=error,zenoh::api::session=error,tarpc=error";

/// How long a thread for what blocks waits for more. tokio wakes the one that has waited longest: with
/// its 10 s, five questions a second would keep fifty threads for good once a burst had made them. A
/// new one costs some 50 µs.
const IDLE: Duration = Duration::from_millis(200);

/// The whole `main` of a service: reads the configuration, starts it, waits for SIGINT or SIGTERM,
/// and stops it. A second signal ends the process at once.
pub fn run<S: Server>() -> ExitCode {
    // What a service keeps (password hashes, keys) is its own, even in a directory others can read.
    nix::sys::stat::umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let config: S::Config = match config::load(std::env::args_os()) {
        Ok(config) => config,
        // Help and version are errors of clap's, too; it knows where they go.
        Err(ConfigError::Arguments(error)) => error.exit(),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    init_logs(config.common());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(IDLE)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(live::<S>(config))
}

async fn live<S: Server>(config: S::Config) -> ExitCode {
    let kind = S::Config::KIND;
    let (mut interrupt, mut terminate) = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be heard");
            return ExitCode::FAILURE;
        }
    };
    let server = tokio::select! {
        server = S::bind(config) => server,
        () = either(&mut interrupt, &mut terminate) => return ExitCode::SUCCESS,
    };
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("{kind} cannot start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(address = %server.address(), pid = std::process::id(), "{kind} is ready");
    either(&mut interrupt, &mut terminate).await;
    tracing::info!("stopping; a second signal ends at once");
    tokio::select! {
        () = server.shutdown() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        () = either(&mut interrupt, &mut terminate) => {
            tracing::warn!("ended at once");
            // Nothing is waited for any more, not even threads that hash or write.
            std::process::exit(130)
        }
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn init_logs(config: &Common) {
    use tracing_subscriber::{EnvFilter, fmt};
    // What is said for a library by name comes later, and counts.
    let filter = |own: &str| EnvFilter::try_new([LIBRARIES, own].join(","));
    let (filter, bad) = match filter(&config.log) {
        Ok(filter) => (filter, None),
        Err(error) => (filter("info").unwrap_or_default(), Some(error)),
    };
    let logs = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written would be told on standard error, too, where that fails just
        // as well: and it would end, with a panic, whatever had something to say.
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => {
            logs.json().init();
            // What reads the log expects a document on each line, a panic's too.
            std::panic::set_hook(Box::new(|panic| {
                let location = panic.location().map(ToString::to_string);
                let reason = panic
                    .payload_as_str()
                    .unwrap_or("for a reason it did not say");
                tracing::error!(location, "panicked: {reason}");
            }));
        }
    }
    if let Some(error) = bad {
        tracing::warn!(%error, log = config.log, "`log` is not a filter; logging at info");
    }
}
