//! A Main that stands still while others die, and what it says of them when it goes on.

use super::{
    processes::signal,
    round::Round,
    stops::{AFTER, SHORT, WHERE, ZOMBIE},
    watch::{Life, lives},
};
use anyhow::{Context as _, ensure};
use client_cli::client::Client;
use iceflix_core::api::{Instance, Kind, main::MainClient};
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use std::time::{Duration, Instant};

/// The machine whose catalogue dies meanwhile.
const ELSEWHERE: u32 = 1;

/// How long after the Main stopped that is.
const SOON: Duration = Duration::from_millis(50);

/// A Main stands still and goes on. Meanwhile a catalogue is killed, and started again as another
/// process: the one that is dead it must not name, neither to who waited for it nor later.
pub async fn stands_still(round: &mut Round<'_>, time: Duration) -> anyhow::Result<()> {
    let main = round.world.instance(WHERE, Kind::Main)?;
    let dead = round.world.instance(ELSEWHERE, Kind::Catalog)?;
    let stopped = Instant::now();
    signal(main.pid, SIGSTOP)?;
    // It counts as gone when nothing was heard of it for a second.
    let gone = (time > SHORT).then(|| main.clone());
    round.made(stopped, gone.as_slice(), &[WHERE]);
    tokio::time::sleep(SOON).await;
    let died = Instant::now();
    let killed = signal(dead.pid, SIGKILL);
    round.made(died, std::slice::from_ref(&dead), &[WHERE]);
    let wakes = async {
        tokio::time::sleep(time.saturating_sub(stopped.elapsed())).await;
        (signal(main.pid, SIGCONT), Instant::now())
    };
    let asks = answers(&round.world.admin, &main, time);
    let (mut answers, (woken, went_on)) = tokio::join!(asks, wakes);
    // It was asked on for a while.
    round.over_since(went_on);
    killed.context("the catalogue had ended")?;
    woken?;
    round.noticed(AFTER).await;
    while answers.iter().all(|(at, _)| *at < went_on) {
        ensure!(went_on.elapsed() < ZOMBIE, "it does not answer any more");
        answers.extend(answer(&round.world.admin, &main, true).await);
        tokio::time::sleep(SOON).await;
    }
    let dead = (dead.instance, dead.pid);
    let late = died + SHORT;
    let stale = answers
        .iter()
        .filter(|(at, named)| *at > late && named.contains(&dead));
    let stale = stale.count();
    round.check(stale == 0, || {
        format!("it named a catalogue that was dead for over a second, {stale} times")
    });
    Ok(())
}

/// Asks a Main again and again, some of it while it stands still.
async fn answers(client: &Client, main: &Instance, time: Duration) -> Vec<(Instant, Vec<Life>)> {
    let left = time + AFTER;
    let ask = async |n| {
        tokio::time::sleep(left * n / 120).await;
        answer(client, main, n % 4 == 0).await
    };
    let asked = futures::future::join_all((0..120).map(ask)).await;
    asked.into_iter().flatten().collect()
}

/// When a Main answered, and which instances it named: all, or the catalogue whose turn it is.
async fn answer(client: &Client, main: &Instance, all: bool) -> Option<(Instant, Vec<Life>)> {
    let (caller, at) = (client.caller(), main.endpoint);
    let catalog = |stub: MainClient, context| async move { stub.catalog(context).await };
    let directory = |stub: MainClient, context| async move { stub.directory(context, None).await };
    let named = match all {
        true => {
            let view = caller.call_at(at, ZOMBIE, directory).await.ok()?.ok()?;
            lives(&view).into_iter().collect()
        }
        false => {
            let one = caller.call_at(at, ZOMBIE, catalog).await.ok()?.ok()?;
            vec![(one.instance, one.pid)]
        }
    };
    Some((Instant::now(), named))
}
