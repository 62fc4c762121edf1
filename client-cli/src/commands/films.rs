//! Finding, showing, tagging and naming films.

use super::Shell;
use crate::cli::{Film, Search, Tag};
use crate::error::{Error, LOG_IN};
use crate::listed::Listed;
use crate::output::{length, plain, say, size, table};
use iceflix_core::api::catalog::{Query, Tile, TileDetails};
use iceflix_core::api::{Instance, MediaId};
use serde::Serialize;

/// How many digits of an id a list shows at least: enough that another film's id hardly ever
/// begins so, in a catalogue of any size.
pub const SHORT_ID: usize = 10;

/// A film in `search --json`.
#[derive(Debug, Serialize)]
struct FilmRow<'a> {
    id: MediaId,
    name: &'a str,
    tags: &'a [String],
    duration_s: Option<f64>,
    providers: u32,
    available: bool,
}

impl<'a> From<&'a Tile> for FilmRow<'a> {
    fn from(tile: &'a Tile) -> Self {
        Self {
            id: tile.id,
            name: &tile.name,
            tags: &tile.tags,
            duration_s: tile.duration_s,
            providers: tile.providers,
            available: tile.available,
        }
    }
}

/// A film in `show --json`: as in a search, and more.
#[derive(Debug, Serialize)]
struct FilmDocument<'a> {
    #[serde(flatten)]
    film: FilmRow<'a>,
    unplayable: Option<&'a str>,
    format: &'a str,
    size: u64,
    nodes: Vec<NodeRow>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    instance: String,
    endpoint: String,
}

impl From<&Instance> for NodeRow {
    fn from(instance: &Instance) -> Self {
        Self {
            instance: instance.instance.to_string(),
            endpoint: instance.endpoint.to_string(),
        }
    }
}

impl<'a> From<&'a TileDetails> for FilmDocument<'a> {
    fn from(details: &'a TileDetails) -> Self {
        Self {
            film: FilmRow::from(&details.tile),
            unplayable: details.tile.unplayable.as_deref(),
            format: &details.format,
            size: details.size,
            nodes: details.providers.iter().map(NodeRow::from).collect(),
        }
    }
}

impl Shell {
    pub(super) async fn search(&mut self, search: Search) -> Result<(), Error> {
        let query = Query {
            name: search.text.join(" "),
            exact: search.exact,
            tags: search.tags,
            all_tags: search.all_tags,
        };
        let found = self.client()?.search(&query, search.limit).await?;
        if found.session_ended {
            say(&format!(
                "your session has ended, so no tags are shown; {LOG_IN}"
            ));
        }
        if found.tiles.is_empty() {
            say("no film matches");
        } else if let Some(memory) = &mut self.memory {
            // A search that found nothing leaves the last results selectable.
            memory.results = found.tiles.iter().map(Listed::from).collect();
        }
        let rows: Vec<FilmRow<'_>> = found.tiles.iter().map(FilmRow::from).collect();
        let numbered = self.memory.is_some();
        self.out.result(&rows, || match found.tiles.is_empty() {
            true => String::new(),
            false => films(&found.tiles, numbered, self.out.width),
        })
    }

    pub(super) async fn show(&mut self, film: &Film) -> Result<(), Error> {
        let id = self.film(film).await?;
        let details = self.client()?.tile(id).await?;
        self.out
            .result(&FilmDocument::from(&details), || describe(&details))
    }

