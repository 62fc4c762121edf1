//! What goes on in the background: hearing of films, of who is alive, and of changed rows.

use crate::{
    index::NewTitle,
    store::Store,
    unseen::{Turn, Unseen},
};
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
    let mut before = Arc::new(DirectoryView::empty());
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        store.shared_index().write().set_live(streaming(&now));
        unseen.changed(&turn(&before, &now, own));
        before = now;
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

/// What has changed from one view to the next, for the machine with this address.
fn turn(before: &DirectoryView, now: &DirectoryView, own: IpAddr) -> Turn {
    let all = |view: &DirectoryView| -> BTreeSet<_> {
        let all = view.instances.iter();
        all.map(|it| (it.kind, it.instance.clone(), it.endpoint.ip()))
            .collect()
    };
    let arrived = &all(now) - &all(before);
    Turn {
        arrived: arrived.into_iter().map(|(.., machine)| machine).collect(),
        company: now.instances.iter().any(|it| it.endpoint.ip() != own),
    }
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
    #[test]
    fn where_somebody_came_is_told() {
        let view = |instances: &[(&str, &str)]| DirectoryView {
            instances: instances
                .iter()
                .map(|(name, address)| Instance {
                    kind: Kind::Main,
                    instance: name.parse().unwrap(),
                    endpoint: address.parse().unwrap(),
                    pid: 1,
                    load: 0,
                    draining: false,
                })
                .collect(),
            ..DirectoryView::empty()
        };
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let (here, there) = (("a", "192.0.2.1:1"), ("b", "192.0.2.2:1"));
        let turned = |before: &[(&str, &str)], now: &[(&str, &str)]| {
            let turn = turn(&view(before), &view(now), own);
            (turn.arrived.into_iter().collect(), turn.company)
        };
        assert_eq!(turned(&[], &[here]), (vec![own], false));
        assert_eq!(turned(&[here], &[here, there]), (vec![other], true));
        assert_eq!(turned(&[here, there], &[here]), (vec![], false));
        // At another port it is the same one.
        let moved = ("b", "192.0.2.2:2");
        assert_eq!(turned(&[there], &[moved]), (vec![], true));
    }
}
