mod properties;

use super::*;
use iceflix_core::api::{Kind, Page, PageRequest, catalog::Query};

fn media(n: u8) -> MediaId {
    let mut id = [0; 32];
    id[0] = n;
    MediaId::from_bytes(id)
}

fn node(n: u8) -> InstanceId {
    format!("node-{n}").parse().unwrap()
}

fn instance(n: u8, draining: bool) -> Instance {
    Instance {
        kind: Kind::Streaming,
        instance: node(n),
        endpoint: ([127, 0, 0, 1], 4000 + u16::from(n)).into(),
        pid: 1,
        load: 0,
        draining,
    }
}

fn live(nodes: &[(u8, bool)]) -> BTreeMap<InstanceId, Instance> {
    let nodes = nodes.iter();
    nodes.map(|&(n, d)| (node(n), instance(n, d))).collect()
}

fn item(n: u8, name: &str) -> MediaItem {
    MediaItem {
        id: media(n),
        name: name.to_owned(),
        size: 1000 + u64::from(n),
        duration_s: Some(60.0),
        format: "MP4, H.264 1280×720, AAC 2 channels".to_owned(),
        unplayable: None,
    }
}

fn named(name: &str, exact: bool) -> Query {
    Query {
        name: name.to_owned(),
        exact,
        ..Query::default()
    }
}

fn tagged(tags: &[&str], all_tags: bool) -> Query {
    Query {
        tags: tags.iter().map(|t| (*t).to_owned()).collect(),
        all_tags,
        ..Query::default()
    }
}

fn find_all(index: &Index, query: &Query, user: Option<&str>, limit: u32) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut after = None;
    loop {
        let Page { items, next } = index.find(query, user, &PageRequest { after, limit });
        assert!(items.len() <= limit as usize && (next.is_none() || !items.is_empty()));
        tiles.extend(items);
        match next {
            Some(_) => after = next,
            None => return tiles,
        }
    }
}

fn names(index: &Index, query: &Query, user: Option<&str>) -> Vec<String> {
    let tiles = find_all(index, query, user, 100);
    tiles.into_iter().map(|tile| tile.name).collect()
}

/// An index of these films, all on a live node.
fn index_of(films: &[(u8, &str)]) -> Index {
    let mut index = Index::default();
    index.set_live(live(&[(1, false)]));
    let items = films.iter().map(|(n, name)| item(*n, name));
    for (id, row) in items
        .filter_map(|item| index.announced(&node(1), item))
        .collect::<Vec<_>>()
    {
        index.title_row(id, Some(row));
    }
    index
}

#[test]
fn new_media_is_visible_at_once_and_reported_until_it_has_a_title() {
    let mut index = Index::default();
    index.set_live(live(&[(1, false)]));
    let (id, row) = index.announced(&node(1), item(1, "Amélie")).unwrap();
    assert!(index.get(&id, None).unwrap().tile.available);
    assert!(index.announced(&node(2), item(1, "amelie 2001")).is_some());
    index.title_row(id, Some(row));
    assert!(index.announced(&node(2), item(1, "amelie 2001")).is_none());
    assert_eq!(index.get(&id, None).unwrap().tile.name, "Amélie");
}

#[test]
fn media_announced_before_its_node_is_known_counts_when_both_are() {
    let mut index = Index::default();
    index.announced(&node(1), item(1, "a"));
    let tile = index.get(&media(1), None).unwrap().tile;
    assert_eq!((tile.available, tile.providers), (false, 0));
    index.set_live(live(&[(1, false)]));
    let details = index.get(&media(1), None).unwrap();
    assert_eq!((details.tile.available, details.tile.providers), (true, 1));
    assert_eq!(details.providers, [instance(1, false)]);
}

#[test]
fn one_film_on_two_nodes_is_one_title_with_two_providers() {
    let mut index = Index::default();
    index.set_live(live(&[(1, false), (2, false)]));
    index.announced(&node(2), item(1, "b"));
    index.announced(&node(1), item(1, "a"));
    assert_eq!(index.len(), 1);
    let details = index.get(&media(1), None).unwrap();
    assert_eq!(details.tile.providers, 2);
    let providers = [instance(1, false), instance(2, false)];
    assert_eq!(details.providers, providers);
    index.withdrawn(&node(1), media(1));
    assert_eq!(index.get(&media(1), None).unwrap().tile.providers, 1);
}

