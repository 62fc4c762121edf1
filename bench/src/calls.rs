//! Latency and throughput of calls, from a client in this process to services in theirs.

use crate::{
    Options,
    report::Figure,
    stats::{median, ms, percentile},
    titles::Titles,
    world::World,
};
use anyhow::ensure;
use futures::future::{BoxFuture, FutureExt as _, try_join_all};
use iceflix_core::{
    api::{
        PageRequest,
        auth::{AuthenticatorClient, Token},
        catalog::CatalogClient,
    },
    rpc::Caller,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How many titles the catalogue has.
const TITLES: usize = 10_000;

/// How many calls are under way together when throughput is measured.
const IN_FLIGHT: usize = 64;

/// The n-th call of its kind, with a good token.
type Ask = Arc<dyn Fn(Token, usize) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// A call to measure.
struct Call {
    name: &'static str,
    /// The best original's median with one call at a time, in milliseconds, and its 99th percentile
    /// where that is known.
    original: Option<(f64, Option<f64>)>,
    ask: Ask,
}

/// What a stretch of calls showed.
struct Stretch {
    p50: f64,
    p99: f64,
    rate: f64,
}

/// Measures each call, one at a time and many together.
///
/// # Errors
/// When a call fails for good.
pub async fn run(options: &Options, world: &World) -> anyhow::Result<Vec<Figure>> {
    let (rounds, time) = match options.quick {
        true => (1, Duration::from_millis(500)),
        false => (5, Duration::from_secs(1)),
    };
    let begin = Instant::now();
    let titles = Titles::announce(world, TITLES).await?;
    let mut figures = vec![Figure::new("titles.visible", "ms", ms(begin.elapsed()))];
    let calls = calls(&world.caller(), &titles.all);

    let mut stretches: Vec<_> = calls.iter().map(|_| (Vec::new(), Vec::new())).collect();
    for (call, _) in calls.iter().zip(&stretches) {
        // A token lives longer than a stretch takes.
        let token = world.token().await?;
        stretch(&call.ask, &token, IN_FLIGHT, Duration::from_millis(200)).await?;
    }
    for _ in 0..rounds {
        for (call, (single, many)) in calls.iter().zip(&mut stretches) {
            let token = world.token().await?;
            single.push(stretch(&call.ask, &token, 1, time).await?);
            many.push(stretch(&call.ask, &token, IN_FLIGHT, time).await?);
        }
    }
    for (call, (single, many)) in calls.iter().zip(&stretches) {
        for (how, stretches) in [("single", single), ("in_flight_64", many)] {
            let of = |figure: fn(&Stretch) -> f64| {
                median(&stretches.iter().map(figure).collect::<Vec<_>>())
            };
            let name = |what: &str| format!("{}.{how}.{what}", call.name);
            let beside = |figure: Figure, original: Option<f64>| match (how, original) {
                ("single", Some(original)) => figure.original(original),
                _ => figure,
            };
            let p50 = Figure::new(name("p50"), "ms", of(|stretch| stretch.p50));
            let p99 = Figure::new(name("p99"), "ms", of(|stretch| stretch.p99));
            figures.push(beside(p50, call.original.map(|(p50, _)| p50)));
            figures.push(beside(p99, call.original.and_then(|(_, p99)| p99)));
            figures.push(Figure::new(
                name("rate"),
                "calls/s",
                of(|stretch| stretch.rate),
            ));
        }
    }
    Ok(figures)
}

fn calls(caller: &Caller, titles: &[(iceflix_core::api::MediaId, String)]) -> Vec<Call> {
    let titles: Arc<[_]> = titles.into();
    // A step that has no common factor with the number of titles comes by all of them.
    let nth = move |n: usize| titles[n.wrapping_mul(7919) % titles.len()].clone();
    let is_authorized = {
        let caller = caller.clone();
        move |token: Token, _| {
            let caller = caller.clone();
            let asking = async move {
                let ask = |auth: AuthenticatorClient, context| {
                    let token = token.clone();
                    async move { auth.is_authorized(context, token).await }
                };
                ensure!(caller.call(ask).await?, "a good token was refused");
                Ok(())
            };
            asking.boxed()
        }
    };
    let tile = {
        let (caller, nth) = (caller.clone(), nth.clone());
        move |token: Token, n| {
            let (caller, (id, name)) = (caller.clone(), nth(n));
            let asking = async move {
                let ask = |catalog: CatalogClient, context| {
                    let token = token.clone();
                    async move { catalog.tile(context, token, id).await }
                };
                let found = caller.call(ask).await??;
                ensure!(found.tile.name == name, "another title was found");
                Ok(())
            };
            asking.boxed()
        }
    };
    let by_name = |exact: bool| {
        let (caller, nth) = (caller.clone(), nth.clone());
        move |token: Token, n| {
            let (caller, (id, name)) = (caller.clone(), nth(n));
            let asking = async move {
                // Its last five characters are a title's own.
                let part = &name[name.len() - 5..];
                let wanted = if exact { name.as_str() } else { part };
                let ask = |catalog: CatalogClient, context| {
                    let (token, wanted) = (Some(token.clone()), wanted.to_owned());
                    let page = PageRequest::first();
                    async move {
                        catalog
                            .tiles_by_name(context, token, wanted, exact, page)
                            .await
                    }
                };
                let found = caller.call(ask).await??.items;
                ensure!(found.len() == 1 && found[0].id == id, "{found:?} was found");
                Ok(())
            };
            asking.boxed()
        }
    };
    // "River" is in a tenth of the names: 100 of the 1000 titles that have it are wanted.
    let many = {
        let caller = caller.clone();
        move |token: Token, _| {
            let caller = caller.clone();
            let asking = async move {
                let ask = |catalog: CatalogClient, context| {
                    let (token, name) = (Some(token.clone()), "river".to_owned());
                    let page = PageRequest {
                        after: None,
                        limit: 100,
                    };
                    async move {
                        catalog
                            .tiles_by_name(context, token, name, false, page)
                            .await
                    }
                };
                let found = caller.call(ask).await??.items;
                ensure!(found.len() == 100, "{} titles were found", found.len());
                Ok(())
            };
            asking.boxed()
        }
    };
    let call = |name, original, ask| Call {
        name,
        original,
        ask,
    };
    vec![
        call(
            "is_authorized",
            Some((0.20, Some(0.30))),
            Arc::new(is_authorized) as Ask,
        ),
        call("tile", Some((1.5, None)), Arc::new(tile)),
        call(
            "tiles_by_name.exact",
            Some((1.6, None)),
            Arc::new(by_name(true)),
        ),
        call(
            "tiles_by_name.part",
            Some((1.6, None)),
            Arc::new(by_name(false)),
        ),
        call("tiles_by_name.page_of_100", None, Arc::new(many)),
    ]
}

/// Calls for so long, so many at a time.
async fn stretch(
    ask: &Ask,
    token: &Token,
    lanes: usize,
    time: Duration,
) -> anyhow::Result<Stretch> {
    let begin = Instant::now();
    let lanes = (0..lanes).map(|lane| {
        let (ask, token) = (Arc::clone(ask), token.clone());
        let calling = tokio::spawn(async move {
            let mut times = Vec::new();
            // Each lane asks for titles of its own.
            let mut n = lane * 1_000;
            while begin.elapsed() < time {
                let asked = Instant::now();
                ask(token.clone(), n).await?;
                times.push(ms(asked.elapsed()));
                n += 1;
            }
            anyhow::Ok(times)
        });
        async { calling.await? }
    });
    let times = try_join_all(lanes).await?.concat();
    Ok(Stretch {
        p50: median(&times),
        p99: percentile(&times, 99.0),
        rate: times.len() as f64 / begin.elapsed().as_secs_f64(),
    })
}
