//! One fault: a load before, during and after it, and what is asked of the cluster about it.

use super::{
    Fault,
    latency::{Latency, Phases},
    leaks::{Calm, Processes, nothing_left},
    load::{Load, Wanted, password},
    oracles::{equal_rows, lost, revived},
    report::Line,
    tally::{Counted, Film},
    watch::Life,
    world::World,
};
use client_cli::client::Client;
use iceflix_core::api::{Instance, InstanceId, auth::Role};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How long the load runs when the cluster is whole again.
const AFTER: Duration = Duration::from_millis(1500);

/// How long the cluster may take to be whole after a fault is over.
pub const HEALING: Duration = Duration::from_secs(60);

/// How long an instance that is asked directly may take.
pub const ASKED: Duration = Duration::from_secs(3);

/// The longest time in which a film that the fault does not touch may stand still.
const STALL: Duration = Duration::from_secs(2);

/// The longest time in which one may whose node it hits: then it goes on elsewhere.
const MOVED: Duration = Duration::from_secs(3);

/// What happens in a round. Whoever makes the fault writes it down here.
pub struct Round<'w> {
    /// Where it happens.
    pub world: &'w World,
    /// The load's user.
    pub user: String,
    /// What was done that makes instances vanish.
    made: Vec<Made>,
    /// When others may vanish, too: what follows only makes things as they were.
    tidied: Option<Instant>,
    /// When the fault was over, and the cluster could begin to be whole again.
    healed: Option<Instant>,
    /// How long that took, when it is known already.
    whole: Option<Duration>,
    /// What was found to be wrong.
    failures: Vec<String>,
    /// What took too long.
    late: Vec<String>,
    /// What all held afterwards, when some held more than before.
    grown: Option<Processes>,
    /// What else is worth saying.
    notes: Vec<String>,
}

/// Something that makes instances vanish.
struct Made {
    /// Shortly before it was done.
    at: Instant,
    /// Which.
    gone: Vec<Life>,
    /// They have to.
    surely: bool,
    /// The machines whose Mains may say of all this what they like.
    but: Vec<u32>,
    /// Who was alive then.
    before: Vec<Life>,
}

