//! From `get_stream` to the first RTP packet.

use crate::{
    Options,
    report::{Asked, Figure},
    rtsp::{Player, Transport},
    stats::{median, ms, percentile},
    world::World,
};
use iceflix_core::api::{MediaId, auth::Token};
use std::time::{Duration, Instant};

/// Which step of a start.
type Step = fn(&Start) -> Duration;

/// How long each step of one start took.
struct Start {
    get_stream: Duration,
    describe: Duration,
    set_up: Duration,
    play: Duration,
    whole: Duration,
}

/// Starts the film many times, over TCP and UDP in turn.
///
/// # Errors
/// When it does not start.
pub async fn run(options: &Options, world: &World) -> anyhow::Result<Vec<Figure>> {
    let runs = if options.quick { 10 } else { 50 };
    let film = world.film().await?;
    // Nobody has played this film from this node before: what is learned once is learned now.
    let mut token = world.token().await?;
    let cold = start(world, &token, film, Transport::Tcp).await?;
    let mut figures = vec![Figure::new("first_packet.cold", "ms", ms(cold.whole))];

    let transports = [Transport::Tcp, Transport::Udp];
    let mut starts = transports.map(|_| Vec::new());
    for run in 0..runs + 2 {
        if run % 10 == 0 {
            token = world.token().await?;
        }
        for (transport, starts) in transports.into_iter().zip(&mut starts) {
            let start = start(world, &token, film, transport).await?;
            // The first two rounds are there to warm up.
            if run >= 2 {
                starts.push(start);
            }
        }
    }
    for (transport, starts) in transports.into_iter().zip(&starts) {
        let name = format!("first_packet.{}", transport.name());
        let times =
            |step: Step| -> Vec<f64> { starts.iter().map(|start| ms(step(start))).collect() };
        let whole = times(|start| start.whole);
        let p50 = Figure::new(format!("{name}.p50"), "ms", median(&whole));
        figures.push(p50.asked(Asked::AtMost(50.0)).original(416.0));
        let p99 = percentile(&whole, 99.0);
        figures.push(Figure::new(format!("{name}.p99"), "ms", p99));
        let steps: [(&str, Step); 4] = [
            ("get_stream", |start| start.get_stream),
            ("describe", |start| start.describe),
            ("setup", |start| start.set_up),
            ("play_to_packet", |start| start.play),
        ];
        for (step, time) in steps {
            let p50 = median(&times(time));
            figures.push(Figure::new(format!("{name}.{step}.p50"), "ms", p50));
        }
    }
    Ok(figures)
}

async fn start(
    world: &World,
    token: &Token,
    film: MediaId,
    transport: Transport,
) -> anyhow::Result<Start> {
    let begin = Instant::now();
    let stream = world.get_stream(token, film).await?;
    let got = Instant::now();
    let url = stream.url;
    let playing = tokio::task::spawn_blocking(move || Player::play(&url, transport));
    let (player, steps) = playing.await??;
    player.tear_down()?;
    world.stop_stream(token, stream.stream).await?;
    Ok(Start {
        get_stream: got - begin,
        describe: steps.described - got,
        set_up: steps.set_up - steps.described,
        // A packet may overtake the answer that SETUP's caller has not read yet.
        play: steps.packet.saturating_duration_since(steps.set_up),
        whole: steps.packet - begin,
    })
}
