//! Any events, in any order, beside a model without structure.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Event {
    Announced(u8, u8, String),
    Withdrawn(u8, u8),
    Replaced(u8, BTreeMap<u8, String>),
    Gone(u8),
    Live(BTreeSet<u8>),
    Reached(BTreeSet<u8>),
    Title(u8, Option<String>),
    Name(u8, Option<String>),
    Tag(u8, u8, u8, bool),
}

/// Few of everything, so that events meet.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let (n, m) = (0..3u8, 0..5u8);
    let name = "[aAbÉé%]{1,3}";
    let maybe = || prop::option::of(name);
    let event = prop_oneof![
        4 => (n.clone(), m.clone(), name).prop_map(|(n, m, s)| Event::Announced(n, m, s)),
        2 => (n.clone(), m.clone()).prop_map(|(n, m)| Event::Withdrawn(n, m)),
        2 => (n.clone(), prop::collection::btree_map(m.clone(), name, 0..4))
            .prop_map(|(n, all)| Event::Replaced(n, all)),
        1 => n.clone().prop_map(Event::Gone),
        2 => prop::collection::btree_set(n.clone(), 0..4).prop_map(Event::Live),
        1 => prop::collection::btree_set(n.clone(), 0..4).prop_map(Event::Reached),
        1 => (m.clone(), maybe()).prop_map(|(m, s)| Event::Title(m, s)),
        1 => (m.clone(), maybe()).prop_map(|(m, s)| Event::Name(m, s)),
        4 => (0..2u8, m, 0..3u8, any::<bool>()).prop_map(|(u, m, t, p)| Event::Tag(u, m, t, p)),
    ];
    prop::collection::vec(event, 0..40)
}

/// The same catalogue, without any structure.
#[derive(Default)]
struct Model {
    claims: BTreeMap<(u8, u8), String>,
    live: BTreeSet<u8>,
    reached: BTreeSet<u8>,
    titles: BTreeMap<u8, String>,
    names: BTreeMap<u8, String>,
    tags: BTreeSet<(u8, u8, u8)>,
}

impl Model {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Announced(n, m, name) => drop(self.claims.insert((n, m), name)),
            Event::Withdrawn(n, m) => drop(self.claims.remove(&(n, m))),
            Event::Replaced(n, all) => {
                self.claims.retain(|(node, _), _| *node != n);
                self.claims
                    .extend(all.into_iter().map(|(m, name)| ((n, m), name)));
            }
            Event::Gone(n) => self.claims.retain(|(node, _), _| *node != n),
            Event::Live(live) => {
                self.reached = &self.reached - &live;
                self.live = live;
            }
            Event::Reached(reached) => self.reached = &reached - &self.live,
            Event::Title(m, Some(name)) => drop(self.titles.insert(m, name)),
            Event::Title(m, None) => drop(self.titles.remove(&m)),
            Event::Name(m, Some(name)) => drop(self.names.insert(m, name)),
            Event::Name(m, None) => drop(self.names.remove(&m)),
            Event::Tag(u, m, t, true) => drop(self.tags.insert((u, m, t))),
            Event::Tag(u, m, t, false) => drop(self.tags.remove(&(u, m, t))),
        }
    }

    /// Id, name, the user's tags, providers.
    fn tiles(&self, user: u8) -> Vec<(MediaId, String, Vec<String>, u32)> {
        let mut tiles: Vec<_> = (0..5)
            .filter_map(|m| {
                let mut claims = self.claims.iter().filter(|((_, film), _)| *film == m);
                let first = claims.clone().next().map(|(_, name)| name);
                let first = self.titles.get(&m).or(first)?;
                let name = self.names.get(&m).unwrap_or(first).clone();
                let tags = (0..3).filter(|t| self.tags.contains(&(user, m, *t)));
                let tags = tags.map(|t| t.to_string()).collect();
                let alive = &self.live | &self.reached;
                let providers = claims.by_ref().filter(|((n, _), _)| alive.contains(n));
                Some((media(m), name, tags, providers.count() as u32))
            })
            .collect();
        tiles.sort_by_key(|(id, name, ..)| (text::fold(name), *id));
        tiles
    }
}

