//! What Tab offers: commands, options, films by id or name, tags, players.

use super::words::{Word, before_cursor, quote};
use crate::cli::line_command;
use crate::listed::Listed;
use crate::output::plain;
use std::collections::BTreeSet;

/// How many digits of an id are put into the line.
const ID_DIGITS: usize = 12;

/// What is known of the cluster, for completion.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Films, by name.
    pub films: Vec<Listed>,
    /// A film is selected, so that IDs may be left out.
    pub selected: bool,
}

/// Something that Tab offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// How it is listed.
    pub display: String,
    /// What it puts into the line.
    pub replacement: String,
}

impl Choice {
    fn plain(text: &str) -> Self {
        Self {
            display: text.to_owned(),
            replacement: text.to_owned(),
        }
    }

    fn word(text: &str) -> Self {
        Self {
            display: plain(text),
            replacement: quote(text),
        }
    }
}

/// What may follow a line up to the cursor, and from which byte on it would be replaced. What is
/// offered alone is a whole word.
pub fn complete(line: &str, known: &Known) -> (usize, Vec<Choice>) {
    let (start, mut choices) = offers(line, known);
    if let [only] = choices.as_mut_slice() {
        only.replacement.push(' ');
    }
    (start, choices)
}

fn offers(line: &str, known: &Known) -> (usize, Vec<Choice>) {
    let mut words = before_cursor(line);
    let Some(current) = words.pop() else {
        return (line.len(), Vec::new());
    };
    let root = line_command();
    let mut command = &root;
    let mut path = Vec::new();
    let mut given: Vec<&Word> = Vec::new();
    let mut value_of = None;
    for word in &words {
        if let Some(option) = option_with_value(command, &word.text) {
            value_of = Some(option);
        } else if value_of.take().is_some() || word.text.starts_with('-') {
            // An option, or the value of one: no word of the command itself.
        } else if path.is_empty() && given.is_empty() && word.text == "help" {
            // clap adds this one only when it parses.
            path.push("help");
        } else if let Some(below) = command.find_subcommand(&word.text) {
            command = below;
            path.push(below.get_name());
        } else {
            given.push(word);
        }
    }
    let typed = current.text.as_str();
    let texts = || given.iter().map(|word| word.text.as_str());
    let choices = match (value_of.as_deref(), path.as_slice()) {
        (Some("tag"), _) => tags(typed, known, None),
        (Some("player"), _) => starting(typed, crate::player::KNOWN.into_iter()),
        (Some(_), _) => Vec::new(),
        (None, _) if typed.starts_with('-') => options(typed, command),
        (None, []) if given.is_empty() => commands(typed, command),
        (None, ["help"]) if given.is_empty() => commands(typed, &root),
        (None, ["help", ..]) => commands(typed, command),
        (None, ["tag" | "user" | "session"]) if given.is_empty() => commands(typed, command),
        (None, ["show" | "play" | "url" | "sdp" | "select" | "rename"]) if given.is_empty() => {
            films(typed, known)
        }
        (None, ["tag", "add" | "remove"]) => {
            let film = texts().next();
            let mut choices = match film {
                None => films(typed, known),
                Some(_) => Vec::new(),
            };
            if film.is_some() || known.selected {
                choices.extend(tags(typed, known, film));
            }
            choices
        }
        (None, ["search"]) => {
            // A name of several words is completed from its first one on.
            let start = given.first().map_or(current.start, |word| word.start);
            let whole: Vec<&str> = texts().chain([typed]).collect();
            return (start, names(&whole.join(" "), known));
        }
        _ => Vec::new(),
    };
    (current.start, choices)
}

/// The long option a word is, if it takes a value that is the next word.
fn option_with_value(command: &clap::Command, word: &str) -> Option<String> {
    let name = word.strip_prefix("--")?;
    let option = command
        .get_arguments()
        .find(|option| option.get_long() == Some(name))?;
    option.get_action().takes_values().then(|| name.to_owned())
}

fn starting<'a>(typed: &str, texts: impl Iterator<Item = &'a str>) -> Vec<Choice> {
    texts
        .filter(|text| text.starts_with(typed))
        .map(Choice::plain)
        .collect()
}

fn commands(typed: &str, command: &clap::Command) -> Vec<Choice> {
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    let mut names: BTreeSet<&str> = below.map(clap::Command::get_name).collect();
    if command.get_name() == "iceflix" {
        names.insert("help");
    }
    starting(typed, names.into_iter())
}

fn options(typed: &str, command: &clap::Command) -> Vec<Choice> {
    let long = command.get_arguments().filter_map(clap::Arg::get_long);
    let mut names: BTreeSet<String> = long.map(|name| format!("--{name}")).collect();
    names.extend(["--json".to_owned(), "--help".to_owned()]);
    starting(typed, names.iter().map(String::as_str))
}

