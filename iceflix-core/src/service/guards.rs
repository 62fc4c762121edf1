//! What watches over a service, on its announcement's thread.

use super::CatchUp;
use crate::{
    announcement::{Absence, Absences},
    api::{Instance, InstanceId, Kind},
    awake::{self, Awake},
    bus::Bus,
    membership::Membership,
    trust::{Credentials, Verifier},
};
use std::time::Duration;

/// How long another authenticator may be alive and not be heard: three times as long as each is
/// silent, and a second for a message that is late.
const DEAF: Duration = Duration::from_secs(7);

/// How often that is looked at.
const LISTEN: Duration = Duration::from_secs(1);

/// How long a new session on the bus has to show itself better than the one before.
const REOPENED: Duration = Duration::from_secs(30);

/// Says that this process runs; and after a standstill that it is not to be found before it has
/// caught up.
pub(super) async fn awake(awake: Awake, catching_up: Vec<CatchUp>, absences: Absences) {
    loop {
        tokio::time::sleep(awake::EVERY).await;
        if awake.tick() {
            continue;
        }
        absences.set(Absence::Asleep, true);
        let heard = futures::future::join_all(catching_up.iter().map(|catch_up| catch_up()));
        let mut heard = std::pin::pin!(heard);
        // It may be stopped again meanwhile; then this begins anew.
        let again = loop {
            tokio::select! {
                _ = &mut heard => break false,
                () = tokio::time::sleep(awake::EVERY) => if awake.tick_again() {
                    break true;
                }
            }
        };
        if !again {
            awake.caught_up();
            absences.set(Absence::Asleep, false);
        }
    }
}

/// Opens the bus anew when its session is over, and when another authenticator is alive and is not
/// heard: every service hears all of them, every two seconds.
pub(super) async fn hearing(
    bus: Bus,
    membership: Membership,
    verifier: Verifier,
    credentials: Credentials,
    own: InstanceId,
) {
    let mut last = None;
    // Counted, so that a time in which this process stood still is none in which it heard nothing.
    let mut silent = Duration::ZERO;
    loop {
        tokio::time::sleep(LISTEN).await;
        if bus.is_closed() {
            return;
        }
        if bus.is_broken() {
            tracing::warn!("the session on the bus is over: joining it anew");
        } else {
            let view = membership.now();
            let speaks = |it: &Instance| it.kind == Kind::Auth && it.instance != own;
            let heard = verifier.last_heard();
            if heard != last || !view.instances.iter().any(speaks) {
                (last, silent) = (heard, Duration::ZERO);
                continue;
            }
            silent += LISTEN;
            if silent < DEAF {
                continue;
            }
            tracing::warn!(
                "authenticators are alive and nothing is heard of them: joining the bus anew"
            );
        }
        match bus.renew(credentials.now()).await {
            Ok(()) => tracing::info!("the bus was joined anew"),
            Err(error) => tracing::error!(%error, "the bus could not be joined anew"),
        }
        silent = Duration::ZERO;
        tokio::time::sleep(REOPENED).await;
    }
}

#[cfg(test)]
mod tests;
