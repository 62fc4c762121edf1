use super::*;
use proptest::prelude::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 7));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 8));

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fail(attempts: &mut Attempts, user: &str, from: IpAddr, times: u32, now: Instant) {
    for _ in 0..times {
        attempts.failed(user, from, now);
    }
}

#[test]
fn the_first_few_are_free_and_then_each_waits_twice_as_long() {
    let (mut attempts, mut now) = (Attempts::default(), Instant::now());
    for _ in 0..FREE {
        assert!(matches!(
            attempts.begin("ada", HERE, now),
            Verdict::Go(Lane::Clear | Lane::Failing)
        ));
        attempts.failed("ada", HERE, now);
    }
    for wanted in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        let verdict = attempts.begin("ada", HERE, now);
        assert_eq!(verdict, Verdict::Wait(secs(wanted)));
        now += secs(wanted);
        assert_eq!(attempts.begin("ada", HERE, now), Verdict::Go(Lane::Failing));
        attempts.failed("ada", HERE, now);
    }
    now += FORGOTTEN;
    assert_eq!(attempts.judge("ada", HERE, now), Verdict::Go(Lane::Clear));
}

#[test]
fn the_right_password_after_wrong_ones_works_at_once_and_clears_them() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    fail(&mut attempts, "ada", HERE, FREE - 1, now);
    assert_eq!(attempts.begin("ada", HERE, now), Verdict::Go(Lane::Failing));
    attempts.succeeded("ada", HERE, now);
    fail(&mut attempts, "ada", HERE, FREE - 1, now);
    assert!(matches!(attempts.begin("ada", HERE, now), Verdict::Go(_)));
}

#[test]
fn of_those_that_come_when_the_wait_is_over_one_passes() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    fail(&mut attempts, "ada", HERE, FREE, now);
    let over = now + secs(1);
    assert_eq!(
        attempts.begin("ada", HERE, over),
        Verdict::Go(Lane::Failing)
    );
    assert_eq!(attempts.begin("ada", HERE, over), Verdict::Wait(secs(2)));
    // It was the right one after all.
    attempts.succeeded("ada", HERE, over);
    assert_eq!(attempts.begin("ada", HERE, over), Verdict::Go(Lane::Clear));
}

#[test]
fn floods_crowd_strangers_but_not_who_was_here_before() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    attempts.succeeded("grace", HERE, now);
    for n in 0..PLACE.burst {
        assert_eq!(attempts.judge("bob", HERE, now), Verdict::Go(Lane::Clear));
        attempts.failed(&format!("made up {n}"), HERE, now);
    }
    assert_eq!(attempts.judge("bob", HERE, now), Verdict::Go(Lane::Crowded));
    assert_eq!(attempts.judge("bob", THERE, now), Verdict::Go(Lane::Clear));
    assert_eq!(attempts.judge("grace", HERE, now), Verdict::Go(Lane::Clear));
    // The same over all addresses.
    for n in 0..USER.burst {
        let from = IpAddr::from([10, 0, 0, n as u8]);
        attempts.failed("grace", from, now);
    }
    let elsewhere = attempts.judge("grace", THERE, now);
    assert_eq!(elsewhere, Verdict::Go(Lane::Crowded));
    assert_eq!(attempts.judge("grace", HERE, now), Verdict::Go(Lane::Clear));
    let later = now + USER.each * USER.burst * 2;
    assert_eq!(
        attempts.judge("grace", THERE, later),
        Verdict::Go(Lane::Clear)
    );
}

#[test]
fn a_network_of_ipv6_is_one_address_and_a_mapped_one_is_the_other() {
    let now = Instant::now();
    let mut attempts = Attempts::default();
    let from = |text: &str| text.parse::<IpAddr>().unwrap();
    fail(&mut attempts, "ada", from("2001:db8::1"), FREE, now);
    let waits = |address: &str| {
        let verdict = attempts.judge("ada", from(address), now);
        matches!(verdict, Verdict::Wait(_))
    };
    assert!(waits("2001:db8::ffff:2") && !waits("2001:db8:0:1::1"));
    let mut attempts = Attempts::default();
    fail(&mut attempts, "ada", from("10.0.0.1"), FREE, now);
    let mapped = attempts.judge("ada", from("::ffff:10.0.0.1"), now);
    assert!(matches!(mapped, Verdict::Wait(_)));
}