    pub(super) async fn tag(&mut self, tag: &Tag) -> Result<(), Error> {
        let (Tag::Add(words) | Tag::Remove(words)) = tag;
        let client = self.client()?;
        let (id, tags) = self.film_and_tags(&words.words).await?;
        let tile = match tag {
            Tag::Add(_) => client.add_tags(id, tags).await?,
            Tag::Remove(_) => client.remove_tags(id, tags).await?,
        };
        for film in self.listed(id) {
            film.tags.clone_from(&tile.tags);
        }
        #[derive(Serialize)]
        struct Tagged<'a> {
            id: MediaId,
            tags: &'a [String],
        }
        let words = match tile.tags.is_empty() {
            true => format!("{} has no tags of yours", tile.name),
            false => format!("{} is tagged {}", tile.name, tile.tags.join(", ")),
        };
        let document = Tagged {
            id,
            tags: &tile.tags,
        };
        self.out.confirm(&document, &plain(&words))
    }

    pub(super) async fn rename(&mut self, words: &[String]) -> Result<(), Error> {
        let (id, name) = match words {
            [name] => (None, name),
            [id, name] => (Some(id.clone()), name),
            _ => return Err(super::quotes_wanted()),
        };
        let named = id.is_some();
        let id = match self.film(&Film { id }).await {
            // Of a selected film the whole line was meant to be the name.
            Err(error) if named && error.means_no_film() && self.selected().is_ok() => {
                return Err(super::quotes_wanted());
            }
            film => film?,
        };
        self.client()?.rename(id, name).await?;
        for film in self.listed(id) {
            film.name.clone_from(name);
        }
        #[derive(Serialize)]
        struct Renamed<'a> {
            id: MediaId,
            name: &'a str,
        }
        let words = format!("{} is now called {name}", &id.to_string()[..SHORT_ID]);
        self.out.confirm(&Renamed { id, name }, &plain(&words))
    }

    /// A film wherever the prompt remembers it.
    fn listed(&mut self, id: MediaId) -> impl Iterator<Item = &mut Listed> {
        let memory = self.memory.iter_mut();
        memory
            .flat_map(|memory| memory.results.iter_mut().chain(&mut memory.selected))
            .filter(move |film| film.id == id)
    }

    /// Makes a film the one that commands are about.
    pub async fn select(&mut self, film: &Film) -> Result<(), Error> {
        let id = self.film(film).await?;
        let known = self.memory.iter().flat_map(|memory| &memory.results);
        let listed = match known.into_iter().find(|listed| listed.id == id) {
            Some(listed) => listed.clone(),
            None => match self.client()?.tile(id).await {
                Ok(details) => Listed::from(&details.tile),
                // Without a session the name cannot be asked for by id.
                Err(error) if error.is_refusal() => Listed {
                    id,
                    name: id.to_string()[..SHORT_ID].to_owned(),
                    tags: Vec::new(),
                },
                Err(error) => return Err(error),
            },
        };
        say(&format!("selected {}", plain(&listed.name)));
        if let Some(memory) = &mut self.memory {
            memory.selected = Some(listed);
        }
        Ok(())
    }
}

/// Why a film cannot be played now; nothing when it can.
fn trouble(tile: &Tile) -> String {
    match &tile.unplayable {
        _ if tile.available => String::new(),
        Some(reason) => format!("cannot be played: {}", plain(reason)),
        None if tile.providers == 0 => "no live node has it".to_owned(),
        None => "not available".to_owned(),
    }
}

/// Films as a table, with ids as short as tells them apart.
fn films(tiles: &[Tile], numbered: bool, width: Option<usize>) -> String {
    let ids: Vec<String> = tiles.iter().map(|tile| tile.id.to_string()).collect();
    let digits = short_id(&ids);
    let mut rows = Vec::new();
    for (position, (tile, id)) in tiles.iter().zip(&ids).enumerate() {
        let mut row = vec![
            id[..digits].to_owned(),
            plain(&tile.name),
            length(tile.duration_s),
            tile.providers.to_string(),
            remarks(tile),
        ];
        if numbered {
            row.insert(0, (position + 1).to_string());
        }
        rows.push(row);
    }
    let header = ["#", "ID", "NAME", "LENGTH", "COPIES", "TAGS"];
    let (header, name) = match numbered {
        true => (&header[..], 2),
        false => (&header[1..], 1),
    };
    table(header, &rows, name, width)
}

/// What stands in a list's last column: why a film cannot be played, if so, and its tags.
fn remarks(tile: &Tile) -> String {
    let tags = plain(&tile.tags.join(", "));
    match (trouble(tile), tags.is_empty()) {
        (trouble, _) if trouble.is_empty() => tags,
        (trouble, true) => format!("({trouble})"),
        (trouble, false) => format!("({trouble}) {tags}"),
    }
}

