//! What goes on in the background: hearing of films, of who is alive, and of changed rows.

use crate::{index::NewTitle, store::Store, unseen::Unseen};
use iceflix_core::{
    api::{Instance, InstanceId, Kind, MediaId, main::DirectoryView},
    feed::{self, Change, Heard, Inbox},
    membership::Membership,
    replica::RowChange,
    topics::{Entries, MediaItem},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// For how long the films of a node that is gone are remembered as its own. Its return brings them
/// back at once; after that time they come back with its announcement, and are known all along.
const REMEMBER_NODES: Duration = Duration::from_secs(7 * 24 * 3600);

/// How soon after one change of the directory another is to be expected, when links come up.
const QUIET: Duration = Duration::from_millis(350);

/// The longest that a catalogue which starts waits for others, whoever goes on arriving.
const GATHERING: Duration = Duration::from_millis(800);

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

/// Follows which streaming nodes are alive, and which are not seen.
///
/// `own` is this machine's address.
pub async fn live(
    store: Store,
    membership: Membership,
    own: IpAddr,
    unseen: Unseen,
    stop: CancellationToken,
) {
    let mut view = membership.watch();
    let mut prune = tokio::time::interval(PRUNE);
    let mut before: BTreeSet<(Kind, InstanceId)> = BTreeSet::new();
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        store.shared_index().write().set_live(streaming(&now));
        let name = |it: &Instance| (it.kind, it.instance.clone());
        let arrived = now
            .instances
            .iter()
            .filter(|it| !before.contains(&name(it)));
        let arrived: Vec<IpAddr> = arrived.map(|it| it.endpoint.ip()).collect();
        unseen.changed(arrived, sees_others(&now, own));
        before = now.instances.iter().map(name).collect();
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
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

/// Waits until the directory has not changed for a while, 0.8 s at most: links to others come up one
/// by one, and what they have is heard over them.
pub async fn gathered(membership: &Membership) {
    let mut view = membership.watch();
    let gathering = async {
        // Until it is quiet, or the bus was closed.
        while let Ok(Ok(())) = tokio::time::timeout(QUIET, view.changed()).await {}
    };
    let _ = tokio::time::timeout(GATHERING, gathering).await;
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
