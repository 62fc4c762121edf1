//! A steady load, as people make it: commands one after another, each as a program of its own makes
//! it (it finds a Main, asks, and ends) or as the prompt does (it stays connected).

use super::{
    films::{self, Showing},
    people::People,
    tally::Tally,
};
use client_cli::client::Client;
use client_cli::error::Error;
use iceflix_core::api::{MediaId, auth::AuthenticatorClient, auth::Role, catalog::Query};
use std::{
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{
    task::LocalSet,
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

/// How often each thing is asked for.
const LOGINS: Duration = Duration::from_millis(300);
const SEARCHES: Duration = Duration::from_millis(100);
const TAGS: Duration = Duration::from_millis(100);
const WHOIS: Duration = Duration::from_millis(150);
const USERS: Duration = Duration::from_millis(1500);

/// How many tags one user writes: a catalogue takes 1000 of one user on one film.
const TAGS_OF_ONE: u32 = 900;

/// How long films may take to begin.
const BEGINNING: Duration = Duration::from_secs(20);

/// What a load is to be.
#[derive(Clone)]
pub struct Wanted {
    /// Who makes it.
    pub people: People,
    /// A user of its own, who logs in and tags.
    pub user: String,
    /// The films, whose names searches must find; the first is tagged.
    pub films: Vec<(&'static str, MediaId)>,
    /// Those that play, and where they begin.
    pub showings: Vec<Showing>,
}

/// A load on a thread of its own, so that nothing that makes a fault holds it up.
pub struct Load {
    /// What becomes of its commands.
    pub tally: Arc<Tally>,
    cancel: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    /// Begins, and returns when the films play.
    ///
    /// # Errors
    /// When they do not.
    pub async fn start(wanted: Wanted) -> anyhow::Result<Self> {
        let tally = Arc::new(Tally::default());
        let cancel = CancellationToken::new();
        let playing = wanted.showings.len();
        let thread = {
            let (tally, cancel) = (Arc::clone(&tally), cancel.clone());
            std::thread::spawn(move || run(wanted, tally, cancel))
        };
        let load = Self {
            tally,
            cancel,
            thread: Some(thread),
        };
        let start = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let counted = load.tally.counted().clone();
            let mut films = counted.films.iter();
            if let Some((name, film)) = films.find(|(_, film)| film.ended.is_some()) {
                anyhow::bail!("{name} does not play: {film:?}");
            }
            let begun = |film: &super::tally::Film| film.played.is_some();
            if counted.films.values().filter(|film| begun(film)).count() >= playing {
                break;
            }
            anyhow::ensure!(
                start.elapsed() < BEGINNING,
                "no film: {:?}, and commands failed: {:?}",
                counted.films,
                counted.errors
            );
        }
        // What it took to begin is not the fault's.
        for film in load.tally.counted().films.values_mut() {
            film.stalled = Duration::ZERO;
        }
        Ok(load)
    }

    /// Ends it when the commands in hand have ended.
    ///
    /// # Errors
    /// When it had failed altogether.
    pub fn stop(mut self) -> anyhow::Result<Arc<Tally>> {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let done = thread.join();
            done.map_err(|_| anyhow::anyhow!("the load broke off"))??;
        }
        Ok(Arc::clone(&self.tally))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn run(wanted: Wanted, tally: Arc<Tally>, cancel: CancellationToken) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let person = wanted.people.client(&wanted.user).await?;
        person.login(&wanted.user, &password(&wanted.user)).await?;
        let admin = wanted.people.client("admin").await?;
        let part = Rc::new(Part {
            wanted,
            tally,
            person,
            admin,
            cancel,
        });
        let mut tasks = vec![
            tokio::task::spawn_local(Rc::clone(&part).logins()),
            tokio::task::spawn_local(Rc::clone(&part).searches()),
            tokio::task::spawn_local(Rc::clone(&part).tags()),
            tokio::task::spawn_local(Rc::clone(&part).whois()),
            tokio::task::spawn_local(Rc::clone(&part).users()),
        ];
        for showing in &part.wanted.showings {
            let (client, tally) = (part.person.clone(), Arc::clone(&part.tally));
            let playing = films::play(client, *showing, tally, part.cancel.clone());
            tasks.push(tokio::task::spawn_local(playing));
        }
        for task in tasks {
            task.await?;
        }
        Ok(())
    })
}

