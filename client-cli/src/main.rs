//! `iceflix`: the terminal client of IceFlix, and the front door of a cluster.

use clap::Parser;
use client_cli::{cli::Cli, error::exit};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = Cli::parse();
    client_cli::log(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            client_cli::output::say(&format!("iceflix: cannot start: {error}"));
            return ExitCode::from(exit::FAILED);
        }
    };
    // Boxed: a command's future is large, and this thread's stack is not its place.
    let code = runtime.block_on(Box::pin(client_cli::run(cli)));
    // A thread that waits for the terminal must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}
