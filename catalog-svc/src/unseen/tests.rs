//! When nodes are asked, and for how long what they said counts.

use super::{
    verdicts::{Company, LIVES, RETURNING, UNSETTLED},
    *,
};
use iceflix_core::{api::Kind, topics::MediaItem};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::{sync::Semaphore, time::sleep};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn node(n: u8) -> Instance {
    Instance {
        kind: Kind::Streaming,
        instance: format!("node-{n}").parse().unwrap(),
        endpoint: ([192, 0, 2, n], 1).into(),
        pid: 1,
        load: 0,
        draining: false,
    }
}

fn media(n: u8) -> MediaId {
    MediaId::from_bytes([n; 32])
}

fn live(nodes: &[u8]) -> BTreeMap<InstanceId, Instance> {
    let nodes = nodes.iter().map(|n| node(*n));
    nodes.map(|it| (it.instance.clone(), it)).collect()
}

/// Somebody came where these nodes are.
fn turn(nodes: &[u8], company: bool) -> Turn {
    Turn {
        arrived: nodes.iter().map(|n| node(*n).endpoint.ip()).collect(),
        company,
    }
}

/// Within some seconds, or within some minutes.
fn times() -> impl Strategy<Value = u64> {
    prop_oneof![0..8_000u64, 0..1_500_000u64]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![Just(Word::Lives), Just(Word::Refuses), Just(Word::Silence)]
}

proptest! {
    /// Whatever was heard when, and whenever a question comes.
    #[test]
    fn what_was_heard_long_ago_or_before_a_change_is_asked_anew(
        changed in times(),
        there in any::<bool>(),
        asked in times(),
        question in times(),
        word in word(),
    ) {
        let start = Instant::now();
        let at = |time| start + ms(time);
        let mut verdicts = Verdicts::new(start);
        // Others are seen all the time.
        verdicts.company = Company::Seen;
        verdicts.turns(&turn(if there { &[1, 2] } else { &[2] }, true), at(changed));
        let unseen = vec![(node(1), vec![media(1)])];
        verdicts.heard(vec![(node(1).instance, word)], at(asked));
        let wanting = verdicts.wanting(unseen.clone(), at(question));
        let age = question.saturating_sub(asked);
        let settled = asked.saturating_sub(changed);
        let known = match word {
            Word::Lives => age < 1_000,
            // Where somebody came it may speak any moment.
            Word::Silence if there && question < changed + 3_000 => asked >= question + 1_000,
            // Nothing is known that was heard before the question while anything may change.
            // Then it is enough to have asked lately.
            _ => age == 0 || settled >= 3_000 && age < (settled / 10).clamp(2_000, 60_000),
        };
        match known {
            true => prop_assert_eq!(wanting, Wanting::Nothing),
            false => prop_assert_eq!(wanting, Wanting::Answers(unseen.clone())),
        }
        let lives = usize::from(word == Word::Lives);
        prop_assert_eq!(verdicts.living(&unseen).len(), lives);
        verdicts.keep(&[]);
        prop_assert!(verdicts.living(&unseen).is_empty(), "it was seen meanwhile");
    }
}

/// A catalogue that knows of two nodes with a film each and sees neither.
struct Scene {
    index: Arc<SharedIndex>,
    unseen: Unseen,
    words: Arc<Mutex<[Word; 2]>>,
    times: Arc<AtomicUsize>,
    /// Questions come from another machine.
    elsewhere: AtomicBool,
    /// Nodes that live answer when there is a permit.
    lets: Arc<Semaphore>,
}

impl Scene {
    async fn of(words: [Word; 2]) -> Self {
        let index = Arc::new(SharedIndex::default());
        index.write().set_live(live(&[1, 2]));
        for n in 1..=2 {
            let item = MediaItem {
                id: media(n),
                name: format!("Film {n}"),
                size: 1,
                duration_s: None,
                format: String::new(),
                unplayable: None,
            };
            index.write().announced(&node(n).instance, item);
        }
        let (times, lets) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        lets.add_permits(1_000);
        let words = Arc::new(Mutex::new(words));
        let ask: Ask = {
            let (times, lets, words) = (times.clone(), lets.clone(), words.clone());
            Box::new(move |endpoint, films| {
                let IpAddr::V4(ip) = endpoint.ip() else {
                    panic!("{endpoint}")
                };
                let n = ip.octets()[3];
                assert_eq!(films, [media(n)]);
                times.fetch_add(1, Ordering::SeqCst);
                let word = words.lock().unwrap()[usize::from(n) - 1];
                let lets = lets.clone();
                Box::pin(async move {
                    match word {
                        Word::Lives => lets.acquire().await.unwrap().forget(),
                        Word::Refuses => {}
                        Word::Silence => sleep(PATIENCE).await,
                    }
                    word
                })
            })
        };
        let unseen = Unseen::asked_by(index.clone(), Box::new(HashSet::new), ask);
        let scene = Self {
            index,
            unseen,
            words,
            times,
            elsewhere: AtomicBool::new(false),
            lets,
        };
        // Both were there for a while.
        scene.sees(&[1, 2]);
        sleep(UNSETTLED).await;
        scene.sees(&[]);
        scene
    }

