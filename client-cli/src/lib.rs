//! `iceflix`: the terminal client, and the cluster's front door.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | every command and option, defined once |
//! | [`commands`] | what the commands do, for the shell and for the prompt |
//! | [`prompt`] | the interactive prompt |
//! | [`editor`] | its line editor: what it shows and completes |
//! | [`client`], `requests`, `accounts`, [`stream`], [`streams`] | a cluster as a person's client sees it |
//! | [`session`] | the session between commands, in a file |
//! | [`config`], [`address`] | where the cluster is |
//! | [`player`] | finding a player that can do RTSP |
//! | [`output`], [`ask`] | what is shown and what is asked |
//! | [`listed`] | films as lists showed them |
//! | [`error`] | what can go wrong, and the exit codes |
//! | [`cluster`] | running a whole cluster on this machine |

mod accounts;
pub mod address;
pub mod ask;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod editor;
pub mod error;
pub mod listed;
pub mod output;
pub mod player;
pub mod prompt;
mod requests;
pub mod session;
pub mod stream;
pub mod streams;

use cli::{Cli, Top};
use commands::Shell;
use config::{Environment, Target};
use error::Error;
use std::process::ExitCode;

/// Does what the command line says.
pub async fn run(cli: Cli) -> ExitCode {
    let env = Environment::of_process();
    let done = match cli.command {
        Some(Top::Cluster(command)) => return cluster::run(*command, &cli.global, &env).await,
        Some(Top::Client(command)) => once(&cli.global, env, command).await,
        None => prompt::run(&cli.global, env).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, Error::BrokenPipe) {
                output::say(&format!("iceflix: {error}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

async fn once(global: &cli::Global, env: Environment, command: cli::Command) -> Result<(), Error> {
    let target = Target::find(global, &env)?;
    // What can be seen to be wrong at once should not need a cluster to be told.
    commands::check(&command)?;
    let client = client::Client::connect(&target, &env.state_dir()?).await?;
    let mut shell = Shell::once(env, client, global.json);
    shell.run(command).await
}

/// Logs to standard error: only what broke, or more with `-v` or `RUST_LOG`.
pub fn log(verbose: u8) {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        // What tarpc calls an error is a call that goes on at the next instance.
        0 => "error,tarpc=off",
        1 => "client_cli=info,iceflix_core=info,warn,tarpc=off",
        2 => "client_cli=debug,iceflix_core=debug,info",
        _ => "debug",
    };
    let filter = match verbose {
        0 => EnvFilter::try_from_default_env().ok(),
        _ => None,
    };
    let filter = filter.unwrap_or_else(|| EnvFilter::new(level));
    // That somebody else's subscriber is there already is fine.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // Whoever closed standard error does not want to hear of it.
        .log_internal_errors(false)
        .try_init();
}
