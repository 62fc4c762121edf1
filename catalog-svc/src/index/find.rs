//! Lists of films: by name, by tags, by the beginning of an id.

use super::Index;
use crate::text;
use iceflix_core::api::{
    MediaId, Page, PageRequest,
    catalog::{Query, Tile},
};
use std::{
    collections::HashSet,
    ops::Bound::{self, Excluded, Included, Unbounded},
    sync::Arc,
};

/// The longest text that is searched for, in bytes; no name is longer, however it is encoded.
const MAX_NEEDLE: usize = 16 * text::MAX_NAME;
/// A page ends early when its films take about this many bytes (half of what a frame holds).
const PAGE_BYTES: usize = 512 << 10;
/// What a film takes on the wire besides its texts, in bytes, rounded up.
const TILE_BYTES: usize = 128;

/// A film's place in every list: by folded name, then by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) folded: Arc<str>,
    id: MediaId,
}

impl Key {
    pub(super) fn new(name: &str, id: MediaId) -> Self {
        Self {
            folded: text::fold(name).into(),
            id,
        }
    }

    /// The place as a text: the id's digits, then the folded name. It means the same whatever is
    /// added or removed meanwhile, to any catalogue.
    fn to_cursor(&self) -> String {
        format!("{}{}", self.id, self.folded)
    }

    /// The place in such a text; `None` when it is not one.
    fn from_cursor(text: &str) -> Option<Self> {
        let (id, folded) = text.split_at_checked(64)?;
        Some(Self {
            folded: folded.into(),
            id: id.parse().ok()?,
        })
    }
}

/// Which pairs of neighbouring bytes a text has, as 64 bits: a text can only be within another
/// whose signature has all its bits. Spares looking at most names.
#[derive(Clone, Copy)]
pub(super) struct Signature(u64);

impl Signature {
    pub(super) fn of(text: &str) -> Self {
        let bit = |pair: &[u8]| {
            let pair = u32::from(pair[0]) << 8 | u32::from(pair[1]);
            // Fibonacci hashing: the upper 6 bits of the product spread evenly.
            1 << (pair.wrapping_mul(0x9e37_79b9) >> 26)
        };
        let pairs = text.as_bytes().windows(2);
        Self(pairs.fold(0, |bits, pair| bits | bit(pair)))
    }

    fn may_contain(self, part: Self) -> bool {
        self.0 & part.0 == part.0
    }
}

/// A name condition, ready to be tested.
struct NameTest {
    needle: String,
    signature: Signature,
    exact: bool,
}

impl NameTest {
    fn new(query: &Query) -> Self {
        let needle = text::fold(&query.name);
        Self {
            signature: Signature::of(&needle),
            // "Conditions left empty do not restrict."
            exact: query.exact && !query.name.is_empty(),
            needle,
        }
    }

    fn accepts(&self, folded: &str) -> bool {
        if self.exact {
            folded == self.needle
        } else {
            folded.contains(&self.needle)
        }
    }
}

impl Index {
    /// The films that meet the query, by name. Its tags must be [normal](text::tags); they are the
    /// user's, so without a user no film has them. A page's `after` that no page gave is as good
    /// as none.
    pub fn find(&self, query: &Query, user: Option<&str>, page: &PageRequest) -> Page<Tile> {
        if query.name.len() > MAX_NEEDLE {
            return empty();
        }
        let test = NameTest::new(query);
        let after = page.after.as_deref().and_then(Key::from_cursor);
        if !query.tags.is_empty() {
            let tagged = self.with_tags(user, &query.tags, query.all_tags);
            let keys = tagged
                .iter()
                .filter_map(|id| self.films.get(id)?.key.as_ref())
                .filter(|key| after.as_ref().is_none_or(|after| *key > after))
                .filter(|key| test.accepts(&key.folded));
            return self.page(smallest(keys.collect(), page.size() + 1), user, page);
        }
        if test.exact {
            let at = |id| Key {
                folded: test.needle.as_str().into(),
                id: MediaId::from_bytes(id),
            };
            let (first, last) = (at([0; 32]), at([0xff; 32]));
            let from = match after {
                Some(after) if after >= last => return empty(),
                Some(after) if after >= first => Excluded(after),
                _ => Included(first),
            };
            let found = self.by_name.range((from, Included(last)));
            return self.page(found.map(|(key, _)| key), user, page);
        }
        let from: Bound<Key> = after.map_or(Unbounded, Excluded);
        let found = self
            .by_name
            .range((from, Unbounded))
            .filter(|(_, signature)| signature.may_contain(test.signature))
            .map(|(key, _)| key)
            .filter(|key| test.accepts(&key.folded));
        self.page(found, user, page)
    }

    /// The films that the user tagged so. No tags, no films.
    pub fn find_tagged(
        &self,
        tags: Vec<String>,
        all: bool,
        user: &str,
        page: &PageRequest,
    ) -> Page<Tile> {
        if tags.is_empty() {
            return empty();
        }
        let query = Query {
            tags,
            all_tags: all,
            ..Query::default()
        };
        self.find(&query, Some(user), page)
    }

    /// The first `most` known films whose id, as hexadecimal digits of either case, begins so.
    pub fn ids_by_prefix(&self, prefix: &str, most: usize) -> Vec<MediaId> {
        let padded = |digit: char| {
            let digits = prefix.chars().chain(std::iter::repeat(digit));
            digits.take(64).collect::<String>().parse::<MediaId>()
        };
        if prefix.len() > 64 {
            return Vec::new();
        }
        let (Ok(first), Ok(last)) = (padded('0'), padded('f')) else {
            return Vec::new();
        };
        let films = self.films.range(first..=last);
        let known = films.filter(|(_, film)| film.key.is_some());
        known.take(most).map(|(id, _)| *id).collect()
    }

    fn with_tags(&self, user: Option<&str>, tags: &[String], all: bool) -> HashSet<MediaId> {
        let theirs = user.and_then(|user| self.tags.get(user));
        theirs.map_or_else(HashSet::new, |theirs| theirs.films(tags, all))
    }

    /// The first of the keys (which are in order) as a page.
    fn page<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Key>,
        user: Option<&str>,
        page: &PageRequest,
    ) -> Page<Tile> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut last: Option<&Key> = None;
        for key in keys {
            if let Some(last) = last
                && (items.len() == page.size() || bytes > PAGE_BYTES)
            {
                let next = Some(last.to_cursor());
                return Page { items, next };
            }
            let film = self.films.get(&key.id);
            if let Some(tile) = film.and_then(|film| self.tile(&key.id, film, user)) {
                bytes += weight(&tile);
                items.push(tile);
                last = Some(key);
            }
        }
        Page { items, next: None }
    }
}

/// The smallest `most` of the keys, in order.
fn smallest(mut keys: Vec<&Key>, most: usize) -> Vec<&Key> {
    if keys.len() > most {
        keys.select_nth_unstable(most);
        keys.truncate(most);
    }
    keys.sort_unstable();
    keys
}

fn weight(tile: &Tile) -> usize {
    let tags: usize = tile.tags.iter().map(|tag| tag.len() + 8).sum();
    let why = tile.unplayable.as_ref().map_or(0, String::len);
    TILE_BYTES + tile.name.len() + tags + why
}

fn empty() -> Page<Tile> {
    Page {
        items: Vec::new(),
        next: None,
    }
}