#[test]
fn removed_media_is_unavailable_and_keeps_its_name_and_tags() {
    let mut index = index_of(&[(1, "a"), (2, "b")]);
    index.name_row(media(1), Some("A!".to_owned()));
    index.tag_row("eva", media(1), "good", true);
    index.withdrawn(&node(1), media(1));
    let details = index.get(&media(1), Some("eva")).unwrap();
    assert_eq!((details.tile.available, details.tile.providers), (false, 0));
    assert_eq!(details.tile.name, "A!");
    assert_eq!(details.tile.tags, ["good"]);
    assert_eq!(details.tile.duration_s, Some(60.0));
    assert_eq!((details.size, details.providers.len()), (1001, 0));
    assert_eq!(names(&index, &tagged(&["good"], true), Some("eva")), ["A!"]);
}

#[test]
fn a_node_that_returns_has_its_films_back() {
    let mut index = index_of(&[(1, "a")]);
    index.set_live(live(&[]));
    assert!(!index.get(&media(1), None).unwrap().tile.available);
    index.set_live(live(&[(1, false)]));
    assert!(index.get(&media(1), None).unwrap().tile.available);
}

/// The nodes that are missed, and films of each.
fn missed(index: &Index, expelled: &[u8]) -> Vec<(Instance, Vec<MediaId>)> {
    let missed = index.missed(&expelled.iter().map(|n| node(*n)).collect());
    assert!(index.misses_nodes() || missed.is_empty());
    missed
}

#[test]
fn a_node_that_goes_is_missed_unless_it_said_that_it_would() {
    let mut index = index_of(&[(1, "a")]);
    // Heard of before it is seen: nobody knows yet where it is.
    index.announced(&node(2), item(2, "b"));
    assert!(missed(&index, &[]).is_empty());
    for leaves in [false, true, false] {
        index.set_live(live(&[(1, false), (2, false)]));
        index.set_live(live(&[(1, false), (2, leaves)]));
        assert!(missed(&index, &[]).is_empty(), "it is there");
        for _ in 0..2 {
            index.set_live(live(&[(1, false)]));
            let goes = [(instance(2, false), vec![media(2)])];
            assert_eq!(missed(&index, &[]), if leaves { &[][..] } else { &goes });
            assert!(missed(&index, &[2]).is_empty(), "expelled");
        }
    }
    index.provider_gone(&node(2));
    assert!(missed(&index, &[]).is_empty(), "it has no films");
}

#[test]
fn a_node_is_asked_for_films_that_it_can_play() {
    let mut index = index_of(&[(2, "b"), (3, "c"), (4, "d")]);
    let mut odd = item(1, "odd");
    odd.unplayable = Some("no decoder for ProRes".to_owned());
    index.announced(&node(1), odd);
    index.set_live(live(&[]));
    let of = |films: &[u8]| {
        let films = films.iter().map(|n| media(*n));
        [(instance(1, false), films.collect::<Vec<_>>())]
    };
    assert_eq!(missed(&index, &[]), of(&[2, 4]));
    index.withdrawn(&node(1), media(4));
    assert_eq!(missed(&index, &[]), of(&[2, 3]));
    index.withdrawn(&node(1), media(3));
    assert_eq!(missed(&index, &[]), of(&[2]));
    index.withdrawn(&node(1), media(2));
    assert_eq!(missed(&index, &[]), of(&[1]));
    // Another one is where it was.
    let mut other = live(&[(2, false)]);
    other.get_mut(&node(2)).unwrap().endpoint = instance(1, false).endpoint;
    index.set_live(other);
    assert_eq!(missed(&index, &[]), []);
}

#[test]
fn a_node_that_is_not_seen_counts_while_it_answers() {
    let mut index = index_of(&[(1, "a")]);
    let answers = || live(&[(1, false)]);
    index.set_live(live(&[]));
    index.set_reached(answers());
    let details = index.get(&media(1), None).unwrap();
    assert!(details.tile.available);
    assert_eq!(details.providers, [instance(1, false)]);
    assert_eq!(missed(&index, &[]).len(), 1, "still to be asked");
    assert!(index.misses_nodes() && missed(&index, &[1]).is_empty());
    // Seen once more, it is no matter what it answered.
    index.set_live(answers());
    assert!(index.reached().is_empty());
    index.set_reached(answers());
    assert!(index.reached().is_empty());
    index.set_live(live(&[]));
    assert!(!index.get(&media(1), None).unwrap().tile.available);
    assert_eq!(index.get(&media(1), None).unwrap().size, 1001);
}

#[test]
fn a_leaving_node_counts_only_when_alone() {
    let mut index = index_of(&[(1, "a")]);
    index.announced(&node(2), item(1, "a"));
    index.set_live(live(&[(1, true), (2, false)]));
    let details = index.get(&media(1), None).unwrap();
    assert_eq!(details.providers, [instance(2, false)]);
    assert_eq!(details.tile.providers, 1);
    index.set_live(live(&[(1, true)]));
    let details = index.get(&media(1), None).unwrap();
    assert_eq!(details.providers, [instance(1, true)]);
}

