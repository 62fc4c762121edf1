//! The catalogue in memory: what nodes announce, who is alive, and what people said about films.
//!
//! Pure: events go in (in any order), questions are answered. A film is known when its title row
//! exists or a node claims it, and available when a *live* node claims it. Claims and liveness are
//! kept apart and met only when a question is asked, so that it does not matter which was heard of
//! first, and a node that returns has its films back at once.

mod find;
mod shared;
mod tags;
#[cfg(test)]
mod tests;

pub use shared::SharedIndex;

use crate::text;
use find::{Key, Signature};
use iceflix_core::{
    api::{
        Instance, InstanceId, MediaId,
        catalog::{Tile, TileDetails},
    },
    topics::MediaItem,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};
use tags::UserTags;

/// Among so many of a node's films one is looked for that can be played: it takes no time worth
/// mentioning.
const SOME: usize = 100;

/// The longest description of a format, or of why a film cannot be played, in characters.
const MAX_REMARK: usize = 500;

/// What was first learned of a film; it keeps the film's name while no node has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TitleRow {
    /// Its file's name without extension.
    pub name: String,
    /// How long it plays, in seconds, when known.
    pub duration_s: Option<f64>,
    /// The file's size, in bytes.
    pub size: u64,
    /// What it is made of, for people.
    pub format: String,
}

impl TitleRow {
    fn of(item: &MediaItem) -> Self {
        Self {
            name: item.name.clone(),
            duration_s: item.duration_s,
            size: item.size,
            format: item.format.clone(),
        }
    }

    /// The row within the bounds that announcements are held to.
    pub fn bounded(self) -> Self {
        Self {
            name: text::shown(&self.name, text::MAX_NAME),
            duration_s: self.duration_s.filter(is_duration),
            size: self.size,
            format: text::shown(&self.format, MAX_REMARK),
        }
    }
}

/// A title row that does not exist yet and should.
pub type NewTitle = (MediaId, TitleRow);

#[derive(Default)]
struct Film {
    title: Option<TitleRow>,
    renamed: Option<String>,
    claims: BTreeMap<InstanceId, MediaItem>,
    /// Its place in `by_name`; `None` while the film is not known.
    key: Option<Key>,
}

impl Film {
    /// The name it goes by, `None` while it is not known (an admin's rename may arrive first).
    fn name(&self) -> Option<&str> {
        let first = match &self.title {
            Some(title) => &title.name,
            None => &self.claims.values().next()?.name,
        };
        Some(self.renamed.as_deref().unwrap_or(first))
    }

    fn is_empty(&self) -> bool {
        self.title.is_none() && self.renamed.is_none() && self.claims.is_empty()
    }
}

#[derive(Default)]
struct Provider {
    media: BTreeSet<MediaId>,
    /// Where it was when it was last seen; nothing when it had said that it was leaving.
    last: Option<Instance>,
    /// When `prune` first found it gone.
    gone_since: Option<Instant>,
}

/// The catalogue's contents. See the [module](self).
#[derive(Default)]
pub struct Index {
    films: BTreeMap<MediaId, Film>,
    by_name: BTreeMap<Key, Signature>,
    providers: BTreeMap<InstanceId, Provider>,
    live: BTreeMap<InstanceId, Instance>,
    /// Those that are not seen to be alive, and have answered.
    reached: BTreeMap<InstanceId, Instance>,
    tags: HashMap<String, UserTags>,
}

/// What nodes announce, and who is alive.
impl Index {
    /// A node has a film (or has it with other facts than before). Gives the title row to write
    /// when the film has none.
    pub fn announced(&mut self, provider: &InstanceId, item: MediaItem) -> Option<NewTitle> {
        let item = bounded(item);
        let id = item.id;
        let known = self.providers.entry(provider.clone()).or_default();
        known.media.insert(id);
        let film = self.films.entry(id).or_default();
        // What cannot be played may be half a file: its name is kept when somebody says something
        // of it, not before.
        let worth = film.title.is_none() && item.unplayable.is_none();
        let new = worth.then(|| (id, TitleRow::of(&item)));
        // A snapshot mostly repeats what is known.
        if film.claims.get(provider) != Some(&item) {
            film.claims.insert(provider.clone(), item);
            self.file(id);
        }
        new
    }

    /// A node does not have a film any more.
    pub fn withdrawn(&mut self, provider: &InstanceId, id: MediaId) {
        if let Some(known) = self.providers.get_mut(provider) {
            known.media.remove(&id);
            if known.media.is_empty() {
                self.providers.remove(provider);
            }
        }
        if let Some(film) = self.films.get_mut(&id) {
            film.claims.remove(provider);
            self.file(id);
        }
    }

