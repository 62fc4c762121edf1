//! What people say about films: names and tags, who may, and that catalogues agree.

use crate::world::{Catalogue, Node, PATIENCE, World, film, media, names, texts};
use iceflix_core::api::{
    PageRequest, SessionId, TokenError,
    auth::{Role, Token},
    catalog::{CatalogError, Query},
};
use std::path::Path;

const FILMS: [(u8, &str); 4] = [
    (1, "Amélie"),
    (2, "It's \"50%_off\""),
    (3, "amelie returns"),
    (4, "Cœur"),
];

/// A world with a node, a catalogue that knows its films, and a user's and an admin's token.
async fn setting(cluster: &str, dir: &Path) -> (World, Node, Catalogue, Token, Token) {
    let world = World::new(cluster).await;
    let films: Vec<_> = FILMS.iter().map(|(n, name)| film(*n, name)).collect();
    let node = world.live_node("node-1", &films).await;
    let catalog = world.catalog("catalog-1", dir).await;
    let (eva, admin) = (
        world.token("eva", Role::User),
        world.token("root", Role::Admin),
    );
    catalog.until(&eva, media(4), |tile| tile.available).await;
    (world, node, catalog, eva, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_gets_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (world, _node, catalog, eva, _) = setting("bad-tokens", dir.path()).await;
    let session = SessionId::random();
    let before = world.token_of("eva", Role::Admin, session);
    assert!(catalog.tile(&before, media(1)).await.is_ok());
    world.revoke(session);
    let refused = Err(CatalogError::Unauthorized(TokenError::Revoked));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while catalog.rename_tile(&before, media(9), "x").await != refused {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not revoked in time"
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    let first = PageRequest::first;
    for (kind, bad) in world.bad_tokens(session) {
        let refused = |error: Option<CatalogError>| {
            assert!(
                matches!(error, Some(CatalogError::Unauthorized(_))),
                "{kind}: {error:?}"
            );
        };
        let some = Some(bad.clone());
        let query = Query::default();
        let tags = texts(&["a"]);
        refused(catalog.tile(&bad, media(1)).await.err());
        refused(catalog.tile(&bad, media(9)).await.err());
        refused(
            catalog
                .tiles_by_name(some.clone(), "", false, first())
                .await
                .err(),
        );
        refused(
            catalog
                .tiles_by_tags(&bad, &tags, false, first())
                .await
                .err(),
        );
        refused(catalog.search(some, query, first()).await.err());
        refused(catalog.add_tags(&bad, media(1), &tags).await.err());
        refused(catalog.remove_tags(&bad, media(1), &tags).await.err());
        refused(catalog.rename_tile(&bad, media(1), "x").await.err());
    }
    let tile = catalog.tile(&eva, media(1)).await.unwrap().tile;
    assert_eq!((tile.name.as_str(), tile.tags.len()), ("Amélie", 0));

    // Without a token there are names, and no tags to ask for.
    let query = Query {
        tags: texts(&["a"]),
        ..Query::default()
    };
    let refused = catalog.search(None, query, first()).await;
    assert!(matches!(refused, Err(CatalogError::Unauthorized(_))));
    assert_eq!(catalog.named("", false).await.len(), FILMS.len());
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn films_are_found_by_name_without_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let (_world, _node, catalog, eva, _) = setting("by-name", dir.path()).await;
    catalog
        .add_tags(&eva, media(1), &texts(&["mine"]))
        .await
        .unwrap();
    assert_eq!(
        catalog.named("AMELIE", false).await,
        ["Amélie", "amelie returns"]
    );
    assert_eq!(catalog.named("amélie", true).await, ["Amélie"]);
    assert_eq!(catalog.named("coeur", true).await, ["Cœur"]);
    for part in ["'", "\"", "%", "_", "\"50%_OFF\""] {
        assert_eq!(catalog.named(part, false).await, [FILMS[1].1], "{part}");
    }
    assert_eq!(catalog.named(FILMS[1].1, true).await, [FILMS[1].1]);
    assert!(catalog.named("%", true).await.is_empty());
    assert!(catalog.named("nothing", false).await.is_empty());
    // Whose tags, without a token? Nobody's. With one, one's own.
    for (token, tags) in [(None, 0), (Some(eva), 1)] {
        let page = catalog.tiles_by_name(token, "amélie", true, PageRequest::first());
        assert_eq!(page.await.unwrap().items[0].tags.len(), tags);
    }
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_renames_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (world, _node, catalog, eva, admin) = setting("rename", dir.path()).await;
    let other = world.catalog("catalog-2", dir.path()).await;
    let id = media(1);
    let refused = catalog.rename_tile(&eva, id, "Mine").await;
    assert_eq!(refused, Err(CatalogError::NotAdmin));
    let refused = catalog.rename_tile(&eva, media(9), "Mine").await;
    assert_eq!(refused, Err(CatalogError::NotAdmin));
    let refused = catalog.rename_tile(&admin, media(9), "Mine").await;
    assert_eq!(refused, Err(CatalogError::UnknownMedia));
    for bad in ["", " ", "a\nb", &"x".repeat(256)] {
        let refused = catalog.rename_tile(&admin, id, bad).await;
        assert_eq!(refused, Err(CatalogError::InvalidName), "{bad:?}");
    }
    assert_eq!(catalog.tile(&eva, id).await.unwrap().tile.name, "Amélie");

    catalog
        .rename_tile(&admin, id, " Die fabelhafte Welt ")
        .await
        .unwrap();
    // Seen at once where it was said, and by the other soon.
    assert_eq!(catalog.named("welt", false).await, ["Die fabelhafte Welt"]);
    assert!(catalog.named("amélie", true).await.is_empty());
    let renamed = |tile: &iceflix_core::api::catalog::Tile| tile.name == "Die fabelhafte Welt";
    other.until(&eva, id, renamed).await;
    // The last word counts, wherever it was said.
    other.rename_tile(&admin, id, "Amelie").await.unwrap();
    catalog.until(&eva, id, |tile| tile.name == "Amelie").await;
    catalog.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_put_and_taken_by_their_user() {
    let dir = tempfile::tempdir().unwrap();
    let (world, _node, catalog, eva, _) = setting("tags", dir.path()).await;
    let tom = world.token("tom", Role::User);
    let (id, two) = (media(1), texts(&["b", "a", "b", " a "]));
    for result in [
        catalog.add_tags(&eva, media(9), &two).await,
        catalog.remove_tags(&eva, media(9), &two).await,
    ] {
        assert_eq!(result, Err(CatalogError::UnknownMedia));
    }
    for bad in [
        texts(&["", "a"]),
        texts(&["a\t"; 1]),
        texts(&["a\tb"]),
        vec!["a".repeat(65)],
    ] {
        let result = catalog.add_tags(&eva, id, &bad).await;
        // White space at the ends is not meant.
        let meant = bad == texts(&["a\t"]);
        assert_eq!(
            result,
            if meant {
                Ok(())
            } else {
                Err(CatalogError::InvalidTag)
            }
        );
    }
    let many: Vec<_> = (0..101).map(|n| n.to_string()).collect();
    let refused = catalog.add_tags(&eva, id, &many).await;
    assert_eq!(refused, Err(CatalogError::InvalidTag));

    for _ in 0..2 {
        catalog.add_tags(&eva, id, &two).await.unwrap();
    }
    catalog.add_tags(&tom, id, &texts(&["his"])).await.unwrap();
    assert_eq!(catalog.tile(&eva, id).await.unwrap().tile.tags, ["a", "b"]);
    assert_eq!(catalog.tile(&tom, id).await.unwrap().tile.tags, ["his"]);
    for _ in 0..2 {
        catalog
            .remove_tags(&eva, id, &texts(&["a", "absent", "his"]))
            .await
            .unwrap();
    }
    assert_eq!(catalog.tile(&eva, id).await.unwrap().tile.tags, ["b"]);
    assert_eq!(catalog.tile(&tom, id).await.unwrap().tile.tags, ["his"]);
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_film_takes_a_thousand_tags_of_a_user_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (_world, _node, catalog, eva, _) = setting("many-tags", dir.path()).await;
    let hundred = |n: usize| {
        (0..100)
            .map(|i| format!("{}", n * 100 + i))
            .collect::<Vec<_>>()
    };
    for n in 0..10 {
        catalog.add_tags(&eva, media(1), &hundred(n)).await.unwrap();
    }
    let refused = catalog
        .add_tags(&eva, media(1), &texts(&["one more"]))
        .await;
    assert_eq!(refused, Err(CatalogError::InvalidTag));
    catalog.add_tags(&eva, media(1), &hundred(9)).await.unwrap();
    let details = catalog.tile(&eva, media(1)).await.unwrap();
    assert_eq!(details.tile.tags.len(), 1000);
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn films_are_found_by_any_or_all_tags() {
    let dir = tempfile::tempdir().unwrap();
    let (world, _node, catalog, eva, _) = setting("by-tags", dir.path()).await;
    catalog
        .add_tags(&eva, media(1), &texts(&["a", "b"]))
        .await
        .unwrap();
    catalog
        .add_tags(&eva, media(3), &texts(&["a", "b", "c"]))
        .await
        .unwrap();
    catalog
        .add_tags(&eva, media(4), &texts(&["c"]))
        .await
        .unwrap();
    let found = |tags: &'static [&str], all| catalog.tagged(&eva, tags, all);
    assert_eq!(
        found(&["b", "c"], false).await,
        ["Amélie", "amelie returns", "Cœur"]
    );
    assert_eq!(found(&["a", "b"], true).await, ["Amélie", "amelie returns"]);
    assert_eq!(found(&["a", "b", "c"], true).await, ["amelie returns"]);
    assert!(found(&[], false).await.is_empty() && found(&[], true).await.is_empty());
    let tom = world.token("tom", Role::User);
    assert!(catalog.tagged(&tom, &["a"], false).await.is_empty());
    let query = Query {
        name: "RETURNS".to_owned(),
        tags: texts(&["a"]),
        ..Query::default()
    };
    let both = catalog
        .search(Some(eva.clone()), query, PageRequest::first())
        .await;
    assert_eq!(names(both.unwrap()), ["amelie returns"]);
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_tags_survive_a_restart_without_the_film() {
    let dir = tempfile::tempdir().unwrap();
    let (world, node, catalog, eva, admin) = setting("restart", dir.path()).await;
    catalog
        .add_tags(&eva, media(1), &texts(&["good"]))
        .await
        .unwrap();
    catalog
        .rename_tile(&admin, media(1), "Renamed")
        .await
        .unwrap();
    node.die().await;
    catalog.stop().await;
    let catalog = world.catalog("catalog-1", dir.path()).await;
    let details = catalog.tile(&eva, media(1)).await.unwrap();
    assert_eq!(
        (details.tile.name.as_str(), details.tile.available),
        ("Renamed", false)
    );
    assert_eq!(details.tile.tags, ["good"]);
    assert_eq!(details.tile.duration_s, Some(60.0));
    assert_eq!(catalog.named("", false).await.len(), FILMS.len());
    catalog.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_that_joins_late_learns_what_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let (world, node, catalog, eva, admin) = setting("joins-late", dir.path()).await;
    catalog
        .add_tags(&eva, media(1), &texts(&["good"]))
        .await
        .unwrap();
    catalog
        .remove_tags(&eva, media(1), &texts(&["gone"]))
        .await
        .unwrap();
    catalog
        .rename_tile(&admin, media(1), "Renamed")
        .await
        .unwrap();
    // Not even the film is there any more.
    node.die().await;
    let late = world.catalog("catalog-2", dir.path()).await;
    let tile = late.tile(&eva, media(1)).await.unwrap().tile;
    assert_eq!((tile.name.as_str(), tile.tags.len()), ("Renamed", 1));
    // What is said to the late one reaches the first, and stays when the first is gone.
    late.add_tags(&eva, media(1), &texts(&["late"]))
        .await
        .unwrap();
    catalog
        .until(&eva, media(1), |tile| tile.tags == ["good", "late"])
        .await;
    catalog.stop().await;
    assert_eq!(
        late.tagged(&eva, &["good", "late"], true).await,
        ["Renamed"]
    );
    late.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_at_once_at_two_catalogues_ends_the_same_at_both() {
    let dir = tempfile::tempdir().unwrap();
    let (world, _node, first, eva, admin) = setting("at-once", dir.path()).await;
    let second = world.catalog("catalog-2", dir.path()).await;
    let id = media(1);
    let said = (0..40).map(|n| {
        let catalog = if n % 2 == 0 { &first } else { &second };
        let (eva, admin) = (&eva, &admin);
        async move {
            let tag = vec!["t".to_owned()];
            catalog
                .rename_tile(admin, id, &n.to_string())
                .await
                .unwrap();
            if n % 3 == 0 {
                catalog.add_tags(eva, id, &tag).await.unwrap();
            } else {
                catalog.remove_tags(eva, id, &tag).await.unwrap();
            }
        }
    });
    futures::future::join_all(said).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (here, there) = (first.tile(&eva, id).await, second.tile(&eva, id).await);
        if here == there {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{here:?} {there:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Who joins now, from either, learns the same.
    let third = world.catalog("catalog-3", dir.path()).await;
    assert_eq!(third.tile(&eva, id).await, first.tile(&eva, id).await);
    for catalog in [first, second, third] {
        catalog.stop().await;
    }
}
