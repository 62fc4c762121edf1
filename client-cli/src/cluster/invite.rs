//! What the machine of an authenticator may do for the cluster: invite others, and expel instances.

use super::{Failure, settings::state_of, state::State, tell::say};
use anyhow::{Context, anyhow};
use iceflix_core::{
    api::{
        InstanceId, Kind,
        auth::{AuthError, AuthenticatorClient},
    },
    rpc::{CallError, Caller, Security},
    span::Span,
    trust::{
        Credential, Credentials, Invitation, credentials::fingerprint_in,
        invitation::InvitationSecret,
    },
};
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

/// How long an authenticator may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom to invite.
#[derive(clap::Args, Debug)]
pub struct InviteArgs {
    /// The cluster's state directory
    #[arg(long, value_name = "DIR", default_value = ".iceflix")]
    state: PathBuf,
    /// What the machine may run: main, auth, catalog or streaming; may be given more than once. An
    /// auth gets the cluster's signing key
    #[arg(
        long = "role",
        value_name = "ROLE",
        default_value = "streaming",
        value_delimiter = ','
    )]
    roles: Vec<Kind>,
    /// How long the invitation is good: 1m to 7d
    #[arg(long = "for", value_name = "SPAN", default_value = "1h")]
    lasts: Span,
    /// Invite a client, which needs no certificate
    #[arg(long, conflicts_with_all = ["roles", "lasts"])]
    client: bool,
}

/// Whom to expel.
#[derive(clap::Args, Debug)]
pub struct ExpelArgs {
    /// The instance's name, as `iceflix status` shows it
    instance: InstanceId,
    /// The cluster's state directory
    #[arg(long, value_name = "DIR", default_value = ".iceflix")]
    state: PathBuf,
}

/// An authenticator of this machine's, and what proves to it that this is its machine.
struct Own {
    name: String,
    endpoint: SocketAddr,
    credential: Credential,
}

/// Prints an invitation.
pub async fn invite(args: InviteArgs) -> Result<(), Failure> {
    let state = state_of(&args.state)?;
    let line = match args.client {
        true => for_a_client(&state)?,
        false => for_a_machine(&state, &args).await?,
    };
    println!("{line}");
    Ok(())
}

async fn for_a_machine(state: &State, args: &InviteArgs) -> Result<Invitation, Failure> {
    let cluster: InstanceId = state
        .existing()?
        .cluster
        .parse()
        .map_err(anyhow::Error::from)?;
    let roles: BTreeSet<Kind> = args.roles.iter().copied().collect();
    let secret = InvitationSecret::random();
    let asked = |auth: AuthenticatorClient, context: tarpc::context::Context| {
        let (secret, roles) = (secret.clone(), roles.iter().copied().collect());
        let seconds = args.lasts.as_secs();
        async move { auth.invite(context, secret, roles, seconds).await }
    };
    let all = authenticators(state)?;
    let own = any_of(&all, asked).await?;
    note_loopback(&[own.endpoint]);
    let roles_text: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    say(&format!(
        "Good once, for {}, for a machine with: {}. On that machine:\n  make run-cluster JOIN=LINE{}",
        args.lasts,
        roles_text.join(", "),
        if roles.contains(&Kind::Streaming) {
            " MEDIA=DIR"
        } else {
            ""
        },
    ));
    Ok(Invitation::Machine {
        cluster,
        roles,
        issuer: own.endpoint,
        fingerprint: own.credential.fingerprint(),
        secret,
    })
}

/// Says so when none of these can be reached from another machine.
fn note_loopback(endpoints: &[SocketAddr]) {
    let host = endpoints.first().map(SocketAddr::ip);
    if let Some(host) = host
        && endpoints.iter().all(|at| at.ip().is_loopback())
    {
        say(&format!(
            "note: the cluster answers on {host} only, which other machines cannot reach; start it with \
             HOST=ADDRESS for them"
        ));
    }
}

