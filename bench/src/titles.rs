//! Titles for the catalogue: many, announced by a node that has nothing else.

use crate::world::{PATIENCE, World};
use anyhow::Context as _;
use iceflix_core::{
    announcement::Announcement,
    api::{InstanceId, Kind, MediaId, PageRequest, catalog::CatalogClient},
    feed::Speaker,
    topics::{Entries, MediaItem},
};
use sha2::{Digest as _, Sha256};
use std::{net::SocketAddr, time::Duration};

/// A node that announces titles which nobody plays.
pub struct Titles {
    /// Their ids and names.
    pub all: Vec<(MediaId, String)>,
    _speaker: Speaker,
    _announcement: Announcement,
}

impl Titles {
    /// Announces so many titles, and waits until the catalogue has them all.
    ///
    /// # Errors
    /// When they do not appear.
    pub async fn announce(world: &World, count: usize) -> anyhow::Result<Self> {
        let all: Vec<_> = (0..count).map(title).collect();
        let mut entries = Entries::new();
        for (id, name) in &all {
            let item = MediaItem {
                id: *id,
                name: name.clone(),
                size: 700_000_000,
                duration_s: Some(5400.0),
                format: "MP4, H.264 1280×720, AAC 2 channels".to_owned(),
                unplayable: None,
            };
            entries.insert(id.to_string(), serde_json::to_value(item)?);
        }
        let node: InstanceId = "titles".parse()?;
        let topic = world.topics.media();
        let speaker = Speaker::start(&world.bus, &topic, &node, entries).await?;
        // The node has no door: only the catalogue has to believe that it lives.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let announcement =
            Announcement::start(&world.bus, &world.topics, Kind::Streaming, &node, nowhere).await?;
        let complete = async {
            while named(world, "title").await? < count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        let complete = tokio::time::timeout(PATIENCE, complete).await;
        complete.context("the catalogue did not get all titles")??;
        Ok(Self {
            all,
            _speaker: speaker,
            _announcement: announcement,
        })
    }
}

/// How many available films have this in their name.
async fn named(world: &World, part: &str) -> anyhow::Result<usize> {
    let (mut count, mut page) = (0, PageRequest::first());
    loop {
        let ask = |catalog: CatalogClient, context| {
            let (name, page) = (part.to_owned(), page.clone());
            async move {
                catalog
                    .tiles_by_name(context, None, name, false, page)
                    .await
            }
        };
        let got = world.caller().call(ask).await??;
        count += got.items.iter().filter(|film| film.available).count();
        match got.next {
            Some(next) => page.after = Some(next),
            None => return Ok(count),
        }
    }
}

/// The n-th title: its name is made of words that many titles have and a number of its own.
fn title(n: usize) -> (MediaId, String) {
    const FIRST: [&str; 10] = [
        "Silent", "Golden", "Última", "Lost", "Frozen", "Crimson", "Distant", "Étrange", "Quiet",
        "Wild",
    ];
    const SECOND: [&str; 10] = [
        "River", "Mountain", "Noche", "Garden", "Harbour", "Station", "Señal", "Winter", "Road",
        "Sea",
    ];
    let (first, second) = (FIRST[n % 10], SECOND[n / 10 % 10]);
    let name = format!("{first} {second} title {n:05}");
    let id = MediaId::from_bytes(Sha256::digest(&name).into());
    (id, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn titles_are_distinct() {
        let titles: Vec<_> = (0..10_000).map(title).collect();
        let ids: BTreeSet<_> = titles.iter().map(|(id, _)| *id).collect();
        let names: BTreeSet<_> = titles.iter().map(|(_, name)| name).collect();
        assert_eq!((ids.len(), names.len()), (10_000, 10_000));
    }
}