/// How many digits tell all these ids apart, at least [`SHORT_ID`].
pub(super) fn short_id(ids: &[String]) -> usize {
    let mut sorted: Vec<&String> = ids.iter().collect();
    sorted.sort();
    let common = |pair: &[&String]| {
        let same = |(a, b): &(u8, u8)| a == b;
        pair[0]
            .bytes()
            .zip(pair[1].bytes())
            .take_while(same)
            .count()
    };
    let shared = sorted.windows(2).map(common).max().unwrap_or(0);
    let longest = ids.first().map_or(0, String::len);
    (shared + 1).max(SHORT_ID).min(longest)
}

fn describe(details: &TileDetails) -> String {
    let tile = &details.tile;
    let nodes: Vec<&str> = details
        .providers
        .iter()
        .map(|node| node.instance.as_str())
        .collect();
    let playable = match trouble(tile) {
        reason if reason.is_empty() => format!("on {}", nodes.join(", ")),
        reason => reason,
    };
    let row = |key: &str, value: String| format!("{key:<8}  {value}\n");
    let mut text = row("Name", plain(&tile.name));
    text += &row("ID", tile.id.to_string());
    text += &row("Length", length(tile.duration_s));
    if !details.format.is_empty() {
        text += &row("Format", plain(&details.format));
    }
    if details.size > 0 {
        text += &row("Size", size(details.size));
    }
    let tags = match tile.tags.is_empty() {
        true => "-".to_owned(),
        false => plain(&tile.tags.join(", ")),
    };
    text += &row("Tags", tags);
    text += &row("Copies", tile.providers.to_string());
    text + &row("Plays", playable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tile() -> Tile {
        Tile {
            id: MediaId::from_bytes([0xab; 32]),
            name: "Big Buck Bunny".into(),
            tags: vec!["short".into()],
            duration_s: Some(596.5),
            providers: 2,
            available: true,
            unplayable: None,
        }
    }

    #[test]
    fn a_film_row_has_what_scripts_expect() {
        let id = "ab".repeat(32);
        assert_eq!(
            serde_json::to_string(&FilmRow::from(&tile())).unwrap(),
            format!(
                r#"{{"id":"{id}","name":"Big Buck Bunny","tags":["short"],"duration_s":596.5,"providers":2,"available":true}}"#
            )
        );
        let mut unknown = tile();
        unknown.duration_s = None;
        let json = serde_json::to_value(FilmRow::from(&unknown)).unwrap();
        assert!(json["duration_s"].is_null());
    }

    #[test]
    fn a_shown_film_has_all_that_a_listed_one_has() {
        let details = TileDetails {
            tile: tile(),
            providers: Vec::new(),
            format: "MP4".into(),
            size: 3,
        };
        let shown = serde_json::to_value(FilmDocument::from(&details)).unwrap();
        let listed = serde_json::to_value(FilmRow::from(&details.tile)).unwrap();
        for (key, value) in listed.as_object().unwrap() {
            assert_eq!(&shown[key], value, "{key}");
        }
        assert_eq!(shown["nodes"], serde_json::json!([]));
        assert!(describe(&details).contains("Big Buck Bunny"));
    }

    #[test]
    fn films_that_cannot_be_played_say_why() {
        let mut odd = tile();
        odd.available = false;
        odd.unplayable = Some("no decoder\u{1b}[31m".into());
        let table = films(&[tile(), odd.clone()], true, None);
        assert!(
            table.contains("cannot be played: no decoder\u{fffd}"),
            "{table}"
        );
        odd.unplayable = None;
        odd.providers = 0;
        assert_eq!(trouble(&odd), "no live node has it");
    }

    proptest! {
        #[test]
        fn short_ids_tell_films_apart(ids in prop::collection::btree_set("[ab]{12}", 1..20)) {
            let ids: Vec<String> = ids.into_iter().collect();
            let digits = short_id(&ids);
            let short: BTreeSet<&str> = ids.iter().map(|id| &id[..digits]).collect();
            prop_assert_eq!(short.len(), ids.len());
        }
    }
}