impl Round<'_> {
    /// The fault was made: these instances should be missed now by all Mains but those at these
    /// machines, and no others. `since` is before it was made: a Main may say so before who made it
    /// comes to write it down.
    pub fn made(&mut self, since: Instant, gone: &[Instance], machines: &[u32]) {
        self.makes(since, gone, machines, true);
    }

    /// A fault is about to be made: these instances may be missed or not, and no others.
    pub fn may_miss(&mut self, gone: &[Instance], machines: &[u32]) {
        self.makes(Instant::now(), gone, machines, false);
    }

    fn makes(&mut self, since: Instant, gone: &[Instance], machines: &[u32], surely: bool) {
        let lives = gone.iter().map(|it| (it.instance.clone(), it.pid));
        self.made.push(Made {
            at: since,
            gone: lives.collect(),
            surely,
            but: machines.to_vec(),
            before: self.world.lives().into_iter().collect(),
        });
    }

    /// From now on instances may vanish that the fault did not touch.
    pub fn tidying(&mut self) {
        self.tidied = Some(Instant::now());
    }

    /// The fault is over: from now on it counts how long the cluster takes.
    pub fn over(&mut self) {
        self.over_since(Instant::now());
    }

    /// The same, since some time ago.
    pub fn over_since(&mut self, healed: Instant) {
        self.healed = Some(healed);
    }

    /// The cluster is whole again, before what follows.
    pub fn healed_by_now(&mut self) {
        self.whole = self.healed.map(|healed| healed.elapsed());
    }

    /// Some of these hold more memory than before.
    pub fn have_grown(&mut self, processes: Processes) {
        self.grown = Some(processes);
    }

    /// Something is not as it should be.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    /// Fails unless it is so.
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }

    /// The same where it may be the machine that was busy.
    pub fn in_time(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.late.push(what());
        }
    }

    /// Something to know.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Waits until the Mains elsewhere miss what [`Round::made`] said, so long at most; whether they
    /// do.
    pub async fn noticed(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if self.detection().is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// How long the last Main took to miss what had to be missed, each from its own end on.
    fn detection(&self) -> Option<Duration> {
        let made = self.made.iter();
        let made = made.filter(|made| made.surely && !made.gone.is_empty());
        let each = made.map(|made| {
            let mains = self.world.mains(&made.but);
            self.world.watch.gone(made.at, &made.gone, &mains)
        });
        let each: Option<Vec<Duration>> = each.collect();
        each?.into_iter().max()
    }

    /// Instances that the fault did not touch and that were missed all the same.
    fn missed(&self) -> BTreeSet<InstanceId> {
        let until = self.tidied.unwrap_or_else(Instant::now);
        let gone: BTreeSet<&Life> = self.made.iter().flat_map(|made| &made.gone).collect();
        let missed = self.made.iter().flat_map(|made| {
            let others = made.before.iter().filter(|life| !gone.contains(life));
            let others: Vec<Life> = others.cloned().collect();
            let mains = self.world.mains(&made.but);
            self.world.watch.missed(made.at..until, &others, &mains)
        });
        missed.collect()
    }

    /// Whether what people saw is as it should be. `begun` is when the fault was, counted as what
    /// they saw is.
    fn judge(&mut self, fault: &Fault, counted: &Counted, begun: Duration) {
        let after = |at: Duration| at.as_secs_f64() - begun.as_secs_f64();
        for (at, command, error) in counted.errors.iter().take(3) {
            self.fail(format!("{command} at {:.1} s: {error}", after(*at)));
        }
        if let (Some(first), Some(last)) = (counted.hidden.first(), counted.hidden.last()) {
            let (times, first, last) = (counted.hidden.len(), after(*first), after(*last));
            self.fail(format!(
                "{times} searches, from {first:.1} s to {last:.1} s, showed a film as not available that \
                 live nodes have"
            ));
        }
        for (name, film) in &counted.films {
            self.judge_film(name, film);
        }
        let missed = self.missed();
        self.in_time(missed.is_empty(), || {
            format!("missed without a reason: {missed:?}")
        });
        let detected = self.detection();
        if let Some(most) = fault.noticed {
            self.in_time(
                detected.is_some_and(|time| time <= most),
                || match detected {
                    Some(time) => format!("it was missed only after {time:.2?}"),
                    None => "it was not missed".to_owned(),
                },
            );
        }
    }

    /// Whether a film played as it should have.
    fn judge_film(&mut self, name: &str, film: &Film) {
        if let Some(ended) = &film.ended {
            self.fail(format!("{name} ended: {ended}"));
        }
        let (stalled, most) = (film.stalled, if film.hit { MOVED } else { STALL });
        self.in_time(stalled < most, || {
            format!("{name} stood still for {stalled:.1?}")
        });
        for (before, after) in film.jumps.iter().take(3) {
            self.in_time(false, || {
                format!("{name} was at {before:.1?}, and then at {after:.1?}")
            });
        }
        if film.moves > 0 {
            let times = film.moves;
            self.note(format!("{name} went on at another node, {times} times"));
        }
    }

    /// A person who was just added, and is logged in.
    ///
    /// # Errors
    /// When that fails.
    pub async fn newcomer(&self, name: &str) -> anyhow::Result<Client> {
        let name = format!("{}-{name}", self.user);
        self.world
            .admin
            .add_user(&name, &password(&name), Role::User)
            .await?;
        let client = self.world.people.client(&name).await?;
        client.login(&name, &password(&name)).await?;
        Ok(client)
    }
}

