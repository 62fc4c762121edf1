//! Logins: how many a second, and what a flood of wrong ones does to right ones.

use crate::{
    Options,
    report::{Asked, Figure},
    stats::{median, ms, percentile},
    world::World,
};
use anyhow::{bail, ensure};
use futures::future::try_join_all;
use iceflix_core::{
    api::{
        SessionId,
        auth::{AuthError, AuthenticatorClient, Role},
    },
    rpc::{Caller, Effort},
    trust::{SessionKey, password},
};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Who logs in, and with what.
const USER: &str = "viewer";
const PASSWORD: &str = "a viewer's password";

/// Users whose passwords are guessed, too.
const GUESSED: usize = 20;

/// How many logins are under way together when their rate is measured.
const IN_FLIGHT: usize = 8;

/// How many wrong logins a second make a flood.
const FLOOD: u32 = 100;

/// Whom the n-th guess is about.
type Named = (&'static str, fn(u32) -> String);

/// Measures logins.
///
/// # Errors
/// When a right login is refused, or a wrong one is not.
pub async fn run(options: &Options, world: &World) -> anyhow::Result<Vec<Figure>> {
    let time = Duration::from_secs(if options.quick { 2 } else { 20 });
    let caller = world.caller();
    add_user(world, USER, PASSWORD).await?;
    for n in 0..GUESSED {
        add_user(world, &format!("user-{n}"), PASSWORD).await?;
    }
    log_in(&caller, USER, PASSWORD).await??;

    let single = right_ones(&caller, time / 4, Duration::ZERO).await?;
    let begin = Instant::now();
    let lanes = (0..IN_FLIGHT).map(|_| right_ones(&caller, time / 4, Duration::ZERO));
    let together: usize = try_join_all(lanes).await?.iter().map(Vec::len).sum();
    let rate = together as f64 / begin.elapsed().as_secs_f64();
    let mut figures = vec![
        Figure::new("login.single.p50", "ms", median(&single)),
        Figure::new("login.single.p99", "ms", percentile(&single, 99.0)),
        Figure::new("login.in_flight_8.rate", "logins/s", rate),
    ];
    let floods: [Named; 3] = [
        ("unknown_names", |n| format!("made up {n}")),
        ("one_user", |_| "user-0".to_owned()),
        ("many_users", |n| format!("user-{}", n as usize % GUESSED)),
    ];
    for (what, name) in floods {
        let flood = tokio::spawn(flood(caller.clone(), name));
        // As often as it takes for a p99 that is not the very worst.
        let took = right_ones(&caller, time, Duration::from_millis(20)).await;
        if flood.is_finished() {
            flood.await??;
            bail!("the flood ended by itself");
        }
        flood.abort();
        let took = took?;
        let name = |what_of: &str| format!("login.flood.{what}.{what_of}");
        figures.push(Figure::new(name("p50"), "ms", median(&took)));
        let p99 = Figure::new(name("p99"), "ms", percentile(&took, 99.0));
        figures.push(p99.asked(Asked::AtMost(1000.0)));
    }
    Ok(figures)
}

async fn add_user(world: &World, name: &str, password: &str) -> anyhow::Result<()> {
    let (token, hash) = (world.token().await?, password::prehash(name, password));
    let ask = |auth: AuthenticatorClient, context| {
        let (token, name) = (token.clone(), name.to_owned());
        async move { auth.add_user(context, token, name, hash, Role::User).await }
    };
    Ok(world.caller().call_with(Effort::Write, ask).await??)
}

/// What the authenticator says to a login, and how long it took.
async fn log_in(
    caller: &Caller,
    user: &str,
    password: &str,
) -> anyhow::Result<Result<Duration, AuthError>> {
    let hash = password::prehash(user, password);
    let (id, key) = (SessionId::random(), SessionKey::generate()?.public());
    let asked = Instant::now();
    let ask = |auth: AuthenticatorClient, context| {
        let user = user.to_owned();
        async move { auth.login(context, user, hash, id, key).await }
    };
    let answer = caller.call_with(Effort::Write, ask).await?;
    Ok(answer.map(|_| asked.elapsed()))
}

/// Logs in for so long, with such pauses; how long each took, in milliseconds.
async fn right_ones(caller: &Caller, time: Duration, pause: Duration) -> anyhow::Result<Vec<f64>> {
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < time {
        took.push(ms(log_in(caller, USER, PASSWORD).await??));
        tokio::time::sleep(pause).await;
    }
    Ok(took)
}

/// Guesses passwords until it is stopped.
async fn flood(caller: Caller, name: fn(u32) -> String) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / FLOOD);
    let mut asked = JoinSet::new();
    for n in 0.. {
        ticks.tick().await;
        let (caller, name) = (caller.clone(), name(n));
        asked.spawn(async move { log_in(&caller, &name, "guess").await });
        while let Some(answer) = asked.try_join_next() {
            let answer = answer??;
            let refused = matches!(
                answer,
                Err(AuthError::WrongCredentials | AuthError::TooManyAttempts { .. })
            );
            ensure!(refused, "a wrong password was answered with {answer:?}");
        }
    }
    Ok(())
}
