use crate::{enrol::Enrolment, service::AuthService, testing::Desk};
use iceflix_core::{
    api::{
        InstanceId, Kind,
        auth::{AuthError, Authenticator, CertificateRequest},
    },
    audit,
    rpc::Peer,
    trust::{authority::CERTIFICATE_LIFETIME, credentials::NewKey, invitation::InvitationSecret},
};
use serde_json::{Value, json};
use std::{fs, net::SocketAddr, sync::Arc};
use tarpc::context;

/// A service that lets machines in.
async fn letting_in(desk: &Desk) -> AuthService {
    let status = Arc::new(desk.status().await);
    let node = &desk.node;
    let enrolment = Enrolment::open(
        node.authority().unwrap(),
        CERTIFICATE_LIFETIME,
        node.membership.clone(),
        Vec::new(),
        &node.state_dir,
    );
    AuthService::new(node, desk.keys.clone(), desk.accounts.clone(), status)
        .with_enrolment(enrolment.unwrap())
}

/// The service as it answers an instance; or, without a name, a client.
fn facing(service: &AuthService, who: Option<(Kind, &str)>) -> AuthService {
    let here = SocketAddr::from(([127, 0, 0, 1], 7));
    service.facing(Peer {
        address: SocketAddr::from(([10, 0, 0, 9], 7)),
        local: here,
        role: who.map(|(kind, _)| kind),
        instance: who.map(|(_, name)| name.parse().unwrap()),
    })
}

/// The lines that were written, without what each has.
async fn written(desk: &Desk) -> Vec<Value> {
    desk.node.audit.flush().await;
    let text = fs::read_to_string(desk.node.state_dir.join(audit::FILE)).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        for every in ["time", "service", "instance"] {
            assert!(fields.remove(every).is_some());
        }
        assert_eq!(fields.remove("from"), Some(json!("10.0.0.9")));
        line
    });
    lines.collect()
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_written_who_let_in_and_expelled_whom() {
    let desk = Desk::new().await;
    let service = letting_in(&desk).await;
    let owner = facing(&service, Some((Kind::Auth, "auth-2")));
    let catalog = facing(&service, Some((Kind::Catalog, "catalog-1")));
    let stranger = facing(&service, None);
    let now = context::current;

    let (secret, roles) = (InvitationSecret::random(), vec![Kind::Main, Kind::Catalog]);
    let invite = |who: &AuthService| who.clone().invite(now(), secret.clone(), roles.clone(), 60);
    assert_eq!(invite(&catalog).await, Err(AuthError::NotAuthenticator));
    invite(&owner).await.unwrap();
    let requests = [(Kind::Catalog, "catalog-9"), (Kind::Main, "main-9")];
    let requests = requests.map(|(kind, name)| CertificateRequest {
        kind,
        instance: id(name),
        request: NewKey::generate().unwrap().request().unwrap(),
    });
    let join = |secret: &InvitationSecret| {
        let requests = requests.to_vec();
        stranger.clone().join(now(), secret.clone(), requests)
    };
    let refused = join(&InvitationSecret::random()).await;
    assert_eq!(refused, Err(AuthError::NotInvited));
    join(&secret).await.unwrap();
    owner.clone().expel(now(), id("main-9")).await.unwrap();
    let both = json!(["main", "catalog"]);
    assert_eq!(
        written(&desk).await,
        [
            json!({ "action": "invite", "outcome": "refused", "reason": "not_authenticator",
                "roles": both, "peer": "catalog-1" }),
            json!({ "action": "invite", "outcome": "done", "roles": both, "peer": "auth-2" }),
            json!({ "action": "join", "outcome": "refused", "reason": "not_invited" }),
            json!({ "action": "join", "outcome": "done", "object": "instance:catalog-9",
                "roles": ["catalog"] }),
            json!({ "action": "join", "outcome": "done", "object": "instance:main-9",
                "roles": ["main"] }),
            json!({ "action": "expel", "outcome": "done", "object": "instance:main-9",
                "peer": "auth-2" }),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_by_who_hung_up_is_written_too() {
    // On a busy machine the disk may be done before a request is first looked at.
    for _ in 0..20 {
        let Some(written) = by_who_hung_up().await else {
            continue;
        };
        let invite = json!({ "action": "invite", "outcome": "abandoned", "roles": ["main"],
            "peer": "auth-2" });
        let expel = json!({ "action": "expel", "outcome": "abandoned",
            "object": "instance:main-9", "peer": "auth-2" });
        assert_eq!(written, [invite, expel]);
        return;
    }
    panic!("a request always ended before it could be dropped");
}

/// What is written of two requests that have begun and are dropped where they wait for the disk;
/// `None` when one did not have to wait.
async fn by_who_hung_up() -> Option<Vec<Value>> {
    let desk = Desk::new().await;
    let service = letting_in(&desk).await;
    let owner = facing(&service, Some((Kind::Auth, "auth-2")));
    let secret = InvitationSecret::random();
    let (asker, roles) = (owner.clone(), vec![Kind::Main]);
    let invite = asker.invite(context::current(), secret.clone(), roles, 60);
    let expel = owner.expel(context::current(), id("main-9"));
    for request in [
        Box::pin(invite) as std::pin::Pin<Box<dyn Future<Output = _>>>,
        Box::pin(expel),
    ] {
        tokio::select! {
            biased;
            _ = request => return None,
            () = std::future::ready(()) => {}
        }
    }
    Some(written(&desk).await)
}
