//! Cables, a switch, and packets that are lost.

use super::{
    load::password,
    oracles::tile_at,
    round::{ASKED, HEALING, Round},
    world::ODD,
};
use crate::person::Told;
use anyhow::{Context as _, ensure};
use client_cli::client::Client;
use iceflix_core::api::{
    Kind, SessionId,
    auth::{AuthError, AuthenticatorClient, Role},
};
use iceflix_core::trust::{SessionKey, password::prehash};
use std::{
    collections::BTreeSet,
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

/// How long a machine is away.
const AWAY: Duration = Duration::from_secs(8);

/// How long it is waited until a machine that is away is missed.
const NOTICED: Duration = Duration::from_secs(5);

/// How long both sides of a split have to know who is left.
const SETTLED: Duration = Duration::from_secs(3);

/// A machine's cable out, and in again.
pub async fn cable(round: &mut Round<'_>) -> anyhow::Result<()> {
    let gone = round.world.at_machine(ODD)?;
    let begun = Instant::now();
    round.world.lan.cable(ODD, false);
    round.made(begun, &gone, &[ODD]);
    away(round).await;
    round.world.lan.cable(ODD, true);
    round.over();
    Ok(())
}

/// A machine's cable out and in, out and in.
pub async fn flapping(round: &mut Round<'_>) -> anyhow::Result<()> {
    // Each time it is away for less than makes it count as gone, but one time may join the next.
    let there = round.world.at_machine(ODD)?;
    round.may_miss(&there, &[ODD]);
    for _ in 0..12 {
        round.world.lan.cable(ODD, false);
        tokio::time::sleep(Duration::from_millis(650)).await;
        round.world.lan.cable(ODD, true);
        tokio::time::sleep(Duration::from_millis(650)).await;
    }
    round.over();
    Ok(())
}

/// What a machine sends to these others is lost, silently.
pub async fn silence(round: &mut Round<'_>, to: &[u32]) -> anyhow::Result<()> {
    let gone = round.world.at_machine(ODD)?;
    let begun = Instant::now();
    for to in to {
        round.world.lan.silence(ODD, *to, true);
    }
    // Those who still hear it list it, rightly.
    let hearing = (1..=3).filter(|machine| !to.contains(machine));
    let hearing: Vec<u32> = hearing.collect();
    match to {
        [other] => {
            // Between these two nothing is sure; who hears both has nobody to miss.
            round.made(begun, &[], &[ODD, *other]);
            tokio::time::sleep(AWAY).await;
        }
        _ => {
            round.made(begun, &gone, &hearing);
            away(round).await;
        }
    }
    for to in to {
        round.world.lan.silence(ODD, *to, false);
    }
    round.over();
    Ok(())
}

async fn away(round: &mut Round<'_>) {
    tokio::join!(round.noticed(NOTICED), tokio::time::sleep(AWAY));
}

/// One machine apart from the other two, with people on both sides who change the same things.
pub async fn split(round: &mut Round<'_>) -> anyhow::Result<()> {
    let people = Sides::prepare(round).await?;
    let gone = round.world.at_machine(ODD)?;
    let begun = Instant::now();
    round.world.lan.port(ODD, false);
    round.made(begun, &gone, &[ODD]);
    let changed = match round.noticed(NOTICED).await {
        true => people.change(round).await,
        false => Err(anyhow::anyhow!("it was not missed")),
    };
    round.world.lan.port(ODD, true);
    round.over();
    changed?;
    round.world.whole(HEALING).await?;
    people.agree(round).await
}

/// Administrators on both sides of a split, and what they change.
struct Sides {
    /// Who is disabled by one, and made an admin by the other.
    user: String,
    /// Their session from before.
    session: Client,
    /// The name that the film has afterwards, and had before.
    later: String,
    before: &'static str,
}

impl Sides {
    async fn prepare(round: &Round<'_>) -> anyhow::Result<Self> {
        let session = round.newcomer("split").await?;
        let user = format!("{}-split", round.user);
        let machine = round.world.machine(ODD);
        let mut login = machine.command(&["login", "admin", "--password-stdin"]);
        let mut login = login.stdin(Stdio::piped()).spawn()?;
        let mut input = login.stdin.take().context("no standard input")?;
        writeln!(input, "{}", round.world.password())?;
        drop(input);
        done(crate::person::told(login))?;
        let (before, _) = *round.world.films.last().context("there are no films")?;
        Ok(Self {
            later: format!("{before}, renamed"),
            before,
            session,
            user,
        })
    }

    /// Both sides change the same things, the smaller one after the greater one.
    async fn change(&self, round: &Round<'_>) -> anyhow::Result<()> {
        tokio::time::sleep(SETTLED).await;
        let admin = &round.world.admin;
        let (_, id) = *round.world.films.last().context("there are no films")?;
        let film = id.to_string();
        admin.rename(id, "renamed first").await?;
        admin
            .add_tags(id, &["greater".to_owned(), "both".to_owned()])
            .await?;
        admin.disable_user(&self.user).await?;
        let apart = round.world.machine(ODD);
        let there = |words: &[&str]| {
            let told = done(apart.types(words));
            told.with_context(|| format!("apart, `iceflix {}`", words.join(" ")))
        };
        there(&["rename", &film, &self.later])?;
        there(&["tag", "add", &film, "smaller", "both"])?;
        there(&["tag", "remove", &film, "both"])?;
        there(&["user", "role", &self.user, "admin"])
    }

    /// Every instance has what both did, and the later of what cannot both be.
    async fn agree(&self, round: &mut Round<'_>) -> anyhow::Result<()> {
        let (_, id) = *round.world.films.last().context("there are no films")?;
        let instances = round.world.instances.clone();
        let admin = &round.world.admin;
        for ((kind, name), at) in &instances {
            if *kind == Kind::Catalog {
                let tile = tile_at(admin, *at, id).await?;
                round.check(tile.name == self.later, || {
                    format!("at {name} the film is called {:?}", tile.name)
                });
                let tags: BTreeSet<&str> = tile.tags.iter().map(String::as_str).collect();
                round.check(tags == ["greater", "smaller"].into(), || {
                    format!("at {name} the tags are {tags:?}")
                });
            }
            if *kind == Kind::Auth {
                let answer = self.logs_in(*at).await?;
                round.check(answer == Err(AuthError::Disabled), || {
                    format!("{name} lets in a user who was disabled: {answer:?}")
                });
            }
        }
        let renewed = self.session.fresh_token().await;
        round.check(renewed.is_err(), || {
            "a disabled user's session goes on".into()
        });
        admin.rename(id, self.before).await?;
        let tags = ["greater", "smaller"].map(str::to_owned);
        admin.remove_tags(id, &tags).await?;
        Ok(())
    }

    async fn logs_in(&self, at: std::net::SocketAddr) -> anyhow::Result<Result<Role, AuthError>> {
        let key = SessionKey::generate()?;
        let (id, public) = (SessionId::random(), key.public());
        let ask = |stub: AuthenticatorClient, context| {
            let (name, hash) = (
                self.user.clone(),
                prehash(&self.user, &password(&self.user)),
            );
            async move { stub.login(context, name, hash, id, public).await }
        };
        let answer = self.session.caller().call_at(at, ASKED, ask).await?;
        Ok(answer.map(|login| login.role))
    }
}

fn done(told: Told) -> anyhow::Result<()> {
    ensure!(told.code == 0, "{told:?}");
    Ok(())
}
