//! Taking up an invitation: a machine that joins a cluster, or a client that gets to know one.

use super::{
    Failure,
    plan::{self, Joined},
    ports::Ports,
    services::{Service, write_toml},
    settings::Settings,
    tell::say,
};
use crate::config::Environment;
use anyhow::{Context, anyhow};
use iceflix_core::{
    api::{
        Fingerprint, InstanceId, Kind,
        auth::{AuthError, AuthenticatorClient, CertificateRequest, Welcome},
    },
    files,
    renewal::Contacts,
    rpc::{Caller, Security},
    trust::{Authority, Credential, Invitation, credentials::NewKey, invitation::InvitationSecret},
};
use serde::Serialize;
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

/// How long the authenticator may take to answer, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

/// A machine's invitation, taken apart.
struct Invited {
    cluster: InstanceId,
    roles: BTreeSet<Kind>,
    issuer: SocketAddr,
    fingerprint: Fingerprint,
    secret: InvitationSecret,
}

/// A client's configuration file.
#[derive(Serialize)]
struct ClientConfig {
    cluster: String,
    ca: String,
    mains: Vec<String>,
}

/// Takes up an invitation. Certificates that are there already are kept.
pub async fn join(settings: &Settings, invitation: &Invitation) -> Result<(), Failure> {
    match invitation.clone() {
        Invitation::Machine {
            cluster,
            roles,
            issuer,
            fingerprint,
            secret,
        } => {
            let invited = Invited {
                cluster,
                roles,
                issuer,
                fingerprint,
                secret,
            };
            machine(settings, invited).await
        }
        Invitation::Client { .. } => Err(Failure::Usage(
            "that line is for a client, not for a machine: `iceflix cluster join LINE` takes it; for a \
             machine it takes one of `iceflix cluster invite --role ROLE`"
                .into(),
        )),
    }
}

