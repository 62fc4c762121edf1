use super::*;
use crate::testing::Desk;
use iceflix_core::trust::{authority::CERTIFICATE_LIFETIME, credentials::NewKey};
use std::slice::from_ref;

struct Setting {
    desk: Desk,
    enrolment: Enrolment,
}

impl Setting {
    async fn new() -> Self {
        let desk = Desk::new().await;
        let enrolment = open(&desk);
        Self { desk, enrolment }
    }

    async fn invited(&self, roles: &[Kind], seconds: u64) -> InvitationSecret {
        let secret = InvitationSecret::random();
        let made = self.enrolment.invite(&secret, roles.to_vec(), seconds);
        made.await.unwrap();
        secret
    }

    async fn join(
        &self,
        secret: &InvitationSecret,
        requests: &[CertificateRequest],
    ) -> Result<Welcome, AuthError> {
        self.enrolment
            .join(secret, requests, &self.desk.accounts)
            .await
    }
}

fn open(desk: &Desk) -> Enrolment {
    let node = &desk.node;
    let authority = node.authority().unwrap();
    let (membership, bus) = (node.membership.clone(), vec!["tls/127.0.0.1:1".into()]);
    Enrolment::open(
        authority,
        CERTIFICATE_LIFETIME,
        membership,
        bus,
        &node.state_dir,
    )
    .unwrap()
}

