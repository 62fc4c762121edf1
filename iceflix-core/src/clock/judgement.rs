//! Whether this machine's clock is right, by what the others' clocks say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// How far a clock may be from the others' median, in seconds: an instance that is further off
/// withdraws. Tokens allow for 2 s between two clocks.
pub(super) const FAR: f64 = 1.5;

/// How near two clocks must be, in seconds, to agree.
const NEAR: f64 = 1.0;

/// What another instance's clock says: on which machine, and how many seconds it is ahead.
pub type Reading = (IpAddr, f64);

/// How many seconds the cluster's clocks are ahead of this one, on this machine: the median of the
/// machines' medians, this instance among them. Of two in the middle the one nearer to this clock:
/// where it is one against one, nobody can tell who is wrong.
pub fn ahead(here: IpAddr, readings: &[Reading]) -> f64 {
    let own = (here, 0.0);
    let machines = machines(readings.iter().copied().chain([own]));
    median(machines.into_values().collect())
}

/// What the instances on each machine say: their median.
fn machines(readings: impl IntoIterator<Item = Reading>) -> BTreeMap<IpAddr, f64> {
    let mut machines = BTreeMap::<_, Vec<_>>::new();
    for (machine, ahead) in readings {
        machines.entry(machine).or_default().push(ahead);
    }
    machines
        .into_iter()
        .map(|(machine, all)| (machine, median(all)))
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let (lower, upper) = (values[last / 2], values[last.div_ceil(2)]);
    if lower.abs() <= upper.abs() {
        lower
    } else {
        upper
    }
}

/// What an instance makes of its machine's clock. A process begins without prejudice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing speaks against it.
    Right,
    /// It was set, and the others were not asked since.
    Set,
    /// The others say that it is wrong: these machines did when they were last heard.
    Wrong(BTreeSet<IpAddr>),
}

impl Judgement {
    /// The clock was set. That makes a wrong one right for nobody but its owner: the others have
    /// to say so.
    #[must_use]
    pub fn set(&self) -> Self {
        match self {
            Self::Right | Self::Set => Self::Set,
            Self::Wrong(against) => Self::Wrong(against.clone()),
        }
    }

    /// The others were asked, and this is what they said.
    ///
    /// A clock is taken for wrong when it is far from the median. Then silence says nothing for it,
    /// nor does one machine that still differs: who is cut off, or hears one of the others only,
    /// has the same wrong clock. It is right again when all who are heard agree with it (those
    /// that said otherwise may be gone for good), or when as many agree as speak against it, those
    /// that are silent now included; with this machine's own vote that is more than half.
    #[must_use]
    pub fn heard(&self, here: IpAddr, readings: &[Reading]) -> Self {
        let off = ahead(here, readings).abs();
        let mut against = match self {
            Self::Wrong(against) => against.clone(),
            Self::Right | Self::Set if off > FAR => BTreeSet::new(),
            Self::Right | Self::Set => return Self::Right,
        };
        let mut told = machines(readings.iter().copied());
        // The instances on this machine have the same clock. Only where there is no other machine
        // is it worth something what they say.
        if told.keys().chain(&against).any(|machine| *machine != here) {
            told.remove(&here);
            against.remove(&here);
        }
        let (agree, differ): (Vec<_>, Vec<_>) =
            told.into_iter().partition(|(_, off)| off.abs() < NEAR);
        for (machine, _) in &agree {
            against.remove(machine);
        }
        against.extend(differ.iter().map(|(machine, _)| *machine));
        let believed = differ.is_empty() || agree.len() >= against.len();
        match off < NEAR && !agree.is_empty() && believed {
            true => Self::Right,
            false => Self::Wrong(against),
        }
    }
}

#[cfg(test)]
mod tests;