/// Makes a fault under load, after a time without, and says what became of it.
///
/// # Errors
/// When the round could not be carried out; what a fault did is in the line.
pub async fn perform(
    world: &World,
    fault: &Fault,
    before: Duration,
    number: usize,
) -> anyhow::Result<Line> {
    let prepared = super::prepare(fault.what, world).await;
    world.whole(HEALING).await?;
    world.all_provided(HEALING).await?;
    let calm = match super::storm_of(fault) {
        Some(_) => Some(Calm::before(world).await?),
        None => None,
    };
    let user = format!("p{number}");
    world
        .admin
        .add_user(&user, &password(&user), Role::User)
        .await?;
    let wanted = Wanted {
        people: world.people.clone(),
        user: user.clone(),
        films: world.films.clone(),
        showings: world.showings(fault.hits)?,
    };
    let load = Load::start(wanted.clone()).await?;
    let calm_since = Instant::now();
    tokio::time::sleep(before).await;
    let mut round = Round {
        world,
        user: user.clone(),
        made: Vec::new(),
        tidied: None,
        healed: None,
        whole: None,
        failures: Vec::new(),
        late: Vec::new(),
        grown: None,
        notes: Vec::new(),
    };
    let begun = Instant::now();
    let made = match prepared {
        Ok(()) => super::make(fault.what, &mut round).await,
        failed => failed,
    };
    // What was only tried tells nothing of what the fault does.
    let made_at = match &made {
        Ok(()) => Some(round.made.first().map_or(begun, |made| made.at)),
        Err(_) => round.made.first().map(|made| made.at),
    };
    if let Err(error) = made {
        round.fail(format!("the fault could not be made: {error:#}"));
    }
    let healed = round.healed.unwrap_or(begun);
    let whole = world.whole(HEALING).await;
    let took = round.whole.unwrap_or_else(|| healed.elapsed());
    // The films of a node that was started again take a little longer.
    let whole = match whole {
        Ok(()) => world.all_provided(HEALING).await,
        wanting => wanting,
    };
    let whole = match whole {
        Ok(()) => Some(took),
        Err(error) => {
            round.fail(format!(
                "not whole after {} s: {error:#}",
                HEALING.as_secs()
            ));
            None
        }
    };
    let whole_at = whole.map_or_else(Instant::now, |took| healed + took);
    tokio::time::sleep(AFTER).await;
    let tally = load.stop()?;
    let counted = tally.counted().clone();
    let equal = equal_rows(&mut round).await;
    let mut lost = lost(&mut round, &counted.tags, &counted.users).await;
    lost += revived(&mut round, counted.ended.kept()).await;
    if let Some(calm) = &calm
        && let Err(error) = nothing_left(&mut round, calm).await
    {
        round.fail(format!("it cannot be told what is left: {error:#}"));
    }
    if let Some(grown) = round.grown.take()
        && let Err(error) = super::storm::beside_new(&mut round, &grown, wanted).await
    {
        round.fail(format!(
            "it cannot be told whether memory was lost: {error:#}"
        ));
    }
    round.judge(fault, &counted, begun - tally.begun());
    let since_begun = |at: Instant| at.saturating_duration_since(tally.begun());
    let latency = made_at.map(|at| {
        let phases = Phases {
            calm: since_begun(calm_since),
            made: since_begun(at),
            whole: since_begun(whole_at),
        };
        Latency::of(&counted.calls, &phases)
    });
    let stalled = |hit: bool| {
        let films = counted.films.values().filter(|film| film.hit == hit);
        films.map(|film| film.stalled).max()
    };
    Ok(Line {
        fault: fault.name.to_owned(),
        commands: counted.count(),
        errors: counted.errors.len(),
        hidden: counted.hidden.len(),
        acknowledged: counted.tags.len() + counted.users.len() + counted.ended.kept().len(),
        lost,
        whole,
        equal,
        detected: round.detection(),
        longest: counted.longest(),
        latency,
        stalled: stalled(false),
        stalled_hit: stalled(true),
        moves: counted.films.values().map(|film| film.moves).sum(),
        took: begun.elapsed(),
        failures: round.failures,
        late: round.late,
        notes: round.notes,
    })
}
