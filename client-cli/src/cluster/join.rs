//! Taking up an invitation: a machine joins a cluster.

use super::{
    Failure,
    joining::{Joining, Wanted},
    plan::{self, Joined, Record},
    ports::Ports,
    settings::Settings,
    state::{Belonging, State},
    tell::say,
};
use anyhow::{Context, anyhow};
use iceflix_core::{
    api::{
        Fingerprint, InstanceId, Kind,
        auth::{AuthError, AuthenticatorClient, CertificateRequest, Welcome},
    },
    files,
    renewal::Contacts,
    rpc::{AttemptError, CallError, Caller, Security},
    trust::{Authority, Credential, Invitation, invitation::InvitationSecret},
};
use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

/// How long the authenticator may take to answer, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

/// What a machine's invitation says of the cluster that it is for.
struct Inviting<'a> {
    cluster: &'a InstanceId,
    issuer: SocketAddr,
    fingerprint: Fingerprint,
}

/// Takes up an invitation. Certificates that are there already are kept. Afterwards the state's
/// record is of a machine that was let in.
pub async fn join(settings: &Settings, invitation: &Invitation) -> Result<(), Failure> {
    let Invitation::Machine {
        cluster,
        roles,
        issuer,
        fingerprint,
        secret,
    } = invitation
    else {
        return Err(Failure::Usage(
            "that line is for a client, not for a machine: `iceflix cluster join LINE` takes it; for a \
             machine it takes one of `iceflix cluster invite --role ROLE`"
                .into(),
        ));
    };
    let inviting = Inviting {
        cluster,
        issuer: *issuer,
        fingerprint: *fingerprint,
    };
    // It is good once: without films it would be used up for the other roles, or for nothing.
    if roles.contains(&Kind::Streaming) && settings.media.is_empty() {
        return Err(Failure::Usage(
            "the invitation is for a streaming service, and no films were given: give MEDIA=DIR \
             (--media DIR). It was not used"
                .into(),
        ));
    }
    let state = &settings.state;
    state.create()?;
    let Some(_lock) = state.lock()? else {
        return Err(Failure::Usage(format!(
            "the cluster of {} is running; stop it before this machine joins another or gets more services",
            state.dir().display()
        )));
    };
    let joining = match Joining::load(state, secret)? {
        Some(begun) => begun,
        None => {
            let record = record(state, &inviting)?;
            let (record, wanted) = plan(settings, record, roles, &inviting).await?;
            if wanted.is_empty() {
                settings.write_record(&record)?;
                say(
                    "Every service of this machine has its certificate; the invitation was not used.",
                );
                return Ok(());
            }
            Joining::new(secret, record, wanted)
        }
    };
    joining.save(state)?;
    let requests: Vec<CertificateRequest> = joining
        .wanted
        .iter()
        .map(Wanted::request)
        .collect::<anyhow::Result<_>>()?;
    let welcome = redeem(&inviting, secret, &requests).await?;
    keep(settings, joining, &welcome, &inviting)?;
    Ok(())
}

/// The record to add to, if this state directory is of no other cluster.
fn record(state: &State, inviting: &Inviting<'_>) -> Result<Record, Failure> {
    let first = || {
        Failure::Usage(format!(
            "{} is of the cluster's first machine, which need not join; choose another STATE",
            state.dir().display()
        ))
    };
    let record = match (state.known_record()?, state.belonging()?) {
        (Some(record), _) if record.joined.is_none() => return Err(first()),
        (Some(record), _) => record,
        (None, Belonging::First(_)) => return Err(first()),
        // Its record is lost.
        (None, Belonging::Joined(cluster)) => Record::new(cluster),
        (None, Belonging::None) => Record::new(inviting.cluster.to_string()),
    };
    let wanted = inviting.cluster.as_str();
    if record.cluster != wanted {
        return Err(Failure::Usage(state.other_cluster(&record.cluster, wanted)));
    }
    let mut known = state.credentials()?.into_iter();
    if known.any(|credential| credential.fingerprint() != inviting.fingerprint) {
        return Err(Failure::Usage(format!(
            "{} belongs to another cluster that is called {wanted:?} as well; choose another STATE for \
             this one",
            state.dir().display()
        )));
    }
    Ok(record)
}

/// Decides which instances this machine has, and which of them are to get a certificate.
async fn plan(
    settings: &Settings,
    mut record: Record,
    roles: &BTreeSet<Kind>,
    inviting: &Inviting<'_>,
) -> Result<(Record, Vec<Wanted>), Failure> {
    let earlier = record.joined.take();
    let mut all = roles.clone();
    all.extend(earlier.iter().flat_map(|joined| &joined.roles));
    if !settings.media.is_empty() && !all.contains(&Kind::Streaming) {
        return Err(Failure::Usage(
            "MEDIA was given, and the invitation is not for a streaming service; \
             `iceflix cluster invite --role streaming` makes one that is"
                .into(),
        ));
    }
    let (bus, mains) = earlier.map_or_else(Default::default, |joined| (joined.bus, joined.mains));
    record.joined = Some(Joined {
        roles: all.into_iter().collect(),
        issuer: inviting.issuer,
        bus,
        mains,
    });
    settings.keep_host(&mut record);
    let mut source = Ports::new(settings.host, &record);
    let chosen = plan::choose(
        &mut record,
        settings.instances,
        &settings.media,
        &mut source,
    )
    .with_context(|| format!("cannot find free ports on {}", settings.host))?;
    let mut wanted = Vec::new();
    let mut asker = Asker::new(inviting)?;
    for mut entry in chosen {
        let identity = settings.state.identity(&entry.name());
        // One that cannot be read is replaced.
        let known = Credential::load(&identity).ok();
        let own = known.filter(|known| entry.is_named_in(known));
        let good = match own {
            Some(own) => asker.renews(&own, &identity).await?,
            None => false,
        };
        if !good {
            // Whoever was expelled does not return under its name.
            plan::rename(&mut record, &mut entry, &mut source);
            wanted.push(Wanted::new(entry)?);
        }
    }
    Ok((record, wanted))
}

