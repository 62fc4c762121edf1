use super::*;
use crate::testing::Desk;
use iceflix_core::trust::{SessionKey, password::prehash};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_login_survives_that_another_first_admin_replaces_ours() {
    let desk = Desk::new().await;
    let status = Arc::new(desk.status().await);
    let (key, accounts) = (desk.key.clone(), desk.accounts.clone());
    let service = AuthService::new(&desk.node, key, accounts.clone(), status);
    accounts.make_first_admin("secret").await.unwrap();
    let hash = prehash("admin", "secret");
    let public = SessionKey::generate().unwrap().public();
    // Wherever in the login it happens: checking a password takes some 20 ms.
    for n in 0..12 {
        let login = {
            let service = service.clone();
            let id = SessionId::random();
            tokio::spawn(async move { answer(service.try_login("admin", hash, id, public).await) })
        };
        // The same password, with another salt.
        let mut admin = accounts.user_here("admin").unwrap();
        admin.password = accounts.hash(hash).await.unwrap();
        tokio::time::sleep(Duration::from_millis(n * 2)).await;
        accounts.put_user("admin", &admin).await.unwrap();
        assert!(login.await.unwrap().is_ok(), "round {n}");
    }
    // Another password does not pass, whenever it is set.
    for n in 0..12 {
        let mut admin = accounts.user_here("admin").unwrap();
        admin.password = accounts.hash(hash).await.unwrap();
        accounts.put_user("admin", &admin).await.unwrap();
        let login = {
            let service = service.clone();
            let id = SessionId::random();
            tokio::spawn(async move { answer(service.try_login("admin", hash, id, public).await) })
        };
        tokio::time::sleep(Duration::from_millis(n * 2)).await;
        let other = prehash("admin", &format!("changed {n}"));
        admin.password = accounts.hash(other).await.unwrap();
        accounts.put_password("admin", &admin, None).await.unwrap();
        if let Ok(login) = login.await.unwrap() {
            assert!(accounts.session_here(login.session).is_none(), "round {n}");
        }
    }
}
