//! Who belongs to a cluster: machines are invited, certificates renew themselves, instances are
//! expelled.

// Helpers of tests, which clippy does not see as tests.
#![allow(clippy::unwrap_used)]

use auth_svc::AuthServer;
use catalog_svc::CatalogServer;
use iceflix_core::{
    api::{
        Instance, InstanceId, Kind,
        auth::{AuthError, AuthenticatorClient, CertificateRequest, Token},
        main::DirectoryView,
        streaming::StreamEvent,
    },
    config::Common,
    renewal::Contacts,
    rpc::{self, Caller, Security},
    service::Server,
    span::Span,
    trust::{
        self, Credential, Credentials, authority::CERTIFICATE_LIFETIME, credentials::NewKey,
        invitation::InvitationSecret,
    },
};
use iceflix_tests::{
    cluster::{Cluster, PATIENCE, film, until_listed, wait_for},
    identity,
    players::{
        rtsp::Client,
        viewer::{Viewer, Watched},
    },
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// Calls with a certificate.
fn caller_as(credential: Credential) -> Caller {
    Caller::by_address(Security::service(&Credentials::new(credential)).unwrap())
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

async fn invite(
    caller: &Caller,
    auth: SocketAddr,
    roles: &[Kind],
) -> Result<InvitationSecret, AuthError> {
    let secret = InvitationSecret::random();
    let ask = |client: AuthenticatorClient, context| {
        let (secret, roles) = (secret.clone(), roles.to_vec());
        async move { client.invite(context, secret, roles, 3600).await }
    };
    let made = caller.call_at(auth, PATIENCE, ask).await.unwrap();
    made.map(|()| secret)
}

async fn expel(caller: &Caller, auth: SocketAddr, instance: &str) -> Result<(), AuthError> {
    let ask = |client: AuthenticatorClient, context| async move {
        client.expel(context, id(instance)).await
    };
    caller.call_at(auth, PATIENCE, ask).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_invited_joins_and_nobody_else_invites() {
    let mut cluster = Cluster::start(1, 1, 0, &[]).await;
    let (name, auth) = (cluster.name().to_owned(), cluster.auths[0].address());
    let stranger = Caller::by_address(identity::security(&name));
    let not_allowed = Err(AuthError::NotAuthenticator);
    let roles = [Kind::Catalog];
    assert_eq!(invite(&stranger, auth, &roles).await.map(drop), not_allowed);
    assert_eq!(expel(&stranger, auth, "main-1").await, not_allowed);
    for kind in [Kind::Main, Kind::Catalog, Kind::Streaming] {
        let service = caller_as(identity::credential(&name, kind, &id("x")));
        assert_eq!(invite(&service, auth, &roles).await.map(drop), not_allowed);
        assert_eq!(expel(&service, auth, "main-1").await, not_allowed);
    }

    let owner = caller_as(identity::credential(&name, Kind::Auth, &id("owner")));
    let secret = invite(&owner, auth, &roles).await.unwrap();
    let key = NewKey::generate().unwrap();
    let request = CertificateRequest {
        kind: Kind::Catalog,
        instance: id("catalog-7"),
        request: key.request().unwrap(),
    };
    let ask = |client: AuthenticatorClient, context| {
        let (secret, requests) = (secret.clone(), vec![request.clone()]);
        async move { client.join(context, secret, requests).await }
    };
    // Whoever was invited has no certificate yet.
    let welcome = stranger
        .call_at(auth, PATIENCE, ask)
        .await
        .unwrap()
        .unwrap();
    assert!(welcome.contacts.iter().any(|known| known.endpoint == auth));
    let mut common = cluster.common(Kind::Catalog);
    common.instance = None;
    common.identity_dir = Some(cluster.dir.path().join("joined"));
    let credential = key.credential(&welcome.authority, &welcome.certificates[0]);
    credential.unwrap().save(&common.identity()).unwrap();
    let catalog = CatalogServer::bind(catalog_svc::Config { common })
        .await
        .unwrap();
    let main = cluster.mains[0].address();
    until_listed(&name, main, |all| {
        all.iter().any(|live| live.instance.as_str() == "catalog-7")
    })
    .await;
    catalog.shutdown().await;
    cluster.stop().await;
}

/// Who is listed at a Main, each time that changes, until nobody follows its directory any more.
async fn changes(mut directory: watch::Receiver<Arc<DirectoryView>>) -> Vec<Vec<String>> {
    let mut changes = Vec::new();
    directory.mark_unchanged();
    while directory.changed().await.is_ok() {
        let view = directory.borrow_and_update();
        let names = view.instances.iter().map(|live| live.instance.to_string());
        changes.push(names.collect());
    }
    changes
}

/// Sees to it, again and again, that the only film is there to be played.
async fn stays_listed(cluster: &Cluster) {
    loop {
        let films = cluster.films().await.unwrap();
        let there = films.len() == 1 && films[0].available && films[0].providers == 1;
        assert!(there, "{films:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Goes on with a stream whenever its node wants that.
async fn goes_on(viewer: &Viewer<'_>, watched: &Watched) {
    loop {
        match viewer.next_event(watched).await.unwrap() {
            StreamEvent::None => {}
            StreamEvent::RenewalWanted => viewer.renew(watched).await.unwrap(),
            said => panic!("{said:?}"),
        }
    }
}

/// Reads what a player gets, without a break.
async fn plays_on(player: &mut Client) {
    loop {
        // They come within a second.
        let more = timeout(Duration::from_secs(3), player.read_packets(20)).await;
        more.expect("there is a break").unwrap();
    }
}

/// A cluster in which the instance of that name renews its certificate every few seconds, while
/// somebody calls and somebody watches a film.
async fn renewed_again_and_again(short: &str) {
    let media = tempfile::tempdir().unwrap();
    film(&media.path().join("long.mp4"), 60, 440);
    let lifetime = Duration::from_secs(8);
    let mut cluster = Cluster::empty();
    let for_a_short_time = |cluster: &mut Cluster, name: &str| {
        cluster.certificates_for(match name == short {
            true => lifetime,
            false => CERTIFICATE_LIFETIME,
        });
    };
    for name in ["main-1", "main-2"] {
        for_a_short_time(&mut cluster, name);
        cluster.add_main().await;
    }
    for name in ["auth-1", "auth-2"] {
        for_a_short_time(&mut cluster, name);
        let mut config = cluster.auth_config();
        config.certificate_lifetime = Span::from_secs(lifetime.as_secs());
        cluster.auths.push(AuthServer::bind(config).await.unwrap());
    }
    for_a_short_time(&mut cluster, "catalog-1");
    cluster.add_catalog().await;
    for_a_short_time(&mut cluster, "streaming-1");
    cluster.add_node(media.path()).await;
    cluster.until_complete().await;
    let film_id = cluster.until_films(1).await[0].id;
    let viewer = Viewer::admin(&cluster).await;
    let watched = viewer.watch(film_id).await.unwrap();
    let mut player = Client::connect(watched.url()).await.unwrap();
    player.play_interleaved().await.unwrap();
    let place = cluster.dir.path().join(short).join("identity");
    let first = Credential::load(&place).unwrap().ends();

    let (stop, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let asking = {
        let (stop, failed) = (Arc::clone(&stop), Arc::clone(&failed));
        let caller = cluster.caller().clone();
        tokio::spawn(async move {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                let ask = |auth: AuthenticatorClient, context| async move {
                    auth.is_authorized(context, Token(String::new())).await
                };
                let lost = usize::from(caller.call(ask).await.is_err());
                failed.fetch_add(lost, Ordering::Relaxed);
                asked += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            asked
        })
    };
    let mut views = Vec::new();
    for main in cluster.main_addresses() {
        let security = identity::security(cluster.name());
        views.push(rpc::Cluster::connect(vec![main], security).await.unwrap());
    }
    let watching: Vec<_> = views
        .iter()
        .map(|view| tokio::spawn(changes(view.directory())))
        .collect();
    // It was replaced more than once, and the first one is long over.
    let renewed = wait_for("it is renewed", async || {
        let ends = Credential::load(&place).map_or(Duration::ZERO, |known| known.ends());
        ends >= first + lifetime && first < trust::now()
    });
    // Boxed: side by side they are large.
    tokio::select! {
        _ = renewed => {}
        () = Box::pin(stays_listed(&cluster)) => {}
        () = Box::pin(goes_on(&viewer, &watched)) => {}
        () = plays_on(&mut player) => {}
    }
    assert_eq!(viewer.status(&watched).await.unwrap().players, 1, "{short}");
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 100);
    assert_eq!(failed.load(Ordering::Relaxed), 0, "{short}");
    drop(views);
    for (number, seen) in watching.into_iter().enumerate() {
        let none: [Vec<String>; 0] = [];
        assert_eq!(seen.await.unwrap(), none, "{short}: at main-{}", number + 1);
    }
    // What is said on the bus still arrives.
    let admin = cluster.admin().await;
    let other = cluster.auths[1].address();
    assert!(cluster.authorised_at(other, &admin.token()).await);
    film(&media.path().join("new.mp4"), 1, 880);
    cluster.until_films(2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_renew_themselves_unnoticed_and_no_call_fails() {
    for short in ["main-1", "auth-1", "catalog-1", "streaming-1"] {
        renewed_again_and_again(short).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_slept_for_weeks_comes_back() {
    let mut cluster = Cluster::start(1, 1, 0, &[]).await;
    let common = cluster.common(Kind::Catalog);
    let asleep = |common: &Common| {
        let authority = identity::authority(common.cluster.as_str());
        let instance = common.instance.clone().unwrap();
        let place = common.identity();
        authority
            .equip(&place, Kind::Catalog, &instance, Duration::ZERO)
            .unwrap()
    };
    let over = asleep(&common);
    assert!(over.ends() <= trust::now());
    // It knows where the authenticators were.
    let contacts = Contacts::of(&cluster.view().directory().borrow());
    contacts.save(&common.identity()).unwrap();
    let config = catalog_svc::Config {
        common: common.clone(),
    };
    let catalog = CatalogServer::bind(config).await.unwrap();
    let (name, main) = (cluster.name().to_owned(), cluster.mains[0].address());
    until_listed(&name, main, |all| all.len() == 3).await;
    let renewed = Credential::load(&common.identity()).unwrap();
    assert!(renewed.ends() > trust::now() + CERTIFICATE_LIFETIME / 2);
    catalog.shutdown().await;

    // One that knows nobody says what to do.
    let lost = cluster.common(Kind::Catalog);
    asleep(&lost);
    let config = catalog_svc::Config { common: lost };
    let Err(error) = CatalogServer::bind(config).await else {
        panic!("it has no certificate that is good");
    };
    let said = format!("{error:#}");
    assert!(
        said.contains("is over") && said.contains("cluster invite"),
        "{said}"
    );
    cluster.stop().await;
}

/// A catalogue that was there, and is not running any more.
async fn one_that_sleeps(cluster: &mut Cluster) -> Credential {
    let common = cluster.common(Kind::Catalog);
    let identity = common.identity();
    let catalog = CatalogServer::bind(catalog_svc::Config { common })
        .await
        .unwrap();
    let credential = Credential::load(&identity).unwrap();
    let name = credential.name().instance.clone();
    let is_there = |all: &[Instance]| all.iter().any(|live| live.instance == name);
    for main in cluster.main_addresses() {
        until_listed(cluster.name(), main, is_there).await;
    }
    catalog.shutdown().await;
    for main in cluster.main_addresses() {
        until_listed(cluster.name(), main, |all| !is_there(all)).await;
    }
    credential
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_expelled_is_neither_listed_nor_answered_nor_renewed() {
    let mut cluster = Cluster::empty();
    for _ in 0..2 {
        cluster.add_main().await;
    }
    let first = cluster.add_auth().await;
    cluster.add_auth().await;
    cluster.until_complete().await;
    let asleep = one_that_sleeps(&mut cluster).await;
    let common = cluster.common(Kind::Catalog);
    let config = catalog_svc::Config {
        common: common.clone(),
    };
    let catalog = CatalogServer::bind(config).await.unwrap();
    let name = cluster.name().to_owned();
    let mains = cluster.main_addresses();
    for main in &mains {
        until_listed(&name, *main, |all| all.len() == 5).await;
    }
    let credential = Credential::load(&common.identity()).unwrap();
    let expelled = credential.name().instance.to_string();
    let its = caller_as(credential.clone());
    // Without showing its certificate it is a client.
    let stranger = Caller::by_address(identity::security(&name));
    let renew = async |caller: &Caller, credential: &Credential, auth: SocketAddr| {
        let ask = |client: AuthenticatorClient, context| {
            let (request, earlier) = (
                credential.request().unwrap(),
                credential.certificate_pem().to_owned(),
            );
            async move { client.renew_certificate(context, request, earlier).await }
        };
        caller.call_at(auth, Duration::from_secs(2), ask).await
    };
    let auths = [cluster.auths[0].address(), cluster.auths[1].address()];
    // A connection of its own that is open before.
    assert!(renew(&its, &credential, auths[0]).await.unwrap().is_ok());

    let owner = caller_as(identity::credential(&name, Kind::Auth, &id("owner")));
    let itself = expel(&owner, auths[0], "auth-1").await;
    assert!(matches!(itself, Err(AuthError::BadRequest(_))));
    // Whoever mistypes a name hears so.
    let mistyped = expel(&owner, auths[0], "catalog-22").await;
    assert_eq!(mistyped, Err(AuthError::UnknownInstance(id("catalog-22"))));
    for _ in 0..2 {
        expel(&owner, auths[0], &expelled).await.unwrap();
    }
    // One need not run for that, nor have been let in by an invitation.
    let sleeper = asleep.name().instance.as_str();
    expel(&owner, auths[1], sleeper).await.unwrap();
    // At every Main, and at the authenticator that was not asked, too.
    for main in &mains {
        until_listed(&name, *main, |all| {
            all.len() == 4 && all.iter().all(|live| live.instance.as_str() != expelled)
        })
        .await;
    }
    let is_kept_out = async |auth: SocketAddr| {
        wait_for("it is not answered", async || {
            renew(&its, &credential, auth).await.is_err()
        })
        .await;
        // It gets no new certificate as a client either.
        for credential in [&credential, &asleep] {
            wait_for("it is not renewed", async || {
                renew(&stranger, credential, auth).await.unwrap() == Err(AuthError::Expelled)
            })
            .await;
        }
    };
    for auth in auths {
        is_kept_out(auth).await;
    }
    catalog.shutdown().await;

    // Restarted while no other is there to ask, an authenticator knows it from its disk.
    for auth in cluster.auths.drain(..) {
        auth.shutdown().await;
    }
    let again = AuthServer::bind(first).await.unwrap();
    is_kept_out(again.address()).await;
    cluster.auths.push(again);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expelled_authenticator_leaves_and_what_it_writes_is_its_own() {
    let mut cluster = Cluster::start(1, 2, 0, &[]).await;
    let name = cluster.name().to_owned();
    let (stays, goes) = (cluster.auths[0].address(), cluster.auths[1].address());
    let before = cluster.admin().await;
    let owner = caller_as(identity::credential(&name, Kind::Auth, &id("owner")));
    expel(&owner, stays, "auth-2").await.unwrap();
    let main = cluster.mains[0].address();
    until_listed(&name, main, |all| all.len() == 2).await;
    // Whoever kept its address is not answered, so nobody's session or new user begins there.
    wait_for("it takes nobody any more", async || {
        let stranger = Caller::by_address(identity::security(&name));
        let ask = |auth: AuthenticatorClient, context| async move {
            auth.is_authorized(context, Token(String::new())).await
        };
        let asked = stranger.call_at(goes, Duration::from_millis(500), ask);
        asked.await.is_err()
    })
    .await;
    // The other goes on by itself.
    assert!(cluster.renew_at(stays, &before).await.is_ok());
    cluster.add_auth().await;
    cluster.auths.swap_remove(1).shutdown().await;
    cluster.until_complete().await;
    assert!(cluster.admin().await.token() != before.token());
    cluster.stop().await;
}
