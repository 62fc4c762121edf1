//! Stopping the cluster of a state directory from outside.

use super::{
    process::{self, Signal},
    state::State,
    supervise::STOP_LIMIT,
    tell::say,
};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// A supervisor needs a little longer than its services.
const PATIENCE: Duration = STOP_LIMIT.saturating_add(Duration::from_secs(10));

/// Ends the supervisor of a state directory and waits for it, then ends services that a killed
/// supervisor left behind. Nothing else is touched, and nothing to end is no error.
pub fn stop(state: &State) -> Result<()> {
    let mut stopped = false;
    if let Some(supervisor) = state.supervisor()? {
        stopped = true;
        say("Stopping …");
        supervisor
            .signal(Signal::SIGTERM)
            .context("cannot tell the supervisor to stop")?;
        if !process::wait_gone(&[supervisor], PATIENCE) {
            supervisor
                .signal(Signal::SIGKILL)
                .context("cannot end the supervisor")?;
            process::wait_gone(&[supervisor], Duration::from_secs(5));
        }
    }
    let left = process::services_of(state.dir()).context("cannot read /proc")?;
    if !left.is_empty() {
        stopped = true;
        say(&format!(
            "Ending {} services without a supervisor …",
            left.len()
        ));
        if !process::end(&left, STOP_LIMIT).context("cannot end a service")? {
            bail!("some services do not end");
        }
    }
    say(match stopped {
        true => "Stopped.",
        false => "Nothing was running.",
    });
    Ok(())
}