/// Finds out who was expelled.
struct Asker<'a> {
    inviting: &'a Inviting<'a>,
    caller: Caller,
    /// One that does not answer is not asked again.
    answers: bool,
}

impl<'a> Asker<'a> {
    fn new(inviting: &'a Inviting<'a>) -> anyhow::Result<Self> {
        Ok(Self {
            inviting,
            caller: Caller::by_address(Security::client(inviting.fingerprint)?),
            answers: true,
        })
    }

    /// Whether a credential is one to keep: everyone's is renewed, also when it is over, but that of
    /// an instance that was expelled. When nobody answers it is kept as it is.
    async fn renews(&mut self, own: &Credential, identity: &Path) -> anyhow::Result<bool> {
        if !self.answers {
            return Ok(true);
        }
        let request = own.request()?;
        let ask = |auth: AuthenticatorClient, context| {
            let (request, earlier) = (request.clone(), own.certificate_pem().to_owned());
            async move { auth.renew_certificate(context, request, earlier).await }
        };
        let asked = self.caller.call_at(self.inviting.issuer, PATIENCE, ask);
        match asked.await {
            Ok(Ok(pem)) => own.with_certificate(&pem)?.save(identity)?,
            Ok(Err(AuthError::Expelled)) => return Ok(false),
            Ok(Err(_)) => {}
            Err(_) => self.answers = false,
        }
        Ok(true)
    }
}

/// Keeps what the cluster gave: the record first, so that no certificate is for names that nobody
/// remembers.
fn keep(
    settings: &Settings,
    joining: Joining,
    welcome: &Welcome,
    inviting: &Inviting<'_>,
) -> anyhow::Result<()> {
    let Joining {
        mut record, wanted, ..
    } = joining;
    let mut credentials = Vec::new();
    for (wanted, pem) in wanted.iter().zip(&welcome.certificates) {
        let credential = wanted.credential(&welcome.authority, pem, inviting.fingerprint)?;
        credentials.push((wanted.entry.name(), credential));
    }
    let contacts = Contacts {
        instances: welcome.contacts.clone(),
    };
    if let Some(joined) = &mut record.joined {
        joined.bus.clone_from(&welcome.bus);
        let known = contacts.instances.iter();
        let mains = known.filter(|known| known.kind == Kind::Main);
        joined.mains = mains.map(|main| main.endpoint).collect();
    }
    settings.write_record(&record)?;
    for (name, credential) in &credentials {
        let identity = settings.state.identity(name);
        files::private_dir(&identity).context("cannot keep the certificate")?;
        if let (Kind::Auth, Some(key)) = (credential.name().kind, &welcome.authority_key) {
            let authority = Authority::from_pem(&welcome.authority, key);
            let authority = authority.context("the signing key that came is damaged")?;
            for dir in [&identity, &settings.state.authority()] {
                let kept = authority.save(dir);
                kept.context("cannot keep the signing key")?;
            }
        }
        let kept = contacts.save(&identity);
        kept.context("cannot write down where the cluster is")?;
        let kept = credential.save(&identity);
        kept.context("cannot keep the certificate")?;
    }
    Joining::done(&settings.state)?;
    let names: Vec<&str> = credentials.iter().map(|(name, _)| name.as_str()).collect();
    say(&format!(
        "This machine has joined the cluster {} with {}.",
        record.cluster,
        names.join(", ")
    ));
    Ok(())
}

/// Shows the secret to whoever has the fingerprint, and to nobody else.
async fn redeem(
    inviting: &Inviting<'_>,
    secret: &InvitationSecret,
    requests: &[CertificateRequest],
) -> anyhow::Result<Welcome> {
    let security = Security::client(inviting.fingerprint)?;
    let caller = Caller::by_address(security);
    let (mut tries, mut sent) = (TRIES, false);
    loop {
        tries -= 1;
        let asked = caller.call_at(
            inviting.issuer,
            PATIENCE,
            |auth: AuthenticatorClient, context| {
                let (secret, requests) = (secret.clone(), requests.to_vec());
                async move { auth.join(context, secret, requests).await }
            },
        );
        let asked = asked.await;
        // Only what went wrong after the certificate was seen and found right.
        let source = asked.as_ref().err();
        sent |= matches!(
            source,
            Some(CallError::Unreachable {
                source: AttemptError::Call(_),
                ..
            })
        );
        match asked {
            Ok(answer) => {
                let welcome = answer.map_err(|error: AuthError| anyhow!("{error}"))?;
                anyhow::ensure!(
                    welcome.certificates.len() == requests.len(),
                    "the authenticator at {} gave another number of certificates than asked for",
                    inviting.issuer
                );
                return Ok(welcome);
            }
            Err(_) if tries > 0 => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(error) if !sent => {
                return Err(anyhow!(
                    "the authenticator that made the invitation does not answer, or is not of the \
                     cluster whose fingerprint the line has, so its secret was not sent: {error}"
                ));
            }
            Err(error) => {
                return Err(anyhow!(
                    "the authenticator that made the invitation was asked and did not answer, so \
                     it may have been taken up: {error}. Try again with the same line"
                ));
            }
        }
    }
}
