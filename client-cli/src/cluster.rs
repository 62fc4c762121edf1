//! `iceflix cluster …`: runs a whole cluster on this machine. `make run-cluster` ends up here.
//!
//! A supervisor starts every service as a child process, starts dead ones again, and stops them
//! all. What a cluster is made of is kept in a state directory (`state.rs`).

mod backoff;
mod certify;
mod client;
mod detach;
mod health;
mod invite;
mod join;
mod joining;
mod keep;
mod media;
mod plan;
mod ports;
mod process;
mod services;
mod settings;
mod state;
mod stop;
mod supervise;
mod tell;
#[cfg(test)]
mod tests;

use crate::{cli::Global, config::Environment};
use iceflix_core::trust::Invitation;
use settings::{Settings, state_of};
use std::{ffi::OsString, path::PathBuf, process::ExitCode};
use supervise::{Voice, stop_signals};
use tell::Manner;

/// What can be done with a cluster on this machine.
#[derive(clap::Subcommand, Debug)]
pub enum ClusterCommand {
    /// Make a new cluster's identity and its first certificates, and start nothing
    Init(RunArgs),
    /// Print a line that lets another machine, or a client, into the cluster
    Invite(invite::InviteArgs),
    /// Take up such a line
    Join(JoinArgs),
    /// Keep an instance out from now on
    Expel(invite::ExpelArgs),
    /// Start a cluster and keep it running until Ctrl-C (or in the background)
    Run(RunArgs),
    /// Stop the cluster of a state directory
    Stop(StopArgs),
    /// What `run --detach` leaves behind
    #[command(hide = true)]
    Supervise(RunArgs),
}

/// Of what the cluster is made.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// The directory in which everything about the cluster is kept
    #[arg(long, value_name = "DIR", default_value = ".iceflix")]
    state: PathBuf,
    /// How many instances of main, of auth and of catalog, 1 to 16
    #[arg(long, value_name = "N", default_value = "2", value_parser = instances)]
    instances: u32,
    /// Directories with films, one streaming node each
    #[arg(long, value_name = "DIR[:DIR…]")]
    media: Vec<OsString>,
    /// The address to listen on, by which others reach this machine
    /// [default: the one that was given last; else 127.0.0.1, or what the cluster that was joined
    /// reaches this machine by]
    #[arg(long, value_name = "ADDRESS", verbatim_doc_comment)]
    host: Option<String>,
    /// An invitation to another machine's cluster
    #[arg(
        long,
        value_name = "LINE",
        env = "ICEFLIX_JOIN",
        hide_env_values = true
    )]
    join: Option<Invitation>,
    /// The cluster's name (a-z, 0-9, '-'); random unless given, then kept
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Return when the cluster is healthy, and leave it running
    #[arg(long)]
    detach: bool,
    /// Where the services' programs are, if not beside this one
    #[arg(long, value_name = "DIR", hide = true)]
    bin_dir: Option<PathBuf>,
}

/// Of what the part of the cluster on this machine is made.
#[derive(clap::Args, Debug)]
pub struct JoinArgs {
    /// The invitation, as `iceflix cluster invite` printed it
    #[arg(value_name = "LINE")]
    line: Invitation,
    #[command(flatten)]
    run: RunArgs,
}

/// Which cluster to stop.
#[derive(clap::Args, Debug)]
pub struct StopArgs {
    /// The cluster's state directory
    #[arg(long, value_name = "DIR", default_value = ".iceflix")]
    state: PathBuf,
}

/// Why a command did not do what it should.
#[derive(Debug)]
enum Failure {
    /// It was typed wrong.
    Usage(String),
    /// It did not work.
    Failed(anyhow::Error),
    /// It did not work, and the person knows already.
    Said,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

fn instances(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=16).contains(number))
        .ok_or_else(|| "INSTANCES is a whole number from 1 to 16".to_owned())
}

/// Runs a command; the result is the program's exit code: 0 done, 1 failed, 2 wrong usage.
pub async fn run(command: ClusterCommand, global: &Global, env: &Environment) -> ExitCode {
    let voice = match &command {
        ClusterCommand::Supervise(_) => Voice::Parent,
        _ => Voice::Terminal,
    };
    let result = match command {
        ClusterCommand::Init(args) => init(args).await,
        ClusterCommand::Invite(args) => invite::invite(args).await,
        ClusterCommand::Join(args) => joined(args, global, env).await,
        ClusterCommand::Expel(args) => invite::expel(args).await,
        ClusterCommand::Run(args) if args.detach => detached(args).await,
        ClusterCommand::Run(args) => supervised(args, voice).await,
        ClusterCommand::Supervise(args) => {
            detach::leave_terminal();
            supervised(args, voice).await
        }
        ClusterCommand::Stop(args) => stopped(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Said) => ExitCode::FAILURE,
        Err(Failure::Failed(error)) => {
            voice.say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(text)) => {
            voice.say(&format!("error: {text}"));
            ExitCode::from(2)
        }
    }
}

async fn init(args: RunArgs) -> Result<(), Failure> {
    if args.join.is_some() {
        return Err(Failure::Usage(
            "`cluster init` makes a new cluster; an invitation (--join, ICEFLIX_JOIN) is taken up with \
             `iceflix cluster join LINE`, or with JOIN=LINE"
                .into(),
        ));
    }
    let settings = Settings::from_args(&args)?;
    let made = tokio::task::spawn_blocking(move || {
        settings.state.create()?;
        let Some(_lock) = settings.state.lock()? else {
            let dir = settings.state.dir().display();
            return Err(Failure::Usage(format!("the cluster of {dir} is running")));
        };
        let (record, services) = settings.prepare()?;
        let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
        tell::say(&format!(
            "The cluster {} has its identity in {}, and certificates for {}.",
            record.cluster,
            settings.state.authority().display(),
            names.join(", ")
        ));
        Ok(())
    });
    made.await.map_err(anyhow::Error::from)?
}

async fn joined(args: JoinArgs, global: &Global, env: &Environment) -> Result<(), Failure> {
    if let Invitation::Client {
        cluster,
        mains,
        fingerprint,
    } = &args.line
    {
        return client::know(cluster, mains, *fingerprint, global, env);
    }
    let run = RunArgs {
        join: Some(args.line),
        ..args.run
    };
    take_up(&run).await
}

/// Takes up the invitation, if there is one.
async fn take_up(args: &RunArgs) -> Result<(), Failure> {
    match &args.join {
        Some(invitation) => join::join(&Settings::from_args(args)?, invitation).await,
        None => Ok(()),
    }
}

async fn detached(args: RunArgs) -> Result<(), Failure> {
    take_up(&args).await?;
    let settings = Settings::from_args(&args)?;
    detach::start(&args, &settings).await
}

async fn supervised(args: RunArgs, voice: Voice) -> Result<(), Failure> {
    let detached = matches!(voice, Voice::Parent);
    take_up(&args).await?;
    let settings = Settings::from_args(&args)?;
    let manner = Manner::here(detached);
    let stops = stop_signals(detached).map_err(anyhow::Error::from)?;
    supervise::run(settings, manner, voice, stops, health::Directories).await
}

async fn stopped(args: StopArgs) -> Result<(), Failure> {
    let state = state_of(&args.state)?;
    let stopping = tokio::task::spawn_blocking(move || stop::stop(&state));
    stopping.await.map_err(anyhow::Error::from)??;
    Ok(())
}