/// Films whose id begins so, or whose name has it.
fn films(typed: &str, known: &Known) -> Vec<Choice> {
    let lower = typed.to_lowercase();
    let found = known.films.iter().filter_map(|film| {
        let id = film.id.to_string();
        let fits = id.starts_with(&lower) || film.name.to_lowercase().contains(&lower);
        let short = &id[..ID_DIGITS.max(if id.starts_with(&lower) {
            lower.len()
        } else {
            0
        })];
        fits.then(|| Choice {
            display: format!("{short}  {}", plain(&film.name)),
            replacement: short.to_owned(),
        })
    });
    found.collect()
}

fn names(typed: &str, known: &Known) -> Vec<Choice> {
    let lower = typed.to_lowercase();
    let names = known.films.iter().map(|film| film.name.as_str());
    let fitting: BTreeSet<&str> = names
        .filter(|name| name.to_lowercase().starts_with(&lower))
        .collect();
    fitting.into_iter().map(Choice::word).collect()
}

/// The user's tags; those of one film if it is named by an id that is known.
fn tags(typed: &str, known: &Known, film: Option<&str>) -> Vec<Choice> {
    let of_film = |listed: &&Listed| {
        film.is_some_and(|id| id.len() > 1 && listed.id.to_string().starts_with(id))
    };
    let mut films: Vec<&Listed> = known.films.iter().filter(of_film).collect();
    if films.iter().all(|film| film.tags.is_empty()) {
        films = known.films.iter().collect();
    }
    let tags: BTreeSet<&str> = films
        .into_iter()
        .flat_map(|film| film.tags.iter().map(String::as_str))
        .filter(|tag| tag.starts_with(typed))
        .collect();
    tags.into_iter().map(Choice::word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iceflix_core::api::MediaId;
    use proptest::prelude::*;

    fn known() -> Known {
        let film = |byte: u8, name: &str, tags: &[&str]| Listed {
            id: MediaId::from_bytes([byte; 32]),
            name: name.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        Known {
            films: vec![
                film(0xab, "Big Buck Bunny", &["short", "to see"]),
                film(0xac, "Sintel", &["dragon"]),
            ],
            selected: false,
        }
    }

    fn offered(line: &str) -> Vec<String> {
        let (_, choices) = complete(line, &known());
        choices
            .into_iter()
            .map(|choice| choice.replacement.trim_end().to_owned())
            .collect()
    }

    #[test]
    fn commands_are_completed() {
        assert_eq!(offered("se"), ["search", "select", "session"]);
        assert_eq!(offered("--json stat"), ["status"]);
        assert!(offered("").contains(&"exit".to_owned()));
        assert_eq!(offered("user pa"), ["passwd"]);
        assert_eq!(offered("session "), ["end", "list"]);
        assert_eq!(complete("user pa", &known()).1[0].replacement, "passwd ");
        assert_eq!(offered("help sel"), ["select"]);
        assert_eq!(offered("search --ex"), ["--exact"]);
        assert!(offered("stop ").is_empty());
    }

    #[test]
    fn films_are_completed_by_id_and_by_name() {
        assert_eq!(offered("show ab"), ["ab".repeat(6)]);
        assert_eq!(offered("play bunny"), ["ab".repeat(6)]);
        assert_eq!(offered("url "), ["ab".repeat(6), "ac".repeat(6)]);
        assert_eq!(offered("play --player mpv sin"), ["ac".repeat(6)]);
        assert_eq!(offered("play --player m"), ["mpv"]);
        let long = "ab".repeat(10);
        assert_eq!(offered(&format!("show {long}")), [long]);
        assert!(offered("show ab more").is_empty());
    }

    #[test]
    fn names_and_tags_are_completed() {
        assert_eq!(offered("search big"), ["\"Big Buck Bunny\""]);
        let (start, choices) = complete("search big bu", &known());
        assert_eq!((start, choices.len()), (7, 1));
        assert_eq!(offered("search --tag "), ["dragon", "short", "\"to see\""]);
        assert_eq!(offered("tag remove abab "), ["short", "\"to see\""]);
        assert_eq!(offered("tag add acac s"), Vec::<String>::new());
        assert_eq!(offered("tag add 1 d"), ["dragon"]);
    }

    proptest! {
        #[test]
        fn no_line_upsets_completion(line in "(show|tag add|search|help)? ?.{0,20}") {
            let (start, _) = complete(&line, &known());
            prop_assert!(line.is_char_boundary(start));
        }
    }
}
