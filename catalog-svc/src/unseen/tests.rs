//! When nodes are asked, and for how long what they said counts.

use super::*;
use iceflix_core::{api::Kind, topics::MediaItem};
use proptest::prelude::*;
use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
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

proptest! {
    /// Whatever was heard when, and whenever a question comes.
    #[test]
    fn what_was_heard_long_ago_or_before_a_change_is_asked_anew(
        changed in 0..8_000u64,
        asked in 0..8_000u64,
        question in 0..8_000u64,
        lives in any::<bool>(),
    ) {
        let start = Instant::now();
        let at = |time| start + ms(time);
        let mut verdicts = Verdicts::new(at(changed));
        let unseen = vec![(node(1), media(1))];
        verdicts.heard(vec![(node(1).instance, lives)], at(asked));
        let wanting = verdicts.wanting(unseen.clone(), at(question));
        let age = question.saturating_sub(asked);
        let known = match lives {
            true => age < 1_000,
            // Nothing is known that was heard before the question while anything may change.
            false => age == 0 || age < 2_000 && asked >= changed + 3_000,
        };
        match known {
            true => prop_assert_eq!(wanting, Wanting::Nothing),
            false => prop_assert_eq!(wanting, Wanting::Answers(unseen.clone())),
        }
        prop_assert_eq!(verdicts.living(&unseen).len(), usize::from(lives));
        verdicts.keep(&[]);
        prop_assert!(verdicts.living(&unseen).is_empty(), "it was seen meanwhile");
    }
}

/// What becomes of a node that is asked.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Lives,
    Refuses,
    IsSilent,
}

/// A catalogue that knows of two nodes with a film each and sees neither.
struct Scene {
    index: Arc<SharedIndex>,
    asker: Asker,
    fates: Arc<Mutex<[Fate; 2]>>,
    times: Arc<AtomicUsize>,
    /// Nodes that live answer when there is a permit.
    lets: Arc<Semaphore>,
}

impl Scene {
    async fn of(fates: [Fate; 2]) -> Self {
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
        let fates = Arc::new(Mutex::new(fates));
        let ask: Ask = {
            let (times, lets, fates) = (times.clone(), lets.clone(), fates.clone());
            Box::new(move |endpoint, id| {
                let IpAddr::V4(ip) = endpoint.ip() else {
                    panic!("{endpoint}")
                };
                let n = ip.octets()[3];
                assert_eq!(id, media(n));
                times.fetch_add(1, Ordering::SeqCst);
                let fate = fates.lock().unwrap()[usize::from(n) - 1];
                let lets = lets.clone();
                Box::pin(async move {
                    match fate {
                        Fate::Lives => lets.acquire().await.unwrap().forget(),
                        Fate::Refuses => {}
                        Fate::IsSilent => std::future::pending().await,
                    }
                    fate == Fate::Lives
                })
            })
        };
        let asker = Asker::asking(index.clone(), Box::new(HashSet::new), ask);
        let scene = Self {
            index,
            asker,
            fates,
            times,
            lets,
        };
        scene.sees(&[]);
        scene
    }

    fn sees(&self, nodes: &[u8]) {
        self.index.write().set_live(live(nodes));
        self.asker.changed();
    }

    fn becomes(&self, fates: [Fate; 2]) {
        *self.fates.lock().unwrap() = fates;
    }

    /// What a search gives that comes after whatever was before: which films are available, after
    /// how long, and how often it asked.
    async fn search(&self) -> ([bool; 2], Duration, usize) {
        sleep(ms(1)).await;
        let (began, before) = (Instant::now(), self.times.load(Ordering::SeqCst));
        self.asker.ask().await;
        let index = self.index.read();
        let available = [1, 2].map(|n| index.get(&media(n), None).unwrap().tile.available);
        let asked = self.times.load(Ordering::SeqCst) - before;
        (available, began.elapsed(), asked)
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_while_all_are_seen() {
    let scene = Scene::of([Fate::Refuses; 2]).await;
    scene.sees(&[1, 2]);
    assert_eq!(scene.search().await, ([true; 2], ms(0), 0));
}

#[tokio::test(start_paused = true)]
async fn who_answers_counts_as_seen_and_who_does_not_is_waited_for_a_moment() {
    let scene = Scene::of([Fate::Lives, Fate::Refuses]).await;
    assert_eq!(scene.search().await, ([true, false], ms(0), 2));
    // At once it is not asked again whether it lives; whether the other does, it is.
    assert_eq!(scene.search().await, ([true, false], ms(0), 1));
    scene.becomes([Fate::Lives, Fate::IsSilent]);
    assert_eq!(scene.search().await, ([true, false], PATIENCE, 1));
    // It dies.
    scene.becomes([Fate::IsSilent; 2]);
    sleep(LIVES).await;
    assert_eq!(scene.search().await, ([false; 2], PATIENCE, 2));
    // A cable is in.
    scene.becomes([Fate::Lives; 2]);
    assert_eq!(scene.search().await, ([true; 2], ms(0), 2));
    // It is seen, and no matter what it said before when it is lost once more.
    scene.sees(&[1, 2]);
    scene.sees(&[2]);
    scene.becomes([Fate::Refuses; 2]);
    assert_eq!(scene.search().await, ([false, true], ms(0), 1));
}

#[tokio::test(start_paused = true)]
async fn who_has_been_silent_for_long_is_asked_every_two_seconds() {
    let scene = Scene::of([Fate::IsSilent; 2]).await;
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
    // Somebody arrives: anything may be true now.
    scene.becomes([Fate::Lives, Fate::IsSilent]);
    scene.asker.changed();
    assert_eq!(scene.search().await, ([true, false], PATIENCE, 2));
}

#[tokio::test(start_paused = true)]
async fn a_silence_from_before_a_question_is_no_answer_to_it() {
    let scene = Arc::new(Scene::of([Fate::IsSilent; 2]).await);
    let search = || {
        let scene = scene.clone();
        tokio::spawn(async move { scene.search().await })
    };
    let early = search();
    sleep(ms(100)).await;
    // The cable is in, and more questions come, which wait for those that are asked already.
    scene.becomes([Fate::Lives; 2]);
    let late = [(); 100].map(|()| search());
    let (available, took, _) = early.await.unwrap();
    assert_eq!((available, took), ([false; 2], PATIENCE));
    for late in late {
        let (available, took, _) = late.await.unwrap();
        assert_eq!((available, took), ([true; 2], ms(150)));
    }
    assert_eq!(
        scene.times.load(Ordering::SeqCst),
        4,
        "once for all of them"
    );
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_given_up_leaves_those_who_are_asked_to_the_others() {
    let scene = Arc::new(Scene::of([Fate::Lives; 2]).await);
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
    let scene = Scene::of([Fate::Lives; 2]).await;
    assert_eq!(scene.search().await, ([true; 2], ms(0), 2));
    let all = || live(&[1, 2]).into_keys().collect();
    let expelling = Asker::asking(
        scene.index.clone(),
        Box::new(all),
        Box::new(|_, _| panic!("asked")),
    );
    expelling.ask().await;
    assert!(scene.index.read().reached().is_empty());
}
