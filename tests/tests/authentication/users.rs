//! Who may log in, and as what, at two authenticators.

use crate::{WRONG, authenticators, desk::Desk, until_good};
use auth_svc::AuthServer;
use iceflix_core::{
    api::{
        Kind,
        auth::{AuthError, Role},
    },
    renewal::Contacts,
    service::Server,
};
use iceflix_tests::cluster::{ADMIN_PASSWORD, Cluster, wait_for};

async fn login(cluster: &Cluster, n: usize, user: &str, password: &str) -> Result<(), AuthError> {
    let address = cluster.auths[n].address();
    cluster.login_at(address, user, password).await.map(drop)
}

/// Waits until a login is answered so, at both.
async fn until_login(cluster: &Cluster, user: &str, password: &str, answer: Result<(), AuthError>) {
    for n in [0, 1] {
        wait_for("the authenticators agree on who may log in", async || {
            login(cluster, n, user, password).await == answer
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_is_out_until_enabled() {
    let cluster = authenticators(2).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let bob = cluster.new_user("bob", "builder", Role::User).await;
    let (here, there) = (Desk::at(&cluster, 0).await, Desk::at(&cluster, 1).await);
    here.disable_user("Ada").await.unwrap();
    // Known to be done where it was done, and as soon as it is heard elsewhere.
    assert!(!cluster.authorised_at(here.address, &ada.token()).await);
    let renewed = cluster.renew_at(here.address, &ada).await.map(drop);
    assert_eq!(renewed, Err(AuthError::SessionEnded));
    until_good(&cluster, &ada, &ada.token(), false).await;
    until_login(&cluster, "ada", "engine", Err(AuthError::Disabled)).await;
    for n in [0, 1] {
        // Only who knows the password hears it.
        assert_eq!(login(&cluster, n, "ada", "guess").await, WRONG);
    }
    until_good(&cluster, &bob, &bob.token(), true).await;
    // Asked again it is no error, and a new password changes nothing about it.
    there.disable_user("ada").await.unwrap();
    there.change_password("ada", None, "new").await.unwrap();
    until_login(&cluster, "ada", "new", Err(AuthError::Disabled)).await;
    let disabled = |users: Vec<iceflix_core::api::auth::UserInfo>| {
        let disabled = users.into_iter().filter(|user| user.disabled);
        disabled.map(|user| user.name).collect::<Vec<_>>()
    };
    assert_eq!(disabled(there.list().await.unwrap()), ["ada"]);

    there.enable_user("ada").await.unwrap();
    there.enable_user("ada").await.unwrap();
    until_login(&cluster, "ada", "new", Ok(())).await;
    let empty: [&str; 0] = [];
    assert_eq!(disabled(here.list().await.unwrap()), empty);
    // What was ended stays so.
    until_good(&cluster, &ada, &ada.token(), false).await;

    // Removed while disabled, and added anew: a new user.
    here.disable_user("ada").await.unwrap();
    here.remove_user("ada").await.unwrap();
    here.add_user("ada", "anew", Role::User).await.unwrap();
    until_login(&cluster, "ada", "anew", Ok(())).await;
    let unknown = Err(AuthError::UnknownUser);
    assert_eq!(here.disable_user("nobody").await, unknown);
    assert_eq!(here.enable_user("nobody").await, unknown);
    assert_eq!(here.set_role("nobody", Role::User).await, unknown);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_takes_a_new_login() {
    let cluster = authenticators(2).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let (here, there) = (Desk::at(&cluster, 0).await, Desk::at(&cluster, 1).await);
    here.set_role("ada", Role::User).await.unwrap();
    assert!(
        cluster.authorised_at(here.address, &ada.token()).await,
        "no change"
    );
    here.set_role("ada", Role::Admin).await.unwrap();
    until_good(&cluster, &ada, &ada.token(), false).await;
    for (n, desk) in [&here, &there].into_iter().enumerate() {
        let mut token = None;
        wait_for("she is an admin", async || {
            let login = cluster.login_at(desk.address, "ada", "engine").await;
            let login = login.unwrap();
            token = Some(login.token());
            login.login.role == Role::Admin
        })
        .await;
        let own = Desk::with(&cluster, n, &token.unwrap());
        own.users().await.unwrap();
    }
    let admin = cluster.login("ada", "engine").await.unwrap();
    there.set_role("ada", Role::User).await.unwrap();
    until_good(&cluster, &admin, &admin.token(), false).await;
    let user = cluster
        .login_at(there.address, "ada", "engine")
        .await
        .unwrap();
    assert_eq!(user.login.role, Role::User);
    let own = Desk::with(&cluster, 1, &user.token());
    let not_admin = Err(AuthError::NotAdmin);
    assert_eq!(own.set_role("ada", Role::Admin).await, not_admin);
    assert_eq!(own.disable_user("admin").await, not_admin);
    assert_eq!(own.enable_user("admin").await, not_admin);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_who_can_log_in_stays() {
    let cluster = authenticators(1).await;
    let desk = Desk::at(&cluster, 0).await;
    desk.add_user("grace", "cobol", Role::Admin).await.unwrap();
    desk.disable_user("grace").await.unwrap();
    let last = Err(AuthError::LastAdmin);
    assert_eq!(desk.disable_user("admin").await, last);
    assert_eq!(desk.set_role("admin", Role::User).await, last);
    assert_eq!(desk.remove_user("admin").await, last);
    assert!(cluster.authorised_at(desk.address, &desk.token).await);
    // A disabled admin is not the last one, whatever is done to them.
    desk.set_role("grace", Role::User).await.unwrap();
    desk.set_role("grace", Role::Admin).await.unwrap();
    desk.enable_user("grace").await.unwrap();
    desk.disable_user("admin").await.unwrap();
    let disabled = login(&cluster, 0, "admin", ADMIN_PASSWORD).await;
    assert_eq!(disabled, Err(AuthError::Disabled));
    login(&cluster, 0, "grace", "cobol").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_admins_who_turn_on_each_other_at_two_authenticators_do_not_both_go() {
    let cluster = authenticators(2).await;
    let people = [("admin", ADMIN_PASSWORD), ("grace", "cobol")];
    let desk = Desk::at(&cluster, 0).await;
    desk.add_user("grace", "cobol", Role::Admin).await.unwrap();
    until_login(&cluster, "grace", "cobol", Ok(())).await;
    for round in 0..9 {
        let mut desks = Vec::new();
        for (n, (name, password)) in people.iter().enumerate() {
            let address = cluster.auths[n].address();
            let person = cluster.login_at(address, name, password).await.unwrap();
            assert!(cluster.authorised_at(address, &person.token()).await);
            desks.push(Desk::with(&cluster, n, &person.token()));
        }
        // Each of them does it to the other.
        let against = async |desk: &Desk<'_>, name: &str| match round % 3 {
            0 => desk.disable_user(name).await,
            1 => desk.set_role(name, Role::User).await,
            _ => desk.remove_user(name).await,
        };
        let both = tokio::join!(against(&desks[0], "grace"), against(&desks[1], "admin"));
        assert!(both != (Ok(()), Ok(())), "round {round}");
        // Both authenticators agree on who is left, and somebody is.
        let mut left = Vec::new();
        wait_for("they agree on who is left", async || {
            let mut found = [Vec::new(), Vec::new()];
            for (n, found) in found.iter_mut().enumerate() {
                for (name, password) in people {
                    let address = cluster.auths[n].address();
                    let login = cluster.login_at(address, name, password).await;
                    if let Ok(person) = login
                        && person.login.role == Role::Admin
                    {
                        found.push(name);
                    }
                }
            }
            let agreed = found[0] == found[1] && !found[0].is_empty();
            left.clone_from(&found[0]);
            agreed
        })
        .await;
        // All is made as it was.
        let (name, password) = *people.iter().find(|(name, _)| left.contains(name)).unwrap();
        let address = cluster.auths[0].address();
        let person = cluster.login_at(address, name, password).await.unwrap();
        let desk = Desk::with(&cluster, 0, &person.token());
        for (name, password) in people.iter().filter(|(name, _)| !left.contains(name)) {
            let there = desk.users().await.unwrap();
            match there.iter().any(|user| user == name) {
                true => {
                    desk.enable_user(name).await.unwrap();
                    desk.set_role(name, Role::Admin).await.unwrap();
                }
                false => desk.add_user(name, password, Role::Admin).await.unwrap(),
            }
        }
        for (name, password) in people {
            for auth in &cluster.auths {
                wait_for("both are admins again", async || {
                    let login = cluster.login_at(auth.address(), name, password).await;
                    login.is_ok_and(|person| person.login.role == Role::Admin)
                })
                .await;
            }
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_disabled_while_an_authenticator_was_off_is_not_let_in_by_it() {
    let mut cluster = authenticators(1).await;
    let config = cluster.add_auth().await;
    cluster.until_complete().await;
    cluster.new_user("ada", "engine", Role::User).await;
    until_login(&cluster, "ada", "engine", Ok(())).await;
    let identity = config.common.identity();
    wait_for("it knows where the other one is", async || {
        let known = Contacts::load(&identity).instances.into_iter();
        known.filter(|known| known.kind == Kind::Auth).count() == 2
    })
    .await;
    cluster.auths.remove(1).shutdown().await;
    let desk = Desk::at(&cluster, 0).await;
    desk.disable_user("ada").await.unwrap();
    for _ in 0..3 {
        let back = AuthServer::bind(config.clone()).await.unwrap();
        cluster.auths.push(back);
        // The first that it is asked.
        let asked = login(&cluster, 1, "ada", "engine").await;
        assert_eq!(asked, Err(AuthError::Disabled));
        cluster.auths.remove(1).shutdown().await;
    }
    cluster.stop().await;
}