#[test]
fn memory_is_bounded_and_who_waits_is_remembered_longest() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    fail(&mut attempts, "ada", HERE, FREE + 5, now);
    attempts.succeeded("grace", HERE, now);
    for n in 0..3 * REMEMBERED as u32 {
        let from = IpAddr::from((n / 4 + 0x0a00_0000).to_be_bytes());
        attempts.failed(&n.to_string(), from, now + Duration::from_micros(n.into()));
    }
    for count in [
        attempts.pairs.len(),
        attempts.users.len(),
        attempts.places.len(),
    ] {
        assert!(count <= REMEMBERED, "{count}");
    }
    let soon = now + secs(1);
    let ada = attempts.judge("ada", HERE, soon);
    assert!(matches!(ada, Verdict::Wait(left) if left > secs(20)));
    // What nobody needs any more is forgotten first.
    let later = now + FORGOTTEN * 2;
    fail(&mut attempts, "eve", THERE, 1, later);
    for n in 0..2 * REMEMBERED {
        attempts.succeeded(&n.to_string(), HERE, later);
    }
    assert!(attempts.pairs.len() <= REMEMBERED);
}

proptest! {
    /// Whatever happened, a user is never kept from trying from an address that has not failed
    /// for them.
    #[test]
    fn nobody_is_locked_out_from_elsewhere(
        events in prop::collection::vec((0..3u8, 0..6u8, any::<bool>(), 0..400u64), 0..300)
    ) {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for (user, from, right, later) in events {
            now += secs(later);
            let (user, from) = (user.to_string(), IpAddr::from([10, 0, 0, from]));
            if let Verdict::Go(_) = attempts.begin(&user, from, now) {
                match right {
                    true => attempts.succeeded(&user, from, now),
                    false => attempts.failed(&user, from, now),
                }
            }
            for user in ["0", "1", "2", "never seen"] {
                let verdict = attempts.judge(user, HERE, now);
                prop_assert!(matches!(verdict, Verdict::Go(Lane::Clear | Lane::Crowded)));
            }
        }
    }

    /// However attempts are timed, one pair gets no more wrong passwords looked at than the free
    /// ones and what the growing waits leave.
    #[test]
    fn a_pairs_guesses_are_few(gaps in prop::collection::vec(0..100_000u64, 1..600)) {
        let (mut attempts, begin) = (Attempts::default(), Instant::now());
        let (mut now, mut guesses) = (begin, 0u32);
        for gap in gaps {
            now += Duration::from_millis(gap);
            match attempts.begin("ada", HERE, now) {
                Verdict::Go(_) => {
                    attempts.failed("ada", HERE, now);
                    guesses += 1;
                }
                Verdict::Wait(left) => prop_assert!(left > Duration::ZERO && left <= LONGEST_WAIT),
            }
        }
        // The waits up to the longest come first; every later one is the longest. Gaps are too
        // short for anything to be forgotten.
        let mut allowed = FREE;
        let mut left = now - begin;
        while let Some(rest) = left.checked_sub(wait(allowed)) {
            left = rest;
            allowed += 1;
        }
        prop_assert!(guesses <= allowed, "{guesses} of {allowed}");
    }

    /// A refused attempt changes nothing: who waits as told gets in.
    #[test]
    fn asking_too_early_costs_nothing(failures in FREE..20, early in prop::collection::vec(0..1000u64, 0..50)) {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        fail(&mut attempts, "ada", HERE, failures, now);
        let due = wait(failures);
        for thousandth in early {
            let verdict = attempts.begin("ada", HERE, now + due.mul_f64(thousandth as f64 / 1001.0));
            prop_assert!(matches!(verdict, Verdict::Wait(_)));
        }
        prop_assert_eq!(attempts.begin("ada", HERE, now + due), Verdict::Go(Lane::Failing));
    }
}