fn for_a_client(state: &State) -> Result<Invitation, Failure> {
    let record = state.existing()?;
    let known = record.joined.iter().flat_map(|joined| joined.mains.clone());
    let own = record
        .instances
        .iter()
        .filter(|entry| entry.kind == Kind::Main);
    let own = own.filter_map(|entry| state.listens(&entry.name()).ok());
    let mains: Vec<SocketAddr> = own.chain(known).collect();
    let identity = record
        .instances
        .iter()
        .map(|entry| state.identity(&entry.name()));
    let fingerprint = identity
        .filter_map(|dir| fingerprint_in(&dir).ok())
        .next()
        .ok_or_else(|| anyhow!("no certificate is kept in {}", state.dir().display()))?;
    if mains.is_empty() {
        return Err(anyhow!("no Main is known in {}", state.dir().display()).into());
    }
    note_loopback(&mains);
    say("No secret is in it. On the client's machine:\n  iceflix cluster join LINE");
    Ok(Invitation::Client {
        cluster: record.cluster.parse().map_err(anyhow::Error::from)?,
        mains,
        fingerprint,
    })
}

/// Expels an instance.
pub async fn expel(args: ExpelArgs) -> Result<(), Failure> {
    let state = state_of(&args.state)?;
    let instance = &args.instance;
    let own = authenticators(&state)?;
    // One does not expel itself.
    let others: Vec<Own> = own
        .into_iter()
        .filter(|own| own.credential.name().instance != *instance)
        .collect();
    let asked = |auth: AuthenticatorClient, context: tarpc::context::Context| {
        let instance = instance.clone();
        async move { auth.expel(context, instance).await }
    };
    let by = any_of(&others, asked).await?;
    say(&format!(
        "{instance} was expelled by {}: nobody calls or answers it from now on. On the bus it is heard \
         until its certificate ends, within a day.",
        by.name
    ));
    Ok(())
}

/// The authenticators of this machine.
fn authenticators(state: &State) -> Result<Vec<Own>, Failure> {
    let record = state.existing()?;
    let entries = record
        .instances
        .iter()
        .filter(|entry| entry.kind == Kind::Auth);
    let mut own = Vec::new();
    for entry in entries {
        let name = entry.name();
        // One that is in the record and was not started lately has no files.
        let (Ok(endpoint), Ok(credential)) = (
            state.listens(&name),
            Credential::load(&state.identity(&name)),
        ) else {
            continue;
        };
        own.push(Own {
            name,
            endpoint,
            credential,
        });
    }
    match own.is_empty() {
        false => Ok(own),
        true => Err(anyhow!(
            "{} has no authenticator: that takes a machine with one, such as the cluster's first",
            state.dir().display()
        )
        .into()),
    }
}

/// Asks the authenticators one after another, and says who did it.
async fn any_of<F, Fut>(own: &[Own], ask: F) -> Result<&Own, Failure>
where
    F: Fn(AuthenticatorClient, tarpc::context::Context) -> Fut,
    Fut: Future<Output = Result<Result<(), AuthError>, tarpc::client::RpcError>>,
{
    let mut failed = anyhow!("no other authenticator is on this machine");
    for auth in own {
        let credentials = Credentials::new(auth.credential.clone());
        let security = Security::service(&credentials).map_err(anyhow::Error::from)?;
        let caller = Caller::by_address(security);
        let asked: Result<Result<(), AuthError>, CallError> =
            caller.call_at(auth.endpoint, PATIENCE, &ask).await;
        match asked {
            Ok(Ok(())) => return Ok(auth),
            Ok(Err(error @ (AuthError::BadRequest(_) | AuthError::UnknownInstance(_)))) => {
                return Err(Failure::Usage(error.to_string()));
            }
            Ok(Err(error)) => failed = anyhow!("{}: {error}", auth.name),
            Err(error) => {
                failed = anyhow::Error::from(error).context("is the cluster running?");
            }
        }
    }
    Err(failed)
        .context("no authenticator of this machine did it")
        .map_err(Failure::from)
}
