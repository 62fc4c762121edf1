//! What streaming nodes announce, seen through a real catalogue on a real bus.

use crate::world::{PATIENCE, World, film, media};
use iceflix_core::api::{PageRequest, auth::Role, catalog::CatalogError};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn media_announced_before_the_catalogue_or_its_node_are_there_in_20_of_20_cold_starts() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let world = World::new(&format!("cold-{n}")).await;
        let token = world.token("eva", Role::User);
        let (films, name) = ([film(1, "Film")], "node-1");
        let catalog = match n % 3 {
            // Node and films first, then the catalogue.
            0 => {
                let node = world.live_node(name, &films).await;
                let catalog = world.catalog(&format!("catalog-{n}"), dir.path()).await;
                (catalog, node)
            }
            // Films first, then the catalogue, then the node's directory entry.
            1 => {
                let mut node = world.node(name, &films).await;
                let catalog = world.catalog(&format!("catalog-{n}"), dir.path()).await;
                node.go_live().await;
                (catalog, node)
            }
            // The catalogue first, then the films, then the node's entry.
            _ => {
                let catalog = world.catalog(&format!("catalog-{n}"), dir.path()).await;
                let mut node = world.node(name, &films).await;
                node.go_live().await;
                (catalog, node)
            }
        };
        let (catalog, _node) = catalog;
        let tile = catalog.until(&token, media(1), |tile| tile.available).await;
        assert_eq!((tile.name.as_str(), tile.providers), ("Film", 1));
        catalog.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_media_is_visible_and_removed_media_keeps_its_name_and_tags() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("comes-and-goes").await;
    let (eva, admin) = (
        world.token("eva", Role::User),
        world.token("root", Role::Admin),
    );
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let node = world.live_node("node-1", &[]).await;
    assert_eq!(
        catalog.tile(&eva, media(1)).await,
        Err(CatalogError::UnknownMedia)
    );
    node.add(&film(1, "Film"));
    catalog.until(&eva, media(1), |tile| tile.available).await;

    catalog
        .add_tags(&eva, media(1), &["good".to_owned()])
        .await
        .unwrap();
    catalog
        .rename_tile(&admin, media(1), "The Film")
        .await
        .unwrap();
    node.remove(media(1));
    let tile = catalog.until(&eva, media(1), |tile| !tile.available).await;
    assert_eq!((tile.name.as_str(), tile.providers), ("The Film", 0));
    assert_eq!(tile.tags, ["good"]);
    assert_eq!(catalog.named("film", false).await, ["The Film"]);
    assert_eq!(catalog.tagged(&eva, &["good"], true).await, ["The Film"]);

    // The same film under another name is the same film.
    node.add(&film(1, "film (copy)"));
    let tile = catalog.until(&eva, media(1), |tile| tile.available).await;
    assert_eq!((tile.name.as_str(), tile.tags.len()), ("The Film", 1));
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_film_on_two_nodes_is_one_title_with_two_providers() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("two-nodes").await;
    let token = world.token("eva", Role::User);
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let mut first = world.live_node("node-1", &[film(1, "Film")]).await;
    let second = world.live_node("node-2", &[film(1, "Film")]).await;
    catalog
        .until(&token, media(1), |tile| tile.providers == 2)
        .await;
    let details = catalog.tile(&token, media(1)).await.unwrap();
    let providers: Vec<_> = details
        .providers
        .iter()
        .map(|node| node.instance.as_str())
        .collect();
    assert_eq!(providers, ["node-1", "node-2"]);
    assert_eq!(catalog.named("", false).await, ["Film"]);

    // One that dies, one that goes, one that returns.
    second.die().await;
    catalog
        .until(&token, media(1), |tile| tile.providers == 1)
        .await;
    first.go_away().await;
    catalog
        .until(&token, media(1), |tile| !tile.available)
        .await;
    first.go_live().await;
    catalog.until(&token, media(1), |tile| tile.available).await;
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn films_of_a_node_that_is_not_seen_and_answers_are_available_and_of_one_that_does_not_are_not()
 {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("unseen").await;
    let token = world.token("eva", Role::User);
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let mut lives = world.node("node-1", &[film(1, "One")]).await;
    let answering = lives.answers().await;
    lives.go_live().await;
    let mut is_dead = world.live_node("node-2", &[film(2, "Two")]).await;
    for n in 1..=2 {
        catalog.until(&token, media(n), |tile| tile.available).await;
    }
    // Neither says that it would leave; the first one does so first.
    lives.go_away().await;
    is_dead.go_away().await;
    let available = async || {
        let page = catalog.tiles_by_name(None, "", false, PageRequest::first());
        let films = page.await.unwrap().items;
        films.iter().map(|film| film.available).collect::<Vec<_>>()
    };
    let end = Instant::now() + PATIENCE;
    while available().await != [true, false] {
        assert!(Instant::now() < end, "a dead node's film stayed");
    }
    // Neither once nor ever.
    for _ in 0..20 {
        assert_eq!(available().await, [true, false]);
    }
    let details = catalog.tile(&token, media(1)).await.unwrap();
    let provider = &details.providers[0];
    assert_eq!(provider.endpoint, lives.endpoint);
    // Until it dies.
    drop(answering);
    catalog
        .until(&token, media(1), |tile| !tile.available)
        .await;
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_played_is_listed_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("unplayable").await;
    let token = world.token("eva", Role::User);
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let mut odd = film(1, "Odd");
    odd.unplayable = Some("ProRes cannot be played yet".to_owned());
    let _node = world.live_node("node-1", &[odd]).await;
    let tile = catalog
        .until(&token, media(1), |tile| tile.providers == 1)
        .await;
    assert!(!tile.available);
    assert_eq!(
        tile.unplayable.as_deref(),
        Some("ProRes cannot be played yet")
    );
    let details = catalog.tile(&token, media(1)).await.unwrap();
    assert!(details.providers.is_empty());
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_announcements_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("malformed-media").await;
    let token = world.token("eva", Role::User);
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let node = world.live_node("node-1", &[]).await;
    let good = serde_json::to_value(film(1, "Film")).unwrap();
    node.say("nonsense", good.clone());
    node.say(&media(2).to_string(), good);
    node.say(&media(3).to_string(), serde_json::json!({ "id": 3 }));
    node.add(&film(4, "Good"));
    catalog.until(&token, media(4), |tile| tile.available).await;
    assert_eq!(catalog.named("", false).await, ["Good"]);
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_comes_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("pages").await;
    let token = world.token("eva", Role::User);
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let films: Vec<_> = (0..50)
        .map(|n| film(n, &format!("Film {:02}", 49 - n)))
        .collect();
    let _node = world.live_node("node-1", &films).await;
    catalog
        .until(&token, media(49), |tile| tile.available)
        .await;
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = PageRequest { after, limit: 7 };
        let page = catalog
            .tiles_by_name(None, "FILM", false, page)
            .await
            .unwrap();
        all.extend(page.items.into_iter().map(|tile| tile.name));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = (0..50).map(|n| format!("Film {n:02}")).collect();
    assert_eq!(all, expected);
    assert_eq!(catalog.ids_by_prefix("0").await.unwrap().len(), 10);
    assert_eq!(catalog.ids_by_prefix("2F2f").await.unwrap(), [media(0x2f)]);
    assert_eq!(catalog.ids_by_prefix("ff").await.unwrap(), []);
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_catalogue_answers_its_first_question_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("late").await;
    let token = world.token("eva", Role::User);
    let early = world.catalog("catalog-1", dir.path()).await;
    let _node = world.live_node("node-1", &[film(1, "Film")]).await;
    early.until(&token, media(1), |tile| tile.available).await;
    let late = world.catalog("catalog-2", dir.path()).await;
    assert!(late.tile(&token, media(1)).await.unwrap().tile.available);
    early.stop().await;
    late.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_catalogue_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new("stops").await;
    let _node = world.live_node("node-1", &[film(1, "Film")]).await;
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let stopped = tokio::time::timeout(Duration::from_secs(10), catalog.stop());
    stopped.await.expect("in time");
    // Its database is free for its next life, which knows the film by then.
    let again = world.catalog("catalog-1", dir.path()).await;
    assert_eq!(again.named("film", true).await, ["Film"]);
    again.stop().await;
}
