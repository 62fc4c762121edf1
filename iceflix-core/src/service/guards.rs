//! What watches over a service, on its announcement's thread.

mod doubts;
mod hearing;

pub(super) use hearing::Hearing;

use super::CatchUp;
use crate::{
    announcement::{Absence, Absences},
    awake::{self, Awake},
};

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

#[cfg(test)]
mod tests;