    fn sees(&self, nodes: &[u8]) {
        self.index.write().set_live(live(nodes));
        self.unseen.changed(&turn(&[], true));
    }

    /// Somebody else arrives, on the first node's machine.
    fn meets(&self) {
        self.unseen.changed(&turn(&[1], true));
    }

    fn say(&self, words: [Word; 2]) {
        *self.words.lock().unwrap() = words;
    }

    /// What a search gives that comes after whatever was before: which films are available, after
    /// how long, and how often it asked.
    async fn search(&self) -> ([bool; 2], Duration, usize) {
        sleep(ms(1)).await;
        let (began, before) = (Instant::now(), self.times.load(Ordering::SeqCst));
        self.unseen
            .are_asked(self.elsewhere.load(Ordering::SeqCst))
            .await;
        let index = self.index.read();
        let available = [1, 2].map(|n| index.get(&media(n), None).unwrap().tile.available);
        let asked = self.times.load(Ordering::SeqCst) - before;
        (available, began.elapsed(), asked)
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_while_all_are_seen() {
    let scene = Scene::of([Word::Refuses; 2]).await;
    scene.sees(&[1, 2]);
    assert_eq!(scene.search().await, ([true; 2], ms(0), 0));
}

#[tokio::test(start_paused = true)]
async fn who_answers_counts_as_seen_and_who_does_not_is_waited_for_a_moment() {
    let scene = Scene::of([Word::Lives, Word::Refuses]).await;
    assert_eq!(scene.search().await, ([true, false], ms(0), 2));
    // At once it is not asked again whether it lives; whether the other does, it is.
    assert_eq!(scene.search().await, ([true, false], ms(0), 1));
    scene.say([Word::Lives, Word::Silence]);
    assert_eq!(scene.search().await, ([true, false], PATIENCE, 1));
    // It dies.
    scene.say([Word::Silence; 2]);
    sleep(LIVES).await;
    assert_eq!(scene.search().await, ([false; 2], PATIENCE, 2));
    // A cable is in.
    scene.say([Word::Lives; 2]);
    assert_eq!(scene.search().await, ([true; 2], ms(0), 2));
    // It is seen, and no matter what it said before when it is lost once more.
    scene.sees(&[1, 2]);
    scene.sees(&[2]);
    scene.say([Word::Refuses; 2]);
    assert_eq!(scene.search().await, ([false, true], ms(0), 1));
}

#[tokio::test(start_paused = true)]
async fn who_has_been_silent_for_long_is_asked_every_two_seconds() {
    let scene = Scene::of([Word::Silence; 2]).await;
    sleep(UNSETTLED).await;
    let mut asked = Vec::new();
    for _ in 0..9 {
        let (available, took, times) = scene.search().await;
        assert_eq!(available, [false; 2]);
        assert_eq!(took, if times > 0 { PATIENCE } else { ms(0) });
        asked.push(times);
        sleep(ms(599) - took).await;
    }
    assert_eq!(asked, [2, 0, 0, 0, 2, 0, 0, 0, 2]);
    // Anything may be true now.
    scene.say([Word::Lives, Word::Silence]);
    scene.sees(&[]);
    assert_eq!(scene.search().await, ([true, false], PATIENCE, 2));
}

#[tokio::test(start_paused = true)]
async fn a_silence_is_no_answer_for_a_second_where_links_return() {
    let scene = Arc::new(Scene::of([Word::Silence; 2]).await);
    sleep(UNSETTLED).await;
    assert_eq!(scene.search().await.1, PATIENCE);
    scene.meets();
    let (available, took, _) = scene.search().await;
    assert_eq!((available, took), ([false; 2], RETURNING + PATIENCE));
    let search = {
        let scene = scene.clone();
        tokio::spawn(async move { scene.search().await })
    };
    sleep(ms(700)).await;
    scene.say([Word::Lives, Word::Silence]);
    let (available, took, _) = search.await.unwrap();
    assert_eq!((available, took), ([true, false], PATIENCE * 4));
    // That it is gone is known at once.
    sleep(LIVES).await;
    scene.say([Word::Refuses; 2]);
    assert_eq!(scene.search().await, ([false; 2], ms(0), 2));
}

#[tokio::test(start_paused = true)]
async fn who_was_cut_off_and_is_asked_from_another_machine_knows_that_links_return() {
    let scene = Scene::of([Word::Silence; 2]).await;
    sleep(UNSETTLED).await;
    scene.unseen.changed(&turn(&[], false));
    assert_eq!(scene.search().await.1, PATIENCE);
    scene.elsewhere.store(true, Ordering::SeqCst);
    assert_eq!(scene.search().await.1, RETURNING + PATIENCE);
    // Nobody returns: the others are gone, and this one is there, as whoever asks is.
    sleep(UNSETTLED).await;
    assert_eq!(scene.search().await.1, PATIENCE);
    scene.unseen.changed(&turn(&[], false));
    assert_eq!(scene.search().await.1, PATIENCE);
    // One is back, and others may be about to be.
    scene.unseen.changed(&turn(&[], true));
    assert_eq!(scene.search().await.1, RETURNING + PATIENCE);
    sleep(UNSETTLED).await;
    assert_eq!(scene.search().await.1, PATIENCE);
    // Cut off once more.
    scene.unseen.changed(&turn(&[], false));
    assert_eq!(scene.search().await.1, RETURNING + PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_silence_that_the_system_knows_of_is_no_reason_to_ask_without_end() {
    let scene = Scene::of([Word::Silence; 2]).await;
    let times = Arc::<AtomicUsize>::default();
    let asked = times.clone();
    let ask: Ask = Box::new(move |_, _| {
        asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Word::Silence })
    });
    let unseen = Unseen::asked_by(scene.index.clone(), Box::new(HashSet::new), ask);
    unseen.changed(&turn(&[1, 2], true));
    unseen.are_asked(false).await;
    // Every 100 ms for a second, both.
    assert_eq!(times.load(Ordering::SeqCst), 22);
}

#[tokio::test(start_paused = true)]
async fn a_silence_from_before_a_question_is_no_answer_to_it() {
    let scene = Arc::new(Scene::of([Word::Silence; 2]).await);
    let search = || {
        let scene = scene.clone();
        tokio::spawn(async move { scene.search().await })
    };
    let early = search();
    sleep(ms(100)).await;
    // The cable is in, and more questions come, which wait for those that are asked already.
    scene.say([Word::Lives; 2]);
    let late = [(); 100].map(|()| search());
    let (available, took, _) = early.await.unwrap();
    assert_eq!((available, took), ([false; 2], PATIENCE));
    for late in late {
        let (available, took, _) = late.await.unwrap();
        assert_eq!((available, took), ([true; 2], ms(100)));
    }
    assert_eq!(
        scene.times.load(Ordering::SeqCst),
        4,
        "once for all of them"
    );
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_given_up_leaves_those_who_are_asked_to_the_others() {
    let scene = Arc::new(Scene::of([Word::Lives; 2]).await);
    scene.lets.forget_permits(1_000);
    let given_up = tokio::time::timeout(ms(50), scene.search()).await;
    assert!(given_up.is_err());
    let waiting = {
        let scene = scene.clone();
        tokio::spawn(async move { scene.search().await })
    };
    sleep(ms(50)).await;
    scene.lets.add_permits(2);
    let (available, took, _) = waiting.await.unwrap();
    assert_eq!((available, took), ([true; 2], ms(49)));
    assert_eq!(scene.times.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_expelled_is_not_asked_and_counts_no_more() {
    let scene = Scene::of([Word::Lives; 2]).await;
    assert_eq!(scene.search().await, ([true; 2], ms(0), 2));
    let all = || live(&[1, 2]).into_keys().collect();
    let expelling = Unseen::asked_by(
        scene.index.clone(),
        Box::new(all),
        Box::new(|_, _| panic!("asked")),
    );
    expelling.are_asked(false).await;
    assert!(scene.index.read().reached().is_empty());
}
