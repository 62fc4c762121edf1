use super::*;
use proptest::{collection::vec, prelude::*};

fn machine(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

/// The machine that judges itself.
fn here() -> IpAddr {
    machine(1)
}

fn wrong(against: impl IntoIterator<Item = u8>) -> Judgement {
    Judgement::Wrong(against.into_iter().map(machine).collect())
}

/// What machines say whose clocks are so far ahead.
fn say(ahead: f64, machines: impl IntoIterator<Item = u8>) -> Vec<Reading> {
    machines.into_iter().map(|n| (machine(n), ahead)).collect()
}

fn is_wrong(judgement: &Judgement) -> bool {
    matches!(judgement, Judgement::Wrong(_))
}

#[test]
fn one_machine_of_three_is_the_one_that_is_wrong() {
    let right = [(machine(2), 0.01), (machine(3), 5.0)];
    assert!(ahead(machine(1), &right).abs() < 0.1);
    let wrong = [(machine(1), -5.0), (machine(2), -4.99), (machine(2), -4.98)];
    assert!(ahead(machine(3), &wrong) < -4.9);
}

#[test]
fn many_instances_on_a_machine_do_not_outvote_two_other_machines() {
    let mut readings = vec![(machine(2), 60.0); 6];
    readings.push((machine(3), 0.0));
    assert!(ahead(machine(1), &readings).abs() < 0.1);
}

#[test]
fn where_it_is_one_against_one_nobody_withdraws() {
    assert_eq!(ahead(machine(1), &[(machine(2), 3600.0)]), 0.0);
    assert_eq!(ahead(machine(1), &[]), 0.0);
    for before in [Judgement::Right, Judgement::Set] {
        assert_eq!(before.heard(here(), &say(3600.0, [2])), Judgement::Right);
        assert_eq!(before.heard(here(), &[]), Judgement::Right);
    }
}

#[test]
fn on_one_machine_the_instance_that_is_alone_is_wrong_until_the_others_agree() {
    let readings = [(machine(1), 5.0), (machine(1), 5.1), (machine(1), 4.9)];
    assert!(ahead(machine(1), &readings) > 4.0);
    let judged = Judgement::Right.heard(here(), &readings);
    assert_eq!(judged, wrong([1]));
    assert_eq!(judged.heard(here(), &[]), wrong([1]));
    assert_eq!(judged.heard(here(), &say(0.0, [1])), Judgement::Right);
}

#[test]
fn who_is_wrong_does_not_return_because_fewer_are_heard() {
    let judged = Judgement::Right.heard(here(), &say(3600.0, [2, 3]));
    assert_eq!(judged, wrong([2, 3]));
    let cut_off = judged.heard(here(), &[]);
    assert_eq!(cut_off, judged);
    let one_is_down = cut_off.heard(here(), &say(3600.0, [3]));
    assert_eq!(one_is_down, judged);
    // Its own instances have the same clock.
    assert_eq!(judged.heard(here(), &say(0.0, [1])), judged);
    // Nor because somebody sets it to what is wrong still.
    assert_eq!(judged.set(), judged);
    assert_eq!(judged.set().heard(here(), &[]), judged);
}

#[test]
fn who_was_wrong_and_was_set_right_returns_when_the_others_say_so() {
    let judged = wrong([2, 3]).set();
    let right = judged.heard(here(), &say(0.1, [2, 3]));
    assert_eq!(right, Judgement::Right);
    // The other of the two is gone for good.
    assert_eq!(judged.heard(here(), &say(0.1, [2])), Judgement::Right);
    // Three machines of four, itself among them.
    let two_of_three = [say(0.1, [2, 3]), say(-3600.0, [4])].concat();
    assert_eq!(
        wrong([2, 3, 4]).heard(here(), &two_of_three),
        Judgement::Right
    );
    // Two were wrong together, and one of them was set right.
    let one_of_two = [say(0.1, [2]), say(3600.0, [3])].concat();
    assert_eq!(judged.heard(here(), &one_of_two), Judgement::Right);
}

#[test]
fn another_machine_with_the_same_wrong_clock_is_no_majority() {
    let judged = wrong([2, 3]);
    let mut heard = [say(3600.0, [2]), say(0.0, [4])].concat();
    assert_eq!(judged.heard(here(), &heard), judged, "the third is silent");
    heard.extend(say(3600.0, [3]));
    assert_eq!(judged.heard(here(), &heard), judged);
}

#[test]
fn a_clock_that_was_set_is_believed_where_nobody_says_otherwise() {
    let set = Judgement::Right.set();
    assert_eq!(set, Judgement::Set);
    assert_eq!(set.heard(here(), &[]), Judgement::Right);
    assert_eq!(set.heard(here(), &say(-3600.0, [2])), Judgement::Right);
    assert_eq!(set.heard(here(), &say(-3600.0, [2, 3])), wrong([2, 3]));
}

fn any_judgement() -> impl Strategy<Value = Judgement> {
    prop_oneof![
        Just(Judgement::Right),
        Just(Judgement::Set),
        vec(2u8..8, 1..6).prop_map(wrong),
    ]
}

fn any_readings() -> impl Strategy<Value = Vec<Reading>> {
    let off = prop_oneof![-0.9f64..0.9, -2.0f64..2.0, -1e6f64..1e6];
    vec((1u8..8).prop_map(machine), 0..16)
        .prop_flat_map(move |machines| (Just(machines), vec(off.clone(), 16)))
        .prop_map(|(machines, off)| machines.into_iter().zip(off).collect())
}

proptest! {
    /// Whoever agrees with more than half of the machines stays, whatever the rest say.
    #[test]
    fn the_greater_half_stays(
        right in 1u8..6, wrong in vec(-1e6f64..1e6, 0..6), jitter in -0.4f64..0.4
    ) {
        prop_assume!(wrong.len() <= usize::from(right));
        let mut readings: Vec<Reading> = (2..=right).map(|n| (machine(n), jitter)).collect();
        readings.extend(wrong.iter().enumerate().map(|(n, ahead)| (machine(100 + n as u8), *ahead)));
        prop_assert!(ahead(machine(1), &readings).abs() <= FAR);
        prop_assert_eq!(Judgement::Right.heard(here(), &readings), Judgement::Right);
    }

    /// And whoever is far from more than half of them goes.
    #[test]
    fn the_smaller_half_goes(
        wrong in 1u8..6, more in 1u8..6, off in prop_oneof![-1e6f64..-2.0, 2.0f64..1e6], jitter in -0.2f64..0.2
    ) {
        let mut readings: Vec<Reading> = (2..=wrong).map(|n| (machine(n), 0.0)).collect();
        readings.extend((0..wrong + more).map(|n| (machine(100 + n), off + jitter)));
        prop_assert!(ahead(machine(1), &readings).abs() > FAR);
        prop_assert!(is_wrong(&Judgement::Right.heard(here(), &readings)));
    }

    /// Who was not taken for wrong is so by the median alone, whether the clock was set or not.
    #[test]
    fn whose_clock_was_right_withdraws_when_it_is_far_from_the_median(readings in any_readings()) {
        let far = ahead(here(), &readings).abs() > FAR;
        for before in [Judgement::Right, Judgement::Set] {
            prop_assert_eq!(is_wrong(&before.heard(here(), &readings)), far);
        }
    }

    /// A clock that is an hour off stays away, whichever of the others are heard, in whatever
    /// order, and however often it is set to something that is wrong as well.
    #[test]
    fn a_wrong_clock_stays_away_whoever_of_the_others_is_heard(
        others in 2u8..7,
        rounds in vec((vec(any::<bool>(), 6), any::<bool>(), prop_oneof![-1e6f64..-2.0, 2.0f64..1e6]), 0..20),
    ) {
        let others: Vec<u8> = (2..2 + others).collect();
        let mut judgement = Judgement::Right.heard(here(), &say(3600.0, others.clone()));
        for (heard, set, off) in rounds {
            if set {
                judgement = judgement.set();
            }
            let heard = others.iter().zip(heard).filter(|(_, heard)| *heard);
            let mut readings = say(off, heard.map(|(n, _)| *n));
            readings.extend(say(0.0, [1]));
            judgement = judgement.heard(here(), &readings);
            prop_assert_eq!(&judgement, &wrong(others.clone()));
        }
    }

    /// Where nobody is heard nothing is learnt, but that a clock that was set has nobody against it.
    #[test]
    fn silence_is_no_evidence(before in any_judgement()) {
        let after = before.heard(here(), &[]);
        match is_wrong(&before) {
            true => prop_assert_eq!(after, before),
            false => prop_assert_eq!(after, Judgement::Right),
        }
    }

    /// Nobody who was wrong returns without another machine that agrees.
    #[test]
    fn who_was_wrong_returns_by_an_agreeing_machine_only(
        before in vec(2u8..8, 1..6).prop_map(wrong), readings in any_readings()
    ) {
        let agrees = machines(readings.iter().copied())
            .iter()
            .any(|(machine, off)| *machine != here() && off.abs() < NEAR);
        prop_assert!(agrees || is_wrong(&before.heard(here(), &readings)));
    }

    /// A clock that was set right returns as soon as anybody says so and nobody denies it, whoever
    /// else is gone; and when all who said otherwise agree, whatever one machine fewer says.
    #[test]
    fn a_clock_that_is_right_again_returns(
        against in 1u8..7, heard in vec(any::<bool>(), 6), jitter in -0.9f64..0.9, odd in vec(-1e6f64..1e6, 0..6),
    ) {
        let all: Vec<u8> = (2..2 + against).collect();
        let before = wrong(all.clone());
        let some = all.iter().zip(heard).filter(|(_, heard)| *heard).map(|(n, _)| *n);
        let some = say(jitter, some);
        prop_assert_eq!(before.heard(here(), &some) == Judgement::Right, !some.is_empty());
        let odd = odd.into_iter().take(usize::from(against) - 1).enumerate();
        let mut readings = say(jitter, all);
        readings.extend(odd.map(|(n, ahead)| (machine(100 + n as u8), ahead)));
        prop_assert_eq!(before.heard(here(), &readings), Judgement::Right);
    }
}