/// The password of a load's user.
pub fn password(user: &str) -> String {
    format!("password of {user}")
}

struct Part {
    wanted: Wanted,
    tally: Arc<Tally>,
    person: Client,
    admin: Client,
    cancel: CancellationToken,
}

impl Part {
    /// Waits for the next time, or for the end.
    async fn next(&self, pace: &mut Interval) -> bool {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => false,
            _ = pace.tick() => true,
        }
    }

    async fn logins(self: Rc<Self>) {
        let (people, user) = (&self.wanted.people, &self.wanted.user);
        let mut pace = every(LOGINS);
        while self.next(&mut pace).await {
            let home = format!("{user}-logins");
            let login = async {
                people
                    .client(&home)
                    .await?
                    .login(user, &password(user))
                    .await
            };
            if self.tally.command("login", login).await.is_some() {
                let logout = async { people.client(&home).await?.logout().await };
                let ended = self.tally.command("logout", logout).await;
                if let Some(session) = ended.flatten() {
                    self.tally.counted().ends(session);
                }
            }
        }
    }

    async fn searches(self: Rc<Self>) {
        let user = &self.wanted.user;
        let mut pace = every(SEARCHES);
        let mut number = 0;
        while self.next(&mut pace).await {
            number += 1;
            let search = async {
                let client = match number % 2 {
                    0 => self.person.clone(),
                    _ => self.wanted.people.client(user).await?,
                };
                let found = client.search(&Query::default(), None).await?;
                let mut shown = true;
                for (name, id) in &self.wanted.films {
                    let Some(tile) = found.tiles.iter().find(|tile| tile.id == *id) else {
                        return Err(Error::NotFound(format!("{name} was not found")));
                    };
                    shown &= tile.available;
                }
                Ok::<_, Error>(shown)
            };
            let shown = self.tally.command("search", search).await;
            if shown == Some(false) {
                let at = self.tally.begun().elapsed();
                self.tally.counted().hidden.push(at);
            }
        }
    }

    async fn tags(self: Rc<Self>) {
        let Some((_, id)) = self.wanted.films.first() else {
            return;
        };
        let mut pace = every(TAGS);
        let (mut user, mut writer) = (self.wanted.user.clone(), self.person.clone());
        let mut number = 0;
        while self.next(&mut pace).await {
            number += 1;
            if number % TAGS_OF_ONE == 0 {
                let next = self.another_writer(number / TAGS_OF_ONE);
                if let Some(next) = self.tally.command("new writer", next).await {
                    (user, writer) = next;
                }
            }
            let tag = format!("t{number}");
            let words = [tag.clone()];
            let add = writer.add_tags(*id, &words);
            if self.tally.command("tag", add).await.is_some() {
                self.tally.counted().tags.push((user.clone(), tag));
            }
        }
    }

    /// Somebody who has not tagged anything yet.
    async fn another_writer(&self, number: u32) -> Result<(String, Client), Error> {
        let user = format!("{}-writer-{number}", self.wanted.user);
        self.admin
            .add_user(&user, &password(&user), Role::User)
            .await?;
        let client = self.wanted.people.client(&user).await?;
        client.login(&user, &password(&user)).await?;
        Ok((user, client))
    }

    async fn whois(self: Rc<Self>) {
        let mut pace = every(WHOIS);
        while self.next(&mut pace).await {
            let whois = self.person.authorised(|token| {
                let ask = move |auth: AuthenticatorClient, context| {
                    let token = token.clone();
                    async move { auth.whois(context, token).await }
                };
                self.person.caller().call(ask)
            });
            let told = async {
                match whois.await? {
                    who if who == self.wanted.user => Ok(()),
                    who => Err(Error::Failed(format!("it is said to be {who}"))),
                }
            };
            Box::pin(self.tally.command("whois", told)).await;
        }
    }

    async fn users(self: Rc<Self>) {
        let mut pace = every(USERS);
        let mut number = 0;
        while self.next(&mut pace).await {
            number += 1;
            let name = format!("{}-{number}", self.wanted.user);
            let add = self.admin.add_user(&name, "a long password", Role::User);
            if self.tally.command("user add", add).await.is_some() {
                self.tally.counted().users.push(name);
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut pace = tokio::time::interval(period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