#[test]
fn what_no_node_can_play_is_listed_with_the_reason() {
    let mut index = index_of(&[]);
    let mut odd = item(1, "odd");
    odd.unplayable = Some("no decoder for ProRes".to_owned());
    index.announced(&node(1), odd);
    let details = index.get(&media(1), None).unwrap();
    assert_eq!((details.tile.available, details.tile.providers), (false, 1));
    let why = details.tile.unplayable.as_deref();
    assert_eq!(why, Some("no decoder for ProRes"));
    assert!(details.providers.is_empty());
    // Another node can.
    index.announced(&node(2), item(1, "odd"));
    index.set_live(live(&[(1, false), (2, false)]));
    let details = index.get(&media(1), None).unwrap();
    assert_eq!((details.tile.available, details.tile.providers), (true, 2));
    assert_eq!(details.tile.unplayable, None);
    assert_eq!(details.providers, [instance(2, false)]);
}

#[test]
fn a_film_is_known_by_its_title_and_not_by_what_people_said_alone() {
    let mut index = Index::default();
    index.name_row(media(1), Some("A".to_owned()));
    index.tag_row("eva", media(1), "t", true);
    assert!(!index.contains(&media(1)) && index.is_empty());
    assert!(find_all(&index, &tagged(&["t"], false), Some("eva"), 10).is_empty());
    assert!(index.ids_by_prefix("01", 10).is_empty());
    index.title_row(media(1), Some(TitleRow::of(&item(1, "a"))));
    assert_eq!(index.get(&media(1), None).unwrap().tile.name, "A");
    index.name_row(media(1), None);
    assert_eq!(names(&index, &Query::default(), None), ["a"]);
}

#[test]
fn a_long_gone_node_is_forgotten_and_a_live_one_is_not() {
    let mut index = index_of(&[(1, "a")]);
    index.announced(&node(2), item(2, "b"));
    let start = Instant::now();
    let hour = Duration::from_secs(3600);
    assert!(index.prune(start, hour).is_empty());
    assert!(index.prune(start + hour, hour).is_empty());
    assert_eq!(index.prune(start + 2 * hour, hour), [node(2)]);
    assert!(index.contains(&media(1)) && !index.contains(&media(2)));
    // Coming back in between starts the count anew.
    index.set_live(live(&[]));
    assert!(index.prune(start, hour).is_empty());
    index.set_live(live(&[(1, false)]));
    assert!(index.prune(start + 2 * hour, hour).is_empty());
    index.set_live(live(&[]));
    assert!(index.prune(start + 2 * hour, hour).is_empty());
}

#[test]
fn names_match_whole_or_in_part_and_no_character_is_special() {
    let quote = r#"It's "50%_off" \ now"#;
    let index = index_of(&[(1, "Amélie"), (2, quote), (3, "Cœur 100"), (4, "amelie 2")]);
    let found = |name, exact| names(&index, &named(name, exact), None);
    assert_eq!(found("AMELIE", false), ["Amélie", "amelie 2"]);
    assert_eq!(found("amelie", true), ["Amélie"]);
    assert_eq!(found("coeur", false), ["Cœur 100"]);
    for part in ["'", "\"", "%", "_", "\\", "50%_", quote] {
        assert_eq!(found(part, false), [quote], "{part}");
    }
    assert_eq!(found(quote, true), [quote]);
    assert!(found("1%0", false).is_empty() && found("%", true).is_empty());
    assert_eq!(found("", true).len(), 4);
    assert!(found(&"a".repeat(1 << 20), false).is_empty());
}

#[test]
fn a_new_name_is_found_and_the_old_one_is_not() {
    let mut index = index_of(&[(1, "holiday")]);
    index.name_row(media(1), Some("Roma".to_owned()));
    assert!(names(&index, &named("holi", false), None).is_empty());
    assert_eq!(names(&index, &named("rom", false), None), ["Roma"]);
    assert_eq!(index.len(), 1);
}