fn request(kind: Kind, name: &str) -> (NewKey, CertificateRequest) {
    let key = NewKey::generate().unwrap();
    let request = CertificateRequest {
        kind,
        instance: name.parse().unwrap(),
        request: key.request().unwrap(),
    };
    (key, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_good_once_for_its_roles_and_its_time() {
    let setting = Setting::new().await;
    let secret = setting.invited(&[Kind::Streaming], 60).await;
    let (key, wanted) = request(Kind::Streaming, "streaming-9");

    let (_, other_role) = request(Kind::Catalog, "catalog-9");
    let refused = setting.join(&secret, &[wanted.clone(), other_role]).await;
    assert_eq!(refused, Err(AuthError::NotForRole(Kind::Catalog)));

    let welcome = setting.join(&secret, from_ref(&wanted)).await.unwrap();
    let pem = &welcome.certificates[0];
    let credential = key.credential(&welcome.authority, pem).unwrap();
    assert_eq!(credential.name().instance.as_str(), "streaming-9");
    assert_eq!(credential.cluster(), "desk");
    assert_eq!(welcome.authority_key, None, "it makes no certificates");
    assert!(!format!("{welcome:?}").contains("CERTIFICATE"));

    // Its answer may have been lost; it is for nobody else.
    assert!(setting.join(&secret, from_ref(&wanted)).await.is_ok());
    let (_, thief) = request(Kind::Streaming, "streaming-8");
    for stolen in [vec![thief.clone()], vec![wanted.clone(), thief.clone()]] {
        let refused = setting.join(&secret, &stolen).await;
        assert_eq!(refused, Err(AuthError::NotInvited));
    }
    // Also after a restart.
    let again = open(&setting.desk);
    let accounts = &setting.desk.accounts;
    let refused = again.join(&secret, from_ref(&thief), accounts).await;
    assert_eq!(refused, Err(AuthError::NotInvited));
    assert!(again.join(&secret, &[wanted], accounts).await.is_ok());
    let unknown = InvitationSecret::random();
    let refused = setting.join(&unknown, from_ref(&thief)).await;
    assert_eq!(refused, Err(AuthError::NotInvited));

    // One that is over.
    let late = setting.invited(&[Kind::Streaming], 60).await;
    setting.enrolment.inner.made.lock().await[1].until = trust::now().as_secs();
    let refused = setting.join(&late, &[thief]).await;
    assert_eq!(refused, Err(AuthError::NotInvited));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_gets_the_signing_key() {
    let setting = Setting::new().await;
    let secret = setting.invited(&[Kind::Auth, Kind::Main], 60).await;
    let (_, wanted) = request(Kind::Auth, "auth-9");
    let welcome = setting.join(&secret, &[wanted]).await.unwrap();
    let key = welcome.authority_key.unwrap();
    let authority = Authority::from_pem(&welcome.authority, &key).unwrap();
    let own = setting.desk.node.authority().unwrap();
    assert_eq!(authority.fingerprint(), own.fingerprint());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_costs_no_invitation() {
    let setting = Setting::new().await;
    let secret = setting.invited(&[Kind::Streaming], 60).await;
    let (_, wanted) = request(Kind::Streaming, "streaming-9");
    let damaged = CertificateRequest {
        request: vec![1, 2, 3],
        ..wanted.clone()
    };
    let twice = vec![wanted.clone(), wanted.clone()];
    let many = vec![wanted.clone(); MOST_INSTANCES + 1];
    for bad in [vec![], vec![damaged], twice, many] {
        let refused = setting.join(&secret, &bad).await;
        assert!(matches!(refused, Err(AuthError::BadRequest(_))));
    }
    assert!(setting.join(&secret, &[wanted]).await.is_ok());
    for (roles, seconds) in [
        (vec![], 60),
        (vec![Kind::Auth], 0),
        (vec![Kind::Auth], u64::MAX),
    ] {
        let secret = InvitationSecret::random();
        let refused = setting.enrolment.invite(&secret, roles, seconds).await;
        assert!(matches!(refused, Err(AuthError::BadRequest(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_given_once_whether_or_not_its_owner_runs() {
    let setting = Setting::new().await;
    let accounts = &setting.desk.accounts;
    let is_taken = |refused| matches!(refused, Err(AuthError::BadRequest(_)));
    let secret = setting.invited(&[Kind::Catalog], 60).await;
    let (_, first) = request(Kind::Catalog, "catalog-9");
    setting.join(&secret, from_ref(&first)).await.unwrap();

    // It never ran; nobody else is called so, in whatever role.
    let other = setting.invited(&[Kind::Catalog, Kind::Main], 60).await;
    for kind in [Kind::Catalog, Kind::Main] {
        let (_, thief) = request(kind, "catalog-9");
        assert!(is_taken(setting.join(&other, &[thief]).await));
    }
    // The invitation is still good, for another name.
    let (_, second) = request(Kind::Catalog, "catalog-8");
    setting.join(&other, &[second]).await.unwrap();
    // Nor is one that was only seen, and sleeps now; being seen takes nothing from who was let in.
    let seen: [InstanceId; 2] = ["catalog-1", "catalog-9"].map(|name| name.parse().unwrap());
    accounts.saw_instances(seen.iter()).await;
    let late = setting.invited(&[Kind::Catalog], 60).await;
    let (_, thief) = request(Kind::Catalog, "catalog-1");
    assert!(is_taken(setting.join(&late, from_ref(&thief)).await));
    assert!(setting.join(&secret, from_ref(&first)).await.is_ok());
    // Who was expelled does not come back, not even by repeating itself.
    accounts.expel(&first.instance).await.unwrap();
    assert!(is_taken(setting.join(&secret, &[first]).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_expelled_is_not_renewed() {
    let setting = Setting::new().await;
    let authority = setting.desk.node.authority().unwrap();
    let name = "catalog-1".parse().unwrap();
    let credential = authority.issue(Kind::Catalog, &name, Duration::ZERO);
    let credential = credential.unwrap();
    let request = credential.request().unwrap();
    let renew = |expelled: bool| {
        let pem = credential.certificate_pem();
        setting.enrolment.renew(&request, pem, |_| expelled)
    };
    let (renewed, pem) = renew(false).unwrap();
    assert_eq!(renewed.instance, name);
    assert!(credential.with_certificate(&pem).unwrap().ends() > trust::now());
    assert_eq!(renew(true), Err(AuthError::Expelled));
}
