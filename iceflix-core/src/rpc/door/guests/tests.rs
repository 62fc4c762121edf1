use super::*;
use proptest::{collection::vec, prelude::*};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn there(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn few() -> Limits {
    Limits {
        new: 4,
        known: 6,
        idle_of_one: 3,
        long_frames: 2,
        requests: 8,
        ..Limits::default()
    }
}

/// A connection that has asked once and is idle now.
fn idle(guests: &mut Guests, address: IpAddr, now: Instant) -> (Id, CancellationToken) {
    let (id, close) = guests.enter(address, now);
    guests.begin(id, now);
    guests.done(id, now);
    (id, close)
}

#[test]
fn of_those_that_said_nothing_the_oldest_goes_and_nobody_at_work() {
    let now = Instant::now();
    let mut guests = Guests::new(few());
    let (worker, at_work) = guests.enter(HERE, now);
    guests.begin(worker, now);
    let (_, resting) = idle(&mut guests, HERE, now);
    let silent: Vec<_> = (0..10).map(|_| guests.enter(HERE, now).1).collect();
    let closed: Vec<_> = silent.iter().map(CancellationToken::is_cancelled).collect();
    assert_eq!(closed[..6], [true; 6]);
    assert_eq!(closed[6..], [false; 4]);
    assert!(!at_work.is_cancelled() && !resting.is_cancelled());
}

#[test]
fn whoever_comes_in_numbers_drops_its_own() {
    let now = Instant::now();
    let mut guests = Guests::new(few());
    let (_, other) = guests.enter(there(1), now);
    for _ in 0..100 {
        guests.enter(HERE, now);
    }
    assert!(!other.is_cancelled());
    let (_, other) = idle(&mut guests, there(1), now);
    for _ in 0..100 {
        idle(&mut guests, HERE, now);
    }
    assert!(!other.is_cancelled());
}

#[test]
fn one_machine_is_one_address_in_ipv6_too() {
    assert_eq!(
        net("2001:db8::1".parse().unwrap()),
        net("2001:db8::ffff:1".parse().unwrap())
    );
    assert_ne!(
        net("2001:db8::1".parse().unwrap()),
        net("2001:db8:0:1::1".parse().unwrap())
    );
    assert_eq!(net("::ffff:127.0.0.1".parse().unwrap()), HERE);
}

#[test]
fn each_has_its_time() {
    let now = Instant::now();
    let limits = few();
    let mut guests = Guests::new(limits.clone());
    let (_, silent) = guests.enter(HERE, now);
    let (half, half_frame) = idle(&mut guests, HERE, now);
    guests.frame(half, Some(false), now);
    let (deaf, not_reading) = idle(&mut guests, HERE, now);
    guests.stuck(deaf, Some(now));
    let (_, resting) = idle(&mut guests, HERE, now);
    let (worker, at_work) = guests.enter(HERE, now);
    guests.begin(worker, now);
    let moment = Duration::from_millis(1);
    for (time, token) in [
        (limits.introduce, &silent),
        (limits.frame, &half_frame),
        (limits.write, &not_reading),
        (limits.idle, &resting),
    ] {
        guests.sweep(now + time - moment);
        assert!(!token.is_cancelled(), "{time:?}");
        guests.sweep(now + time);
        assert!(token.is_cancelled(), "{time:?}");
    }
    // One that waits for an answer is not idle.
    guests.sweep(now + limits.idle * 10);
    assert!(!at_work.is_cancelled());
    let reasons = guests.closed();
    assert_eq!(reasons.values().copied().collect::<Vec<_>>(), [1; 4]);
}

#[test]
fn a_request_that_keeps_coming_does_not_get_more_time() {
    let now = Instant::now();
    let limits = few();
    let mut guests = Guests::new(limits.clone());
    let (slow, closed) = idle(&mut guests, HERE, now);
    for tenth in 0..=10u32 {
        let at = now + limits.frame / 10 * tenth;
        guests.frame(slow, Some(tenth > 5), at);
        guests.sweep(at);
    }
    assert!(closed.is_cancelled());
    let (quick, closed) = idle(&mut guests, HERE, now);
    for tenth in 0..=10u32 {
        let at = now + limits.frame / 10 * tenth;
        guests.frame(quick, Some(false), at);
        guests.frame(quick, None, at);
        guests.sweep(at);
    }
    assert!(!closed.is_cancelled());
}

#[test]
fn of_long_requests_the_oldest_goes() {
    let now = Instant::now();
    let mut guests = Guests::new(few());
    let begun: Vec<_> = (0..4u64)
        .map(|n| {
            let at = now + Duration::from_millis(n);
            let (id, close) = guests.enter(HERE, at);
            guests.frame(id, Some(true), at);
            close
        })
        .collect();
    let closed: Vec<_> = begun.iter().map(CancellationToken::is_cancelled).collect();
    assert_eq!(closed, [true, true, false, false]);
}

#[test]
fn connections_that_wait_for_long_answers_keep_nobody_out() {
    let now = Instant::now();
    let limits = few();
    let mut guests = Guests::new(limits.clone());
    let waiting: Vec<_> = (0..limits.known)
        .map(|_| {
            let (id, close) = guests.enter(HERE, now);
            guests.begin(id, now);
            close
        })
        .collect();
    // A moment later none of them may be closed …
    let (id, refused) = guests.enter(HERE, now);
    guests.begin(id, now);
    assert!(refused.is_cancelled());
    assert!(!waiting.iter().any(CancellationToken::is_cancelled));
    // … but nobody is kept out for long.
    let later = now + limits.at_work;
    let (id, let_in) = guests.enter(HERE, later);
    guests.begin(id, later);
    assert!(!let_in.is_cancelled());
    assert!(waiting[0].is_cancelled());
}

#[test]
fn whoever_asks_the_most_at_once_makes_room() {
    let now = Instant::now();
    let mut guests = Guests::new(few());
    let (modest, stays) = guests.enter(HERE, now);
    guests.begin(modest, now);
    let (greedy, goes) = guests.enter(HERE, now);
    for _ in 0..8 {
        guests.begin(greedy, now);
    }
    assert!(goes.is_cancelled() && !stays.is_cancelled());
    assert_eq!(guests.in_flight, 1);
}

#[test]
fn few_descriptors_mean_few_connections() {
    let limits = Limits::within(1024);
    assert!(limits.new + limits.known <= 256);
    let limits = Limits::within(1 << 20);
    assert_eq!(limits.known, Limits::default().known);
}

proptest! {
    /// Whatever happens in whatever order, the counts are right and within the limits.
    #[test]
    fn counts_stay_right(steps in vec((0u8..8, 0u64..40, any::<bool>(), 0u64..4000), 0..400)) {
        let limits = few();
        let mut guests = Guests::new(limits.clone());
        let mut now = Instant::now();
        for (what, id, flag, wait) in steps {
            now += Duration::from_millis(wait);
            match what {
                0 | 1 => { guests.enter(there(u8::from(flag)), now); }
                2 => guests.begin(id, now),
                3 => guests.done(id, now),
                4 => guests.frame(id, flag.then_some(id % 2 == 0), now),
                5 => guests.stuck(id, flag.then_some(now)),
                6 => guests.leave(id),
                _ => guests.sweep(now),
            }
            let known = guests.all.values().filter(|guest| guest.known).count();
            let idle = guests.all.values().filter(|guest| guest.known && guest.in_flight == 0).count();
            let long = guests.all.values().filter(|guest| guest.frame.is_some_and(|(_, long)| long)).count();
            prop_assert_eq!(guests.known, known);
            prop_assert_eq!(guests.idle.length, idle);
            prop_assert_eq!(guests.new.length, guests.all.len() - known);
            prop_assert_eq!(guests.long_frames.len(), long);
            prop_assert_eq!(guests.in_flight, guests.all.values().map(|guest| guest.in_flight).sum::<usize>());
            prop_assert!(guests.new.length <= limits.new && known <= limits.known);
            prop_assert!(long <= limits.long_frames && guests.in_flight <= limits.requests);
            prop_assert!(guests.all.values().all(|guest| !guest.close.is_cancelled()));
        }
    }
}

#[test]
fn who_keeps_many_at_work_makes_room_for_others_and_not_the_other_way_round() {
    let mut now = Instant::now();
    let mut guests = Guests::new(few());
    // Somebody waits long for something to happen.
    let (id, waiting) = guests.enter(there(1), now);
    guests.begin(id, now);
    now += few().at_work * 10;
    for _ in 0..100 {
        let (id, _) = guests.enter(HERE, now);
        guests.begin(id, now);
        now += few().at_work / 10;
    }
    assert!(!waiting.is_cancelled());
    // Others come in, too, however short the many have been at work.
    for n in 2..4 {
        for _ in 0..few().known {
            let (id, _) = guests.enter(HERE, now);
            guests.begin(id, now);
        }
        let (id, newcomer) = guests.enter(there(n), now);
        guests.begin(id, now);
        assert!(!newcomer.is_cancelled(), "{n}");
    }
    assert!(!waiting.is_cancelled());
}