fn apply(shared: &SharedIndex, event: Event) {
    let mut index = shared.write();
    match event {
        Event::Announced(n, m, name) => drop(index.announced(&node(n), item(m, &name))),
        Event::Withdrawn(n, m) => index.withdrawn(&node(n), media(m)),
        Event::Replaced(n, all) => {
            drop(index);
            let items = all.iter().map(|(m, name)| item(*m, name)).collect();
            drop(shared.provider_replaced(&node(n), items));
        }
        Event::Gone(n) => index.provider_gone(&node(n)),
        Event::Live(nodes) => {
            let nodes: Vec<_> = nodes.into_iter().map(|n| (n, false)).collect();
            index.set_live(live(&nodes));
        }
        Event::Reached(nodes) => {
            let nodes: Vec<_> = nodes.into_iter().map(|n| (n, false)).collect();
            index.set_reached(live(&nodes));
        }
        Event::Title(m, name) => {
            let row = name.map(|name| TitleRow::of(&item(m, &name)));
            index.title_row(media(m), row);
        }
        Event::Name(m, name) => index.name_row(media(m), name),
        Event::Tag(u, m, t, present) => {
            index.tag_row(&u.to_string(), media(m), &t.to_string(), present);
        }
    }
}

proptest! {
    #[test]
    fn any_events_end_where_a_naive_model_ends(events in events()) {
        let (index, mut model) = (SharedIndex::default(), Model::default());
        for event in events {
            model.apply(event.clone());
            apply(&index, event);
        }
        let index = index.read();
        for user in 0..2 {
            let tiles = find_all(&index, &Query::default(), Some(&user.to_string()), 2);
            let tiles: Vec<_> = tiles
                .into_iter()
                .map(|tile| (tile.id, tile.name, tile.tags, tile.providers))
                .collect();
            prop_assert_eq!(&tiles, &model.tiles(user));
            prop_assert_eq!(tiles.len(), index.len());
        }
    }

    #[test]
    fn pages_give_each_match_once_in_order(
        names in prop::collection::vec("[abAÁß %]{0,6}", 0..60),
        part in "[abß]{0,3}",
        exact in any::<bool>(),
        with_tags in any::<bool>(),
        limit in 1..70u32,
    ) {
        let mut index = Index::default();
        let mut expected = Vec::new();
        for (n, name) in (0..).zip(&names) {
            index.announced(&node(1), item(n, &format!("{name}.")));
            index.name_row(media(n), Some(name.clone()));
            let tagged = n % 3 > 0;
            if tagged {
                index.tag_row("eva", media(n), if n % 3 > 1 { "a" } else { "b" }, true);
            }
            let (name, part) = (text::fold(name), text::fold(&part));
            let matches = if exact { part.is_empty() || name == part } else { name.contains(&part) };
            if matches && (tagged || !with_tags) {
                expected.push((name, media(n)));
            }
        }
        expected.sort();
        let mut query = if with_tags { tagged(&["a", "b"], false) } else { Query::default() };
        query.name = part;
        query.exact = exact;
        let tiles = find_all(&index, &query, Some("eva"), limit);
        let tiles: Vec<_> = tiles.iter().map(|t| (text::fold(&t.name), t.id)).collect();
        prop_assert_eq!(tiles, expected);
    }

    #[test]
    fn films_that_come_and_go_between_pages_do_not_move_the_others(
        stay in prop::collection::btree_set(0..100u8, 1..30),
        changes in prop::collection::vec((0..100u8, any::<bool>()), 0..30),
        limit in 1..5u32,
    ) {
        let mut index = Index::default();
        let name = |n: u8| format!("{:02}", n % 50);
        for n in &stay {
            index.announced(&node(1), item(*n, &name(*n)));
        }
        let mut changes = changes.into_iter();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = index.find(&Query::default(), None, &PageRequest { after, limit });
            seen.extend(page.items.iter().map(|tile| tile.id));
            if let Some((n, come)) = changes.next().filter(|(n, _)| !stay.contains(n)) {
                if come {
                    index.announced(&node(1), item(n, &name(n)));
                } else {
                    index.withdrawn(&node(1), media(n));
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), seen.len());
        for n in stay {
            prop_assert!(seen.contains(&media(n)));
        }
    }
}

#[test]
fn a_large_snapshot_is_entered_whole_and_what_is_not_in_it_goes() {
    let items = |range: std::ops::Range<u32>| -> Vec<_> {
        let wide = |n: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_be_bytes());
            MediaItem {
                id: MediaId::from_bytes(id),
                ..item(0, &n.to_string())
            }
        };
        range.map(wide).collect()
    };
    let index = SharedIndex::default();
    let new = index.provider_replaced(&node(1), items(0..1700));
    assert_eq!((new.len(), index.read().len()), (1700, 1700));
    index.provider_replaced(&node(1), items(1600..3000));
    assert_eq!(index.read().len(), 1400);
    index.provider_replaced(&node(1), Vec::new());
    assert!(index.read().is_empty());
}
