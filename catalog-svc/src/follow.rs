//! What goes on in the background: hearing of films, of who is alive, and of changed rows.

use crate::{gathering::Gate, index::NewTitle, store::Store};
use iceflix_core::{
    api::{Instance, InstanceId, Kind, MediaId, main::DirectoryView},
    feed::{self, Change, Heard, Inbox},
    membership::Membership,
    replica::RowChange,
    topics::{Entries, MediaItem},
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// For how long the films of a node that is gone are remembered as its own. Its return brings them
/// back at once; after that time they come back with its announcement, and are known all along.
const REMEMBER_NODES: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often nodes that are gone for long are looked for.
const PRUNE: Duration = Duration::from_secs(3600);

/// Enters rows that changed, here or at a peer, until `stop`. Whoever [asks](all_entered) is told when
/// those were entered that had changed by then.
pub async fn rows(
    store: Store,
    mut changes: mpsc::UnboundedReceiver<Vec<RowChange>>,
    mut asked: mpsc::Receiver<oneshot::Sender<()>>,
    stop: CancellationToken,
) {
    let entering = async {
        loop {
            tokio::select! {
                // First what there is to enter.
                biased;
                changed = changes.recv() => match changed {
                    Some(changed) => store.refresh(changed.into_iter().map(|(key, _)| key)),
                    None => return,
                },
                // It may have given up.
                Some(done) = asked.recv() => drop(done.send(())),
            }
        }
    };
    stop.run_until_cancelled(entering).await;
}

/// Waits until the rows that have changed are entered.
pub async fn all_entered(ask: &mpsc::Sender<oneshot::Sender<()>>) {
    let (done, waiting) = oneshot::channel();
    if ask.send(done).await.is_ok() {
        // In vain only when the service is stopping.
        let _ = waiting.await;
    }
}

/// Hears what streaming nodes announce, until `stop`; passes on the films that are new.
pub async fn media(
    store: Store,
    mut heard: Inbox,
    titles: mpsc::UnboundedSender<NewTitle>,
    stop: CancellationToken,
) {
    while let Some(Some(heard)) = stop.run_until_cancelled(heard.recv()).await {
        hear(&store, heard, &titles).await;
    }
}

/// Takes in what a node announced.
pub async fn hear(store: &Store, heard: Heard, titles: &mpsc::UnboundedSender<NewTitle>) {
    let new = match heard {
        Heard::Everything(node, entries) => {
            let index = store.shared_index().clone();
            // Large ones take a moment. A panic in there was logged; the next snapshot mends it.
            let entering =
                tokio::task::spawn_blocking(move || index.provider_replaced(&node, items(entries)));
            entering.await.unwrap_or_default()
        }
        Heard::Changed(node, changes) => changed(store, &node, changes),
        // Who is alive comes from the directory. What it announced counts again when it returns.
        Heard::Gone(_) => Vec::new(),
    };
    for title in new {
        // Nobody writes them any more only when the service is stopping.
        let _ = titles.send(title);
    }
}

fn changed(store: &Store, node: &InstanceId, changes: Vec<Change>) -> Vec<NewTitle> {
    let mut index = store.shared_index().write();
    let mut new = Vec::new();
    for (name, value) in changes {
        match (name.parse::<MediaId>(), value) {
            (Ok(_), Some(value)) => {
                new.extend(item(&name, value).and_then(|item| index.announced(node, item)));
            }
            (Ok(id), None) => index.withdrawn(node, id),
            (Err(_), _) => tracing::warn!(%node, name, "a malformed announcement was ignored"),
        }
    }
    new
}

fn items(entries: Entries) -> Vec<MediaItem> {
    let entries = entries.into_iter();
    entries
        .filter_map(|(name, value)| item(&name, value))
        .collect()
}

/// A film's announcement, under its id.
fn item(name: &str, value: serde_json::Value) -> Option<MediaItem> {
    let item: MediaItem = feed::read(name, value)?;
    if item.id.to_string() != name {
        tracing::warn!(name, "an announcement under another film's id was ignored");
        return None;
    }
    Some(item)
}

/// Follows which streaming nodes are alive, and tells the gate.
///
/// `own` is this machine's address.
pub async fn live(
    store: Store,
    membership: Membership,
    own: IpAddr,
    gate: Gate,
    stop: CancellationToken,
) {
    let (mut view, mut churn) = (membership.watch(), membership.churn());
    let mut prune = tokio::time::interval(PRUNE);
    loop {
        let (live, company) = {
            let view = view.borrow_and_update();
            (streaming(&view), sees_others(&view, own))
        };
        store.shared_index().write().set_live(live);
        gate.look(company);
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            // It is noted when that was.
            turned = churn.changed() => if turned.is_err() { return },
            _ = prune.tick() => {
                let gone = store.shared_index().write().prune(Instant::now(), REMEMBER_NODES);
                for node in gone {
                    tracing::info!(%node, "a node that has been gone for a week was forgotten");
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

/// Whether there is an instance on another machine than the one with this address.
fn sees_others(view: &DirectoryView, own: IpAddr) -> bool {
    let mut instances = view.instances.iter();
    instances.any(|instance| instance.endpoint.ip() != own)
}

/// The streaming nodes of a directory.
fn streaming(view: &DirectoryView) -> BTreeMap<InstanceId, Instance> {
    let nodes = view.instances.iter();
    nodes
        .filter(|instance| instance.kind == Kind::Streaming)
        .map(|node| (node.instance.clone(), node.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceflix_core::api::main::DirectoryVersion;

    #[test]
    fn others_are_those_at_other_addresses() {
        let view = |addresses: &[&str]| DirectoryView {
            version: DirectoryVersion {
                counter: 0,
                number: 0,
            },
            instances: addresses
                .iter()
                .map(|address| Instance {
                    kind: Kind::Main,
                    instance: "main-1".parse().unwrap(),
                    endpoint: address.parse().unwrap(),
                    pid: 1,
                    load: 0,
                    draining: false,
                })
                .collect(),
        };
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(!sees_others(&view(&[]), own));
        assert!(!sees_others(&view(&["192.0.2.1:1", "192.0.2.1:2"]), own));
        assert!(sees_others(&view(&["192.0.2.1:1", "192.0.2.2:1"]), own));
    }
}