#[test]
fn tags_match_any_or_all_or_nothing() {
    let mut index = index_of(&[(1, "one"), (2, "two"), (3, "three")]);
    for (n, tag) in [(1, "a"), (1, "b"), (2, "a"), (2, "b"), (2, "c"), (2, "c")] {
        index.tag_row("eva", media(n), tag, true);
    }
    index.tag_row("tom", media(3), "a", true);
    let found = |tags: &[&str], all| names(&index, &tagged(tags, all), Some("eva"));
    assert_eq!(found(&["a"], false), ["one", "two"]);
    assert_eq!(found(&["a", "b"], true), ["one", "two"]);
    // A film tagged a, b is not one tagged a, b, c.
    assert_eq!(found(&["a", "b", "c"], true), ["two"]);
    assert_eq!(found(&["c", "x"], false), ["two"]);
    assert!(found(&["c", "x"], true).is_empty());
    assert!(found(&["A"], false).is_empty());
    // No condition in a search, no films by tags.
    assert_eq!(found(&[], true).len(), 3);
    let none = index.find_tagged(Vec::new(), true, "eva", &PageRequest::first());
    assert!(none.items.is_empty());
    // One user's tags are not another's, nor anybody's without a token.
    assert_eq!(names(&index, &tagged(&["a"], true), Some("tom")), ["three"]);
    assert!(names(&index, &tagged(&["a"], true), None).is_empty());
    assert_eq!(index.get(&media(2), None).unwrap().tile.tags.len(), 0);
    let more = ["c".to_owned(), "d".to_owned()];
    assert_eq!(index.tag_count_with("eva", &media(2), &more), 4);
    assert_eq!(index.tag_count_with("tom", &media(2), &more), 2);
    // Name and tags at once.
    let mut both = tagged(&["b"], false);
    both.name = "TW".to_owned();
    assert_eq!(names(&index, &both, Some("eva")), ["two"]);
}

#[test]
fn a_tag_given_twice_is_one_and_removing_an_absent_one_is_nothing() {
    let mut index = index_of(&[(1, "one")]);
    for _ in 0..2 {
        index.tag_row("eva", media(1), "a", true);
    }
    index.tag_row("eva", media(1), "x", false);
    index.tag_row("tom", media(1), "a", false);
    assert_eq!(index.get(&media(1), Some("eva")).unwrap().tile.tags, ["a"]);
    index.tag_row("eva", media(1), "a", false);
    assert!(
        index
            .get(&media(1), Some("eva"))
            .unwrap()
            .tile
            .tags
            .is_empty()
    );
    assert!(index.tags.is_empty());
}

#[test]
fn ids_are_found_by_their_beginning() {
    let index = index_of(&[(0x1f, "a"), (0x10, "b"), (0x20, "c")]);
    assert_eq!(index.ids_by_prefix("1", 10), [media(0x10), media(0x1f)]);
    assert_eq!(index.ids_by_prefix("1F", 10), [media(0x1f)]);
    assert_eq!(index.ids_by_prefix("1f1", 10), []);
    assert_eq!(index.ids_by_prefix("", 2).len(), 2);
    let whole = media(0x20).to_string();
    assert_eq!(index.ids_by_prefix(&whole, 10), [media(0x20)]);
    for bad in ["x", "%", "é", &format!("{whole}0")] {
        assert!(index.ids_by_prefix(bad, 10).is_empty(), "{bad}");
    }
}

#[test]
fn a_page_ends_before_it_is_too_large_for_a_frame() {
    let mut index = index_of(&[]);
    for n in 0..40 {
        index.announced(&node(1), item(n, "same"));
        for tag in 0..1000 {
            index.tag_row("eva", media(n), &format!("{tag:064}"), true);
        }
    }
    let page = index.find(&Query::default(), Some("eva"), &PageRequest::first());
    assert!(page.items.len() < 20 && page.next.is_some());
    assert_eq!(
        find_all(&index, &Query::default(), Some("eva"), 500).len(),
        40
    );
}

#[test]
fn a_cursor_that_no_page_gave_is_ignored() {
    let index = index_of(&[(1, "a"), (2, "b")]);
    for bad in ["", "x", &"é".repeat(40), &"0".repeat(63), &"z".repeat(70)] {
        let after = Some(bad.to_owned());
        let page = index.find(&Query::default(), None, &PageRequest { after, limit: 0 });
        assert_eq!(page.items[0].name, "a", "{bad}");
        assert!(page.items.len() == 1 && page.next.is_some());
    }
}

#[test]
fn a_nodes_word_is_bounded() {
    let mut index = index_of(&[]);
    let mut wild = item(1, "\n");
    wild.duration_s = Some(f64::NAN);
    wild.format = "x".repeat(1 << 16);
    wild.unplayable = Some("\u{1b}[2J".repeat(1 << 12));
    index.announced(&node(1), wild.clone());
    let details = index.get(&media(1), None).unwrap();
    assert_eq!(details.tile.duration_s, None);
    assert_eq!(details.format.len(), MAX_REMARK);
    assert!(!details.tile.unplayable.unwrap().contains('\u{1b}'));
    assert_eq!(details.tile.name, "\u{fffd}");
    wild.name = String::new();
    index.announced(&node(1), wild);
    assert_eq!(
        index.get(&media(1), None).unwrap().tile.name,
        "010000000000"
    );
}
