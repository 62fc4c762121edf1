//! What several authenticators agree on.

use crate::{WRONG, authenticators, desk::Desk};
use iceflix_core::{
    api::auth::{AuthError, Role},
    service::Server,
};
use iceflix_tests::{cluster::wait_for, tokens::log_out};

#[tokio::test(flavor = "multi_thread")]
async fn two_authenticators_agree_whichever_was_asked() {
    let cluster = authenticators(2).await;
    for (asked, other) in [(0, 1), (1, 0)] {
        let name = format!("user-{asked}");
        let (here, there) = (
            Desk::at(&cluster, asked).await,
            Desk::at(&cluster, other).await,
        );
        here.add_user(&name, "secret", Role::User).await.unwrap();
        let address = cluster.auths[other].address();
        let took = wait_for("the other lists the user", async || {
            there.users().await.unwrap().contains(&name)
        })
        .await;
        println!("a user added at {asked} was listed at {other} after {took:?}");
        let user = cluster.login_at(address, &name, "secret").await.unwrap();
        // A session that one opened is the other's too.
        cluster
            .renew_at(cluster.auths[asked].address(), &user)
            .await
            .unwrap();

        here.change_password(&name, None, "changed").await.unwrap();
        let took = wait_for("the other knows the new password", async || {
            cluster.login_at(address, &name, "changed").await.is_ok()
        })
        .await;
        println!("a password changed at {asked} held at {other} after {took:?}");
        let old = cluster.login_at(address, &name, "secret").await;
        assert_eq!(old.map(drop), WRONG);

        here.remove_user(&name).await.unwrap();
        let took = wait_for("the other has no such user", async || {
            !there.users().await.unwrap().contains(&name)
        })
        .await;
        println!("a user removed at {asked} was gone at {other} after {took:?}");
        let gone = cluster.login_at(address, &name, "changed").await;
        assert_eq!(gone.map(drop), WRONG);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_that_joins_late_learns_all() {
    let mut cluster = authenticators(1).await;
    let ada = cluster.new_user("ada", "engine", Role::User).await;
    let ended = cluster.login("ada", "engine").await.unwrap();
    log_out(&cluster, &ended).await;
    let bob = cluster.new_user("bob", "builder", Role::User).await;
    Desk::at(&cluster, 0)
        .await
        .revoke_user("bob")
        .await
        .unwrap();

    cluster.add_auth().await;
    let late = cluster.auths[1].address();
    // It is reachable: it must know everything already, and above all what was revoked.
    assert!(!cluster.authorised_at(late, &bob.token()).await);
    assert!(!cluster.authorised_at(late, &ended.token()).await);
    assert!(cluster.authorised_at(late, &ada.token()).await);
    let renewed = cluster.renew_at(late, &ada).await.unwrap();
    assert!(
        cluster
            .authorised_at(cluster.auths[0].address(), &renewed)
            .await
    );
    for session in [&ended, &bob] {
        let refused = cluster.renew_at(late, session).await;
        assert_eq!(refused, Err(AuthError::SessionEnded));
    }
    cluster.login_at(late, "bob", "builder").await.unwrap();

    // And it goes on without the one it learned from.
    cluster.auths.remove(0).shutdown().await;
    let desk = Desk::at(&cluster, 0).await;
    assert_eq!(desk.users().await.unwrap(), ["ada", "admin", "bob"]);
    cluster.renew_at(late, &ada).await.unwrap();
    cluster.stop().await;
}
