//! Whether a cluster is up: every instance is in the directory of every Main.

use super::services::Service;
use iceflix_core::{
    api::{Instance, Kind},
    rpc::{Cluster, Security},
    trust::credentials::fingerprint_in,
};
use std::{collections::HashSet, future::Future, net::SocketAddr};

/// Looks at a cluster's health.
pub trait Health: Send {
    /// The names (`auth-1`) of the services that some Main does not list as live yet. A Main that
    /// does not answer is missing itself.
    fn missing(
        &mut self,
        mains: &[SocketAddr],
        services: &[Service],
    ) -> impl Future<Output = Vec<String>> + Send;
}

/// Asks every Main for its directory.
#[derive(Debug)]
pub struct Directories;

impl Health for Directories {
    async fn missing(&mut self, mains: &[SocketAddr], services: &[Service]) -> Vec<String> {
        // All services are of one cluster.
        let known = services
            .first()
            .map(|service| fingerprint_in(&service.identity));
        let security = known.and_then(|known| Security::client(known.ok()?).ok());
        let security = security.as_ref();
        let views = futures::future::join_all(mains.iter().map(|main| async move {
            let cluster = Cluster::connect(vec![*main], security?.clone())
                .await
                .ok()?;
            let view = cluster.directory().borrow().clone();
            Some((*main, view))
        }))
        .await;
        let answered: Vec<_> = views.into_iter().flatten().collect();
        let lists: Vec<(SocketAddr, &[Instance])> = answered
            .iter()
            .map(|(main, view)| (*main, view.instances.as_slice()))
            .collect();
        // Those of other machines come and go by themselves.
        let own = services
            .iter()
            .any(|service| service.entry.kind == Kind::Main);
        let there: Vec<SocketAddr> = lists.iter().map(|(main, _)| *main).collect();
        match (own, there.is_empty()) {
            (true, _) => unlisted(mains, services, &lists),
            (false, true) => vec!["a Main of another machine".to_owned()],
            (false, false) => unlisted(&there, services, &lists),
        }
    }
}

/// Which services are not in every list. While a Main has not answered, only Mains that did not
/// are named: without them nothing is known about the others.
fn unlisted(
    mains: &[SocketAddr],
    services: &[Service],
    lists: &[(SocketAddr, &[Instance])],
) -> Vec<String> {
    let silent: HashSet<u16> = mains
        .iter()
        .filter(|main| lists.iter().all(|(answered, _)| answered != *main))
        .map(SocketAddr::port)
        .collect();
    let listed = |service: &Service| {
        lists.iter().all(|(_, instances)| {
            let named = |live: &Instance| live.instance.as_str() == service.entry.instance;
            instances.iter().any(|live| named(live) && !live.draining)
        })
    };
    services
        .iter()
        .filter(|service| match silent.is_empty() {
            true => !listed(service),
            false => silent.contains(&service.entry.port),
        })
        .map(|service| service.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plan::Entry;

    fn service(kind: Kind, number: u32, port: u16) -> Service {
        let entry = Entry {
            kind,
            number,
            instance: format!("{kind}-{number}-00000000"),
            port,
            bus_port: 1,
            rtsp_port: None,
            media: None,
        };
        Service {
            name: entry.name(),
            entry,
            program: "/t".into(),
            config: "/c".into(),
            identity: "/i".into(),
            log: "/l".into(),
        }
    }

    fn live(service: &Service) -> Instance {
        Instance {
            kind: service.entry.kind,
            instance: service.entry.instance.parse().unwrap(),
            endpoint: ([127, 0, 0, 1], service.entry.port).into(),
            pid: 1,
            load: 0,
            draining: false,
        }
    }

    #[test]
    fn every_main_must_list_every_instance() {
        let services = [
            service(Kind::Main, 1, 11),
            service(Kind::Main, 2, 12),
            service(Kind::Auth, 1, 21),
        ];
        let mains: Vec<SocketAddr> = [11, 12].map(|port| ([127, 0, 0, 1], port).into()).to_vec();
        let all: Vec<Instance> = services.iter().map(live).collect();
        let missing = |lists: &[(SocketAddr, &[Instance])]| unlisted(&mains, &services, lists);

        assert_eq!(missing(&[]), ["main-1", "main-2"]);
        assert_eq!(missing(&[(mains[0], &all[..])]), ["main-2"]);
        assert_eq!(
            missing(&[(mains[0], &all[..]), (mains[1], &all[..2])]),
            ["auth-1"]
        );
        let mut leaving = all.clone();
        leaving[2].draining = true;
        assert_eq!(
            missing(&[(mains[0], &all[..]), (mains[1], &leaving[..])]),
            ["auth-1"]
        );
        assert!(missing(&[(mains[0], &all[..]), (mains[1], &all[..])]).is_empty());
    }
}