    /// A node is gone for good: drops all it claimed. (One that is merely not alive keeps its
    /// claims: see [`set_live`](Self::set_live).)
    pub fn provider_gone(&mut self, provider: &InstanceId) {
        for id in self.claimed_by(provider) {
            self.withdrawn(provider, id);
        }
    }

    /// The films that a node claims.
    pub fn claimed_by(&self, provider: &InstanceId) -> BTreeSet<MediaId> {
        let known = self.providers.get(provider);
        known.map(|known| known.media.clone()).unwrap_or_default()
    }

    /// The streaming nodes that are alive now. Claims of others count for nothing until their
    /// node is among them.
    pub fn set_live(&mut self, live: BTreeMap<InstanceId, Instance>) {
        for (id, provider) in &mut self.providers {
            match (self.live.get(id), live.contains_key(id)) {
                (_, true) => provider.last = None,
                (Some(before), false) => {
                    provider.last = (!before.draining).then(|| before.clone());
                }
                // It is as it was when it went.
                (None, false) => {}
            }
        }
        self.reached.retain(|id, _| !live.contains_key(id));
        self.live = live;
    }

    /// Whether a node that claims films is not seen to be alive, and has not said that it would
    /// leave.
    pub fn misses_nodes(&self) -> bool {
        self.providers.values().any(|it| it.last.is_some()) || !self.reached.is_empty()
    }

    /// Those nodes, as they were when they were last seen, each with up to two films that it claims
    /// to have, such as it claims to be able to play if there are any. Not those `expelled`, nor one
    /// in whose place another is.
    pub fn missed(&self, expelled: &HashSet<InstanceId>) -> Vec<(Instance, Vec<MediaId>)> {
        let providers = self.providers.iter();
        let missed = providers.filter_map(|(id, known)| {
            let node = known.last.as_ref().filter(|_| !expelled.contains(id))?;
            if self.live.values().any(|it| it.endpoint == node.endpoint) {
                return None;
            }
            let plays = |film: &&MediaId| {
                let claim = self.films.get(film).and_then(|film| film.claims.get(id));
                claim.is_some_and(|item| item.unplayable.is_none())
            };
            let first = known.media.iter().take(SOME).find(plays);
            let first = first.or_else(|| known.media.first())?;
            let last = known.media.iter().rev().take(SOME).find(plays);
            let mut films = vec![*first];
            films.extend(last.filter(|film| *film != first));
            Some((node.clone(), films))
        });
        missed.collect()
    }

    /// Those of them that have answered when they were asked themselves: their claims count, too.
    pub fn set_reached(&mut self, reached: BTreeMap<InstanceId, Instance>) {
        self.reached = reached;
        self.reached.retain(|id, _| !self.live.contains_key(id));
    }

    /// Those that are counted because they have answered.
    pub fn reached(&self) -> &BTreeMap<InstanceId, Instance> {
        &self.reached
    }

    /// A node that is alive, by the bus or by its own word.
    fn alive(&self, node: &InstanceId) -> Option<&Instance> {
        self.live.get(node).or_else(|| self.reached.get(node))
    }

    /// Drops the claims of nodes that were not alive for `keep`, counted from the first call that
    /// found them so. Gives the nodes that were dropped.
    pub fn prune(&mut self, now: Instant, keep: Duration) -> Vec<InstanceId> {
        let mut over = Vec::new();
        for (id, provider) in &mut self.providers {
            if self.live.contains_key(id) {
                provider.gone_since = None;
            } else if now.saturating_duration_since(*provider.gone_since.get_or_insert(now)) > keep
            {
                over.push(id.clone());
            }
        }
        for id in &over {
            self.provider_gone(id);
        }
        over
    }
}

/// What is kept: titles, names, tags.
impl Index {
    /// A film's title row, or that there is none.
    pub fn title_row(&mut self, id: MediaId, row: Option<TitleRow>) {
        self.films.entry(id).or_default().title = row;
        self.file(id);
    }

    /// The name that an admin gave a film, or that there is none.
    pub fn name_row(&mut self, id: MediaId, name: Option<String>) {
        self.films.entry(id).or_default().renamed = name;
        self.file(id);
    }

    /// Whether a user has put a tag on a film.
    pub fn tag_row(&mut self, user: &str, id: MediaId, tag: &str, present: bool) {
        if present {
            let tags = self.tags.entry(user.to_owned()).or_default();
            tags.insert(id, tag);
        } else if let Some(tags) = self.tags.get_mut(user) {
            tags.remove(id, tag);
            if tags.is_empty() {
                self.tags.remove(user);
            }
        }
    }

    /// The title row of a film that has none yet, now that something is to be kept of it.
    pub fn missing_title(&self, id: &MediaId) -> Option<NewTitle> {
        let film = self.films.get(id).filter(|film| film.title.is_none())?;
        Some((*id, TitleRow::of(film.claims.values().next()?)))
    }

