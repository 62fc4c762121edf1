//! Whole clusters that start from nothing, in any order.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use auth_svc::AuthServer;
use catalog_svc::CatalogServer;
use iceflix_core::api::{Kind, StreamId};
use iceflix_core::service::Server;
use iceflix_tests::cluster::{ADMIN_PASSWORD, Cluster, film, node, wait_for};
use main_svc::MainServer;

/// In which order the kinds are started: every order there is.
fn orders() -> Vec<[Kind; 4]> {
    let mut orders = Vec::new();
    for a in Kind::ALL {
        for b in Kind::ALL {
            for c in Kind::ALL {
                for d in Kind::ALL {
                    let order = [a, b, c, d];
                    if Kind::ALL.iter().all(|kind| order.contains(kind)) {
                        orders.push(order);
                    }
                }
            }
        }
    }
    orders
}

#[tokio::test(flavor = "multi_thread")]
async fn films_are_found_in_20_of_20_cold_starts_in_any_order() {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("film.mp4"), 1, 440);
    // 24 orders, one after another.
    for order in orders() {
        let mut cluster = Cluster::empty();
        for kind in order {
            match kind {
                Kind::Main => cluster.add_main().await,
                Kind::Auth => drop(cluster.add_auth().await),
                Kind::Catalog => cluster.add_catalog().await,
                Kind::Streaming => cluster.add_node(media.path()).await,
            }
        }
        complete(cluster, &format!("{order:?}")).await;
    }
    // And all at the same time.
    for round in 0..6 {
        let mut cluster = Cluster::empty();
        let main = main_svc::Config {
            common: cluster.common(Kind::Main),
        };
        let auth = cluster.auth_config();
        let catalog = catalog_svc::Config {
            common: cluster.common(Kind::Catalog),
        };
        let streaming = cluster.common(Kind::Streaming);
        let (main, auth, catalog, node) = tokio::join!(
            MainServer::bind(main),
            AuthServer::bind(auth),
            CatalogServer::bind(catalog),
            node(streaming, media.path()),
        );
        cluster.mains.push(main.unwrap());
        cluster.auths.push(auth.unwrap());
        cluster.catalogs.push(catalog.unwrap());
        cluster.nodes.push(node);
        complete(cluster, &format!("at once, {round}")).await;
    }
}

/// What anybody expects of a cluster that has just started: a login, and a film to stream.
async fn complete(mut cluster: Cluster, what: &str) {
    cluster.until_complete().await;
    let film = &cluster.until_films(1).await[0];
    assert!(film.available, "{what}");
    let admin = cluster.login("admin", ADMIN_PASSWORD).await.unwrap();
    let (node, id) = (cluster.nodes[0].address(), film.id);
    wait_for("the node streams it", async || {
        let ask = |node: iceflix_core::api::streaming::StreamingClient, context| {
            let token = admin.token();
            async move {
                node.get_stream(context, token, StreamId::random(), id, false)
                    .await
            }
        };
        cluster.at(node, ask).await.is_ok()
    })
    .await;
    cluster.stop().await;
}