/// Writes down how a client finds and knows the cluster.
pub fn client(
    cluster: &InstanceId,
    mains: &[SocketAddr],
    fingerprint: Fingerprint,
) -> Result<(), Failure> {
    let path = Environment::of_process().client_config();
    let path: PathBuf = path.map_err(|error| Failure::Failed(anyhow!("{error}")))?;
    if let Some(dir) = path.parent() {
        files::private_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let config = ClientConfig {
        cluster: cluster.to_string(),
        ca: fingerprint.to_string(),
        mains: mains.iter().map(SocketAddr::to_string).collect(),
    };
    let comment = "Where the cluster is, and what it is known by.";
    write_toml(&path, comment, &config)?;
    say(&format!(
        "{} says now where the cluster {cluster} is. Next: iceflix login",
        path.display()
    ));
    Ok(())
}

async fn machine(settings: &Settings, invited: Invited) -> Result<(), Failure> {
    settings.state.create()?;
    let Some(_lock) = settings.state.lock()? else {
        return Err(Failure::Usage(format!(
            "the cluster of {} is running; stop it before this machine joins another or gets more services",
            settings.state.dir().display()
        )));
    };
    let mut record = settings.state.record(Some(invited.cluster.as_str()))?;
    if Authority::is_in(&settings.state.authority()) && record.joined.is_none() {
        return Err(Failure::Usage(format!(
            "{} is of the cluster's first machine, which need not join; choose another STATE",
            settings.state.dir().display()
        )));
    }
    let mut roles = invited.roles.clone();
    roles.extend(record.joined.iter().flat_map(|joined| &joined.roles));
    if !settings.media.is_empty() && !roles.contains(&Kind::Streaming) {
        return Err(Failure::Usage(
            "MEDIA was given, and the invitation is not for a streaming service; \
             `iceflix cluster invite --role streaming` makes one that is"
                .into(),
        ));
    }
    record.joined = Some(Joined {
        roles: roles.into_iter().collect(),
        issuer: invited.issuer,
        bus: Vec::new(),
        mains: Vec::new(),
    });
    let mut source = Ports::new(settings.host, &record);
    let chosen = plan::choose(
        &mut record,
        settings.instances,
        &settings.media,
        &mut source,
    )
    .with_context(|| format!("cannot find free ports on {}", settings.host))?;
    let services: Vec<Service> = chosen
        .into_iter()
        .map(|entry| settings.service(entry))
        .collect();
    let lack: Vec<&Service> = services
        .iter()
        .filter(|service| !Credential::is_in(&service.identity))
        .collect();
    if lack.is_empty() {
        say("Every service of this machine has its certificate; the invitation was not used.");
        return Ok(());
    }
    let (keys, requests) = requests(&lack)?;
    let welcome = redeem(&invited, &requests).await?;
    let contacts = Contacts {
        instances: welcome.contacts.clone(),
    };
    for ((service, key), pem) in lack.iter().zip(&keys).zip(&welcome.certificates) {
        let credential = key
            .credential(&welcome.authority, pem)
            .context("the certificate that came is not for this machine")?;
        if credential.fingerprint() != invited.fingerprint {
            return Err(anyhow!("the certificate that came is of another cluster").into());
        }
        files::private_dir(&service.identity).context("cannot keep the certificate")?;
        if let (Kind::Auth, Some(key)) = (service.entry.kind, &welcome.authority_key) {
            let authority = Authority::from_pem(&welcome.authority, key);
            let authority = authority.context("the signing key that came is damaged")?;
            authority
                .save(&service.identity)
                .context("cannot keep the signing key")?;
            authority
                .save(&settings.state.authority())
                .context("cannot keep the signing key")?;
        }
        contacts
            .save(&service.identity)
            .context("cannot write down where the cluster is")?;
        credential
            .save(&service.identity)
            .context("cannot keep the certificate")?;
    }
    if let Some(joined) = &mut record.joined {
        joined.bus = welcome.bus;
        let known = contacts.instances.iter();
        let mains = known.filter(|known| known.kind == Kind::Main);
        joined.mains = mains.map(|main| main.endpoint).collect();
    }
    settings.write_record(&record)?;
    let names: Vec<&str> = lack.iter().map(|service| service.name.as_str()).collect();
    say(&format!(
        "This machine has joined the cluster {} with {}.",
        record.cluster,
        names.join(", ")
    ));
    Ok(())
}

fn requests(lack: &[&Service]) -> anyhow::Result<(Vec<NewKey>, Vec<CertificateRequest>)> {
    let mut keys = Vec::new();
    let mut requests = Vec::new();
    for service in lack {
        let key = NewKey::generate().context("cannot make a key")?;
        requests.push(CertificateRequest {
            kind: service.entry.kind,
            instance: service.entry.instance.parse()?,
            request: key.request().context("cannot ask for a certificate")?,
        });
        keys.push(key);
    }
    Ok((keys, requests))
}

/// Shows the secret to whoever has the fingerprint, and to nobody else.
async fn redeem(invited: &Invited, requests: &[CertificateRequest]) -> anyhow::Result<Welcome> {
    let security = Security::client(invited.fingerprint)?;
    let caller = Caller::by_address(security);
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let asked = caller.call_at(
            invited.issuer,
            PATIENCE,
            |auth: AuthenticatorClient, context| {
                let (secret, requests) = (invited.secret.clone(), requests.to_vec());
                async move { auth.join(context, secret, requests).await }
            },
        );
        match asked.await {
            Ok(answer) => {
                let welcome = answer.map_err(|error: AuthError| anyhow!("{error}"))?;
                anyhow::ensure!(
                    welcome.certificates.len() == requests.len(),
                    "the authenticator at {} gave another number of certificates than asked for",
                    invited.issuer
                );
                return Ok(welcome);
            }
            Err(_) if tries > 0 => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(error) => {
                return Err(anyhow!(
                    "the authenticator that made the invitation does not answer, or is not of the \
                     cluster whose fingerprint the line has, so its secret was not sent: {error}"
                ));
            }
        }
    }
}