    /// Puts a film where its name belongs, after any change to it.
    fn file(&mut self, id: MediaId) {
        let Some(film) = self.films.get_mut(&id) else {
            return;
        };
        let key = film.name().map(|name| Key::new(name, id));
        if film.key != key {
            if let Some(old) = &film.key {
                self.by_name.remove(old);
            }
            if let Some(new) = &key {
                self.by_name.insert(new.clone(), Signature::of(&new.folded));
            }
            film.key = key;
        }
        if film.is_empty() {
            self.films.remove(&id);
        }
    }
}

/// One film.
impl Index {
    /// The number of known films.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether no film is known.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether the film is known.
    pub fn contains(&self, id: &MediaId) -> bool {
        self.films.get(id).is_some_and(|film| film.key.is_some())
    }

    /// How many tags a user would have on a film with these ones too.
    pub fn tag_count_with(&self, user: &str, id: &MediaId, more: &[String]) -> usize {
        match self.tags_of(Some(user), id) {
            Some(tags) => {
                let new = more.iter().filter(|tag| !tags.contains(tag.as_str()));
                tags.len() + new.count()
            }
            None => more.len(),
        }
    }

    /// A film, as the user sees it.
    pub fn get(&self, id: &MediaId, user: Option<&str>) -> Option<TileDetails> {
        let film = self.films.get(id)?;
        let tile = self.tile(id, film, user)?;
        let playable = self.holders(film, |item| item.unplayable.is_none());
        let facts = self.facts(film)?;
        Some(TileDetails {
            tile,
            providers: playable.into_iter().map(|(node, _)| node.clone()).collect(),
            format: facts.2.to_owned(),
            size: facts.1,
        })
    }

    fn tile(&self, id: &MediaId, film: &Film, user: Option<&str>) -> Option<Tile> {
        let name = film.name()?.to_owned();
        let holders = self.holders(film, |_| true);
        let available = !self
            .holders(film, |item| item.unplayable.is_none())
            .is_empty();
        let why = holders.iter().find_map(|(_, item)| item.unplayable.clone());
        let tags = self.tags_of(user, id);
        Some(Tile {
            id: *id,
            name,
            tags: tags.map_or_else(Vec::new, |tags| {
                tags.iter().map(|tag| tag.to_string()).collect()
            }),
            duration_s: self.facts(film)?.0,
            providers: u32::try_from(holders.len()).unwrap_or(u32::MAX),
            available,
            unplayable: if available { None } else { why },
        })
    }

    /// The live nodes that claim the film with such facts, by name. One that is leaving counts
    /// only when all are.
    fn holders<'a>(
        &'a self,
        film: &'a Film,
        such: impl Fn(&MediaItem) -> bool,
    ) -> Vec<(&'a Instance, &'a MediaItem)> {
        let mut holders: Vec<_> = film
            .claims
            .iter()
            .filter(|(_, item)| such(item))
            .filter_map(|(provider, item)| Some((self.alive(provider)?, item)))
            .collect();
        if holders.iter().any(|(node, _)| !node.draining) {
            holders.retain(|(node, _)| !node.draining);
        }
        holders
    }

    /// Duration, size and format: from who has the film now, else as first known.
    fn facts<'a>(&'a self, film: &'a Film) -> Option<(Option<f64>, u64, &'a str)> {
        let live = |(node, item)| self.alive(node).is_some().then_some(item);
        let now = film.claims.iter().find_map(live);
        match (now, &film.title) {
            (None, Some(title)) => Some((title.duration_s, title.size, &title.format)),
            (now, _) => {
                let item = now.or_else(|| film.claims.values().next())?;
                Some((item.duration_s, item.size, &item.format))
            }
        }
    }

    fn tags_of(&self, user: Option<&str>, id: &MediaId) -> Option<&BTreeSet<tags::Tag>> {
        self.tags.get(user?)?.of(id)
    }
}

/// A node's word within bounds: short texts fit to be shown, a name in any case, numbers that
/// are numbers.
fn bounded(item: MediaItem) -> MediaItem {
    let mut name = text::shown(&item.name, text::MAX_NAME);
    if name.trim().is_empty() {
        name = format!("{:.12}", item.id);
    }
    MediaItem {
        name,
        duration_s: item.duration_s.filter(is_duration),
        format: text::shown(&item.format, MAX_REMARK),
        unplayable: item.unplayable.map(|why| text::shown(&why, MAX_REMARK)),
        ..item
    }
}

fn is_duration(seconds: &f64) -> bool {
    seconds.is_finite() && *seconds >= 0.0
}
